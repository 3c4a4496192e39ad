"""From names, directories and objects to models; and what is said of damaged ones."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys

import pytest
import torch
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

import assay.models as models
from assay.errors import BadInput, DamagedFile, MissingFile, Unavailable, UnknownName
from assay.models import embedded, loading


@pytest.fixture
def directory(build, tokenizer, tmp_path):
    """A model and tokenizer as Hugging Face writes them."""
    here = tmp_path / "model"
    build("llama", torch.bfloat16).save_pretrained(here)
    tokenizer.save_pretrained(here)
    return here


def test_a_directory(directory, tokens):
    model = models.load(directory)
    assert model.dtype == torch.bfloat16
    assert model.name == str(directory)
    assert model.tokenizer("abc")["input_ids"] == [3, 4, 5]
    assert models.load(str(directory)).fingerprint == model.fingerprint
    assert torch.equal(models.load(str(directory)).run(tokens).logits, model.run(tokens).logits)


def test_dtype_is_part_of_the_fingerprint_and_the_path_is_not(directory, tmp_path):
    one = models.load(directory)
    other = models.load(directory, dtype="float32", device="cpu")
    assert other.dtype == torch.float32
    assert one.fingerprint != other.fingerprint
    directory.rename(tmp_path / "elsewhere")
    config = tmp_path / "elsewhere" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "transformers_version": "9.9.9"}))
    assert models.load(tmp_path / "elsewhere").fingerprint == one.fingerprint
    with pytest.raises(UnknownName, match="Did you mean 'bfloat16'"):
        models.load(tmp_path / "elsewhere", dtype="bfloat61")


def test_sharded_weights(build, tokenizer, tmp_path, tokens):
    raw = build("gpt2")
    raw.save_pretrained(tmp_path / "m", max_shard_size="60KB")
    tokenizer.save_pretrained(tmp_path / "m")
    assert len(list((tmp_path / "m").glob("*.safetensors"))) > 1
    model = models.load(tmp_path / "m")
    assert torch.equal(model.run(tokens).logits, models.load(raw).run(tokens).logits)
    shard = max((tmp_path / "m").glob("*.safetensors"))
    shard.unlink()
    with pytest.raises(MissingFile, match=shard.name):
        models.load(tmp_path / "m")


def test_an_object_in_memory(build, tokenizer, tokens):
    raw = build("gpt2")
    model = models.load(raw, tokenizer=tokenizer)
    assert model.module is raw
    assert model.tokenizer is tokenizer
    assert model.dtype == torch.float32
    assert models.load(raw, dtype="bfloat16").dtype == torch.bfloat16


def test_the_tokenizer_may_come_from_elsewhere(directory, tmp_path, tokenizer):
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (directory / name).unlink(missing_ok=True)
    with pytest.raises(MissingFile, match="holds no tokenizer"):
        models.load(directory)
    assert models.load(directory, tokenizer=tokenizer).tokenizer is tokenizer
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    assert models.load(directory, tokenizer=str(tmp_path / "tokenizer")).tokenizer("ba")["input_ids"] == [4, 3]


def test_short_names_go_to_the_embedded_models(directory, monkeypatch):
    asked = []

    def fake(name, accept_terms=False, progress=None):
        asked.append((name, accept_terms))
        return directory

    monkeypatch.setattr(embedded, "directory", fake)
    assert models.load("smollm2").name == "smollm2"
    assert models.load("gemma3-270m", accept_terms=True).name == "gemma3-270m"
    assert asked == [("smollm2", False), ("gemma3-270m", True)]


def test_misspelt_names_and_wrong_paths(tmp_path):
    with pytest.raises(UnknownName, match=r"Did you mean 'smollm2'.*has a slash"):
        models.load("smolm2")
    for ref in (tmp_path / "none", str(tmp_path / "none"), "./none", "~/none/at/all", "a/b/c"):
        with pytest.raises(MissingFile, match="does not exist"):
            models.load(ref)
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadInput, match="is a file"):
        models.load(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingFile, match=r"no config\.json"):
        models.load(tmp_path / "empty")


def test_a_hub_name_without_the_hub_says_what_works():
    with pytest.raises(Unavailable, match=r"cannot be reached.*local directory.*tiny, smollm2, gemma3-270m"):
        models.load("someone/something")


@pytest.mark.parametrize(
    ("cause", "error", "advice"),
    [
        (GatedRepoError, Unavailable, "HF_TOKEN"),
        (RepositoryNotFoundError, UnknownName, "no model"),
        (TimeoutError, Unavailable, "reached"),
    ],
)
def test_what_the_hub_answers_is_told_apart(monkeypatch, cause, error, advice):
    def answer(*_, **__):
        raise OSError("long text") from cause.__new__(cause)

    monkeypatch.setattr(loading.AutoConfig, "from_pretrained", answer)
    with pytest.raises(error, match=advice):
        models.load("someone/something")


def test_missing_pickled_and_truncated_weights(directory):
    weights = directory / "model.safetensors"
    data = weights.read_bytes()
    for cut in (len(data) - 100, len(data) // 2, 4, 0):
        weights.write_bytes(data[:cut])
        with pytest.raises(DamagedFile, match="truncated or damaged"):
            models.load(directory)
    weights.unlink()
    with pytest.raises(MissingFile, match=r"no model\.safetensors\. Fetch"):
        models.load(directory)

    class Trap:
        def __reduce__(self):
            return (open, (str(directory / "sprung"), "w"))

    (directory / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(MissingFile, match=r"pytorch_model\.bin, which Assay does not unpickle"):
        models.load(directory)
    assert not (directory / "sprung").exists()


def test_weights_that_do_not_fit_the_configuration(directory):
    config = directory / "config.json"
    kept = json.loads(config.read_text())
    for change in ({"num_hidden_layers": 4}, {"intermediate_size": 50}):
        config.write_text(json.dumps({**kept, **change}))
        with pytest.raises(DamagedFile, match=r"lack|do not fit"):
            models.load(directory)


def test_configurations_that_cannot_be_used(directory):
    config = directory / "config.json"
    kept = json.loads(config.read_text())
    config.write_text("{not json")
    with pytest.raises(DamagedFile, match="is not JSON"):
        models.load(directory)
    config.write_text(json.dumps({**kept, "model_type": "imaginary"}))
    with pytest.raises(BadInput, match="imaginary"):
        models.load(directory)
    config.write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(BadInput, match="no causal language model"):
        models.load(directory)
    trap = directory / "modeling_trap.py"
    trap.write_text(f"open({str(directory / 'sprung')!r}, 'w')\nclass C: ...\n")
    config.write_text(json.dumps({**kept, "model_type": "imaginary", "auto_map": {"AutoConfig": "modeling_trap.C"}}))
    with pytest.raises(BadInput):
        models.load(directory)
    assert not (directory / "sprung").exists()


def test_importing_the_package_imports_no_torch():
    code = "import sys, assay.models; assert 'torch' not in sys.modules and 'transformers' not in sys.modules; print(assay.models.Site)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "assay.models.base.Site" in out.stdout
    with pytest.raises(AttributeError, match="nothing"):
        models.nothing  # noqa: B018
