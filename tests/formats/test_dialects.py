"""Every dialect: what it says, what of ours it can hold, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import assay
from assay import formats
from assay.errors import BadInput, DamagedFile, MissingFile, NotFinite, UnknownName
from assay.formats import building
from tests.formats import dialects
from tests.formats.dialects import (
    LENGTH,
    OURS,
    REFUSED,
    K,
    X,
    circuit_tracer,
    codes,
    gemma_scope,
    gemma_scope_2,
    llama_scope,
    openai,
    ours,
    qwen_scope,
    weights,
)  # fmt: skip

WRITTEN = [(name, kind) for name, refused in REFUSED.items() for kind in OURS if kind not in refused]
ABOUT = {
    "model": {"name": "EleutherAI/pythia-70m-deduped"},
    "site": "resid_post.3",
    "packing": {"context": 128, "bos": "always"},
}
SAELENS, DICTIONARY, SPARSIFY = "sae_weights.safetensors", "ae.pt", "sae.safetensors"


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


RESIZED = {
    ("saelens", "topk_free"), ("sparsify", "topk_free"), ("dictionary_learning", "topk_free"), ("dictionary_learning", "batch_topk_free"),
    ("dictionary_learning", "relu_free"), ("e2e_sae", "relu_free"),
}  # fmt: skip
"""Where free decoder rows cannot be kept, which makes their latents other numbers, and is said."""


@pytest.mark.parametrize(("name", "kind"), WRITTEN)
def test_what_is_written_is_the_same_function(name, kind, tmp_path):
    coder = ours(kind)
    lost = formats.write(coder, tmp_path / "layers.3", name, ABOUT)
    again = formats.load(tmp_path / "layers.3")
    z, x_hat = codes(again)
    torch.testing.assert_close(x_hat, codes(coder)[1], rtol=1e-5, atol=3e-6)
    resized = any("the size of latents" in line for line in lost)
    by = coder.W_dec.norm(dim=1) if resized else 1.0
    torch.testing.assert_close(z, codes(coder)[0] * by, rtol=1e-5, atol=3e-6)
    assert torch.equal(z > 0, codes(coder)[0] > 0)
    assert resized == ("free" in kind and (name, kind) in RESIZED)


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, refused in REFUSED.items() for kind in sorted(refused)])
def test_what_a_dialect_has_no_form_for_is_refused(name, kind, tmp_path):
    with pytest.raises(BadInput, match=r"xport|convert|Gemma|sparsify"):
        formats.write(ours(kind), tmp_path, name)
    assert not list(tmp_path.iterdir())


def test_baselines_are_ours_alone(tmp_path):
    coder = assay.new("random", d_in=6, d_sae=12)
    for name in REFUSED:
        with pytest.raises(BadInput, match="Random has no counterpart"):
            formats.write(coder, tmp_path, name)


@pytest.mark.parametrize("name", ["saelens", "dictionary_learning"])
def test_model_site_and_text_go_and_come(name, tmp_path):
    formats.write(ours("batch_topk"), tmp_path, name, ABOUT | {"text": {"corpus": "fables", "context": 128, "bos": "auto"}})
    about = formats.read(tmp_path)[1]
    assert about["model"] == ABOUT["model"]
    assert about["site"] == "resid_post.3"
    assert about["packing"]["context"] == 128
    assert "text" not in about  # nobody here can tell which of its documents were held out


@pytest.mark.parametrize(
    ("said", "written"),
    [
        ({"packing": {"bos": "always"}}, True), ({"packing": {"bos": "never"}, "starts_with_bos": True}, False),
        ({"text": {"bos": "auto"}, "starts_with_bos": True}, True), ({"text": {"bos": "auto"}, "starts_with_bos": False}, False),
        ({"text": {"bos": "auto"}}, None), ({}, None),
    ],
)  # fmt: skip
def test_saelens_is_told_what_is_known_of_bos_and_nothing_else(said, written, tmp_path):
    """bos=auto is the tokenizer's habit, which may be none: told as a yes, it came back as bos=always."""
    lost = formats.write(ours("topk"), tmp_path, "saelens", said)
    assert json.loads((tmp_path / "cfg.json").read_text())["metadata"].get("prepend_bos") is written
    assert formats.read(tmp_path)[1].get("packing", {}).get("bos") == {True: "always", False: "never", None: None}[written]
    assert [line for line in lost if "BOS" in line] == lost
    assert bool(lost) == (written is None and "text" in said)


def test_unit_rows_of_e2e_sae_stay_as_they_are(tmp_path):
    """Rows that were divided by their length once are not so again, each time a file is read."""
    first = formats.read(dialects.e2e_sae(tmp_path / "theirs"))[0]
    for turn in range(3):
        formats.write(first, tmp_path / str(turn), "e2e_sae", ABOUT)
        again = formats.load(tmp_path / str(turn))
        assert all(torch.equal(value, again.state_dict()[name]) for name, value in first.state_dict().items())


def test_the_form_of_a_crosscoder_does_not_pass_for_a_coder_of_one_site(tmp_path):
    coder, about = formats.read(dialects.crosscoder(tmp_path), scale=(0.5, 2.0))
    with pytest.raises(BadInput, match="nobody knows this one's"):
        formats.write(coder.folded(), tmp_path / "out", "e2e_sae", about)
    lost = formats.write(coder.folded(), tmp_path / "known", "e2e_sae", {"site": "resid_post.3"})
    by = coder.folded().W_dec.detach().norm(dim=1)
    assert f"({float(by.min()):.3g} to {float(by.max()):.3g})" in lost[0]
    torch.testing.assert_close(codes(formats.load(tmp_path / "known"))[0], codes(coder)[0] * by, rtol=1e-5, atol=1e-5)


def test_architectures_come_back_where_a_dialect_has_them(tmp_path):
    for kind in ("topk", "batch_topk", "matryoshka", "gated", "jumprelu", "relu"):
        formats.write(ours(kind), tmp_path / kind, "dictionary_learning")
        twin = formats.load(tmp_path / kind)
        assert type(twin) is type(ours(kind))
        assert getattr(twin.config, "k", None) == getattr(ours(kind).config, "k", None)
    assert formats.load(tmp_path / "matryoshka").config.fractions == "4/16,8/16,1"


# --- Gemma Scope and OpenAI, by their documented layouts -----------------------------------------------------------------------


def test_gemma_scope(tmp_path):
    path, w = gemma_scope(tmp_path), weights()
    coder, about = formats.read(path)
    pre = X @ w["W_enc"] + w["b_enc"]
    z = pre.relu() * (pre > w["threshold"])
    torch.testing.assert_close(codes(coder), (z, z @ w["W_dec"] + w["b_dec"]), rtol=1e-5, atol=1e-6)
    assert about["model"] == {"name": "google/gemma-2-2b"}
    assert about["site"] == "resid_post.12"
    assert about["packing"] == {"context": 1024, "bos": "always"}
    formats.write(coder, tmp_path / "again", "gemma_scope")
    for name, value in formats.dialect("gemma_scope").read(tmp_path / "again", None).plain.to(torch.float32).items():  # type: ignore[arg-type]
        if name == "threshold":
            torch.testing.assert_close(value, w[name], rtol=2e-6, atol=0)  # kept as its logarithm
        else:
            assert torch.equal(value, w[name]), name
    transcoder = tmp_path / "gemma-scope-2b-pt-transcoders/layer_12/width_16k/average_l0_6"
    transcoder.parent.mkdir(parents=True)
    path.rename(transcoder)
    coder, about = formats.read(transcoder)
    assert type(coder).__name__ == "Transcoder"
    assert about["said"]["predicts"] == "mlp_out.12"


def test_gemma_scope_of_the_embedding(tmp_path):
    path = gemma_scope(tmp_path)
    embedding = tmp_path / "gemma-scope-2b-pt-res/embedding/width_4k/average_l0_21"
    embedding.parent.mkdir(parents=True)
    path.rename(embedding)
    coder = formats.load(embedding)
    torch.testing.assert_close(coder.W_enc.detach(), weights()["W_enc"] / 6**0.5)
    torch.testing.assert_close(coder.W_dec.detach(), weights()["W_dec"] * 6**0.5)


def test_openai(tmp_path):
    w = weights()
    coder, about = formats.read(openai(tmp_path))
    centred = X - X.mean(-1, keepdim=True)
    std = centred.std(-1, keepdim=True)
    pre = (centred / (std + 1e-5) - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    top = pre.topk(K)
    z = torch.zeros_like(pre).scatter(-1, top.indices, top.values.relu())
    x_hat = (z @ w["W_dec"] + w["b_dec"]) * std + X.mean(-1, keepdim=True)
    torch.testing.assert_close(codes(coder), (z, x_hat), rtol=1e-5, atol=2e-6)
    assert about["model"] == {"name": "openai-community/gpt2"}
    assert about["site"] == "resid_post.8"
    relu = formats.load(openai(tmp_path / "v4", "ReLU"))
    z = ((X - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
    torch.testing.assert_close(codes(relu), (z, z @ w["W_dec"] + w["b_dec"]), rtol=1e-5, atol=1e-6)
    for one in (coder, relu):
        kept, said = building.plain(one), tmp_path / type(one).__name__
        formats.write(one, said, "openai", about)
        again = building.plain(formats.load(said / "8.pt"))
        assert all(torch.equal(value, kept.to(torch.float32)[name]) for name, value in again.to(torch.float32).items())


# --- Gemma Scope 2, Qwen Scope and Llama Scope ---------------------------------------------------------------------------------


def jumprelu(w, x):
    pre = x @ w["W_enc"] + w["b_enc"]
    z = pre.relu() * (pre > w["threshold"])
    return z, z @ w["W_dec"] + w["b_dec"]


def test_gemma_scope_2(tmp_path):
    path, w = gemma_scope_2(tmp_path), weights()
    coder, about = formats.read(path)
    torch.testing.assert_close(codes(coder), jumprelu(w, X), rtol=1e-5, atol=1e-6)
    assert (about["model"], about["site"]) == ({"name": "google/gemma-3-270m"}, "resid_post.7")
    formats.write(coder, tmp_path / "again", "gemma_scope_2", about)
    written = load_file(tmp_path / "again/params.safetensors")
    for name, value in load_file(path / "params.safetensors").items():
        torch.testing.assert_close(written[name], value, rtol=2e-6 if name == "threshold" else 0, atol=0)
    assert formats.read(tmp_path / "again")[1]["site"] == "resid_post.7"


def test_gemma_scope_2_transcoders(tmp_path):
    path = gemma_scope_2(tmp_path, "model.layers.7.pre_feedforward_layernorm.output", affine=True)
    coder, about = formats.read(path)
    z, x_hat = jumprelu(weights(), X)
    x_hat = x_hat + X @ load_file(path / "params.safetensors")["affine_skip_connection"]
    torch.testing.assert_close(codes(coder), (z, x_hat), rtol=1e-5, atol=3e-6)
    assert (about["said"]["reads"], about["said"]["predicts"]) == ("mlp_in.7", "mlp_out.7")
    tensors = load_file(path / "params.safetensors")
    save_file(tensors | {"w_dec": tensors["w_dec"][:, None].repeat(1, 4, 1)}, path / "params.safetensors")
    with pytest.raises(BadInput, match="a layer of a cross-layer transcoder"):
        formats.load(path)


def test_qwen_scope(tmp_path):
    path, w = qwen_scope(tmp_path), weights()
    with pytest.raises(BadInput, match="--k"):
        formats.load(path)
    coder, about = formats.read(path, k=K)
    pre = X @ w["W_enc"] + w["b_enc"]
    top = pre.topk(K)
    z = torch.zeros_like(pre).scatter(-1, top.indices, top.values.relu())
    torch.testing.assert_close(codes(coder), (z, z @ w["W_dec"] + w["b_dec"]), rtol=1e-5, atol=2e-6)
    assert about["site"] == "resid_post.12"
    assert "model" not in about
    with pytest.raises(DamagedFile, match="its release has 32768 latents, the file 16"):
        formats.load(qwen_scope(tmp_path, "SAE-Res-Qwen3-1.7B-Base-W32K-L0_3"))
    with pytest.raises(BadInput, match="read, but not written"):
        formats.write(coder, tmp_path, "qwen_scope")


def test_llama_scope(tmp_path):
    coder, about = formats.read(llama_scope(tmp_path))
    scale = 6**0.5 / LENGTH
    w = {name: value.bfloat16().float() for name, value in weights().items()} | {"threshold": torch.tensor(0.25 * scale)}
    z, x_hat = jumprelu(w, X * scale)
    torch.testing.assert_close(codes(coder), (z, x_hat / scale), rtol=1e-5, atol=2e-6)
    assert (about["model"], about["site"]) == ({"name": "meta-llama/Llama-3.1-8B"}, "resid_post.15")
    with pytest.raises(BadInput, match="leave scale out"):
        formats.load(tmp_path / "Llama3_1-8B-Base-L15R-8x", scale=2.0)


def test_llama_scope_of_free_rows(tmp_path):
    """Where training weighed latents with lengths of decoder rows, thresholds are of latents times these."""
    path = llama_scope(tmp_path)
    edit(path / "hyperparams.json", sparsity_include_decoder_norm=True)
    scale, norms = 6**0.5 / LENGTH, weights()["W_dec"].bfloat16().float().norm(dim=1)
    w = {name: value.bfloat16().float() for name, value in weights().items()}
    w = {"W_enc": w["W_enc"] * norms, "b_enc": w["b_enc"] * norms, "W_dec": w["W_dec"] / norms[:, None], "b_dec": w["b_dec"]}
    z, x_hat = jumprelu(w | {"threshold": torch.tensor(0.25 * scale)}, X * scale)
    torch.testing.assert_close(codes(formats.load(path)), (z, x_hat / scale), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("gate", ["relu", "jumprelu", "topk"])
def test_circuit_tracer(gate, tmp_path):
    coder, about = formats.read(circuit_tracer(tmp_path / "a", gate))
    w, skip = weights(), load_file(tmp_path / "a/layer_4.safetensors")["W_skip"]
    pre = X @ w["W_enc"] + w["b_enc"]
    top = pre.topk(K)
    z = {
        "relu": pre.relu(), "jumprelu": pre * (pre > w["threshold"]),
        "topk": torch.zeros_like(pre).scatter(-1, top.indices, top.values.relu()),
    }[gate]  # fmt: skip
    torch.testing.assert_close(codes(coder), (z, z @ w["W_dec"] + w["b_dec"] + X @ skip.T), rtol=1e-5, atol=3e-6)
    assert about["model"] == {"name": "google/gemma-2-2b"}
    assert (about["said"]["reads"], about["said"]["predicts"]) == ("mlp_in.4", "mlp_out.4")
    if gate == "topk":
        with pytest.raises(BadInput, match="loader knows ReLU and JumpReLU alone"):
            formats.write(coder, tmp_path / "b", "circuit_tracer", about)
        return
    formats.write(coder, tmp_path / "b", "circuit_tracer", about)
    theirs, again = (load_file(tmp_path / name / "layer_4.safetensors") for name in "ab")
    for name, value in theirs.items():
        torch.testing.assert_close(again[name], value, rtol=2e-6 if "threshold" in name else 0, atol=0)
    assert formats.read(tmp_path / "b")[1]["said"] == about["said"]


# --- Faults --------------------------------------------------------------------------------------------------------------------


def test_nothing_known_is_said(tmp_path):
    (tmp_path / "readme.txt").write_text("no coder")
    with pytest.raises(BadInput, match=r"no known format \(readme.txt\)"):
        formats.load(tmp_path)
    with pytest.raises(MissingFile):
        formats.load(tmp_path / "nowhere")
    with pytest.raises(UnknownName, match="Did you mean 'saelens'"):
        formats.write(ours("topk"), tmp_path, "saelense")
    formats.write(ours("topk"), tmp_path, "saelens")
    formats.write(ours("topk"), tmp_path, "sparsify")
    with pytest.raises(BadInput, match="saelens, sparsify"):
        formats.load(tmp_path)
    assert formats.load(tmp_path, "sparsify").config.k == K


def test_configuration_and_tensors_must_agree(tmp_path):
    formats.write(ours("topk"), tmp_path, "saelens")
    edit(tmp_path / "cfg.json", d_sae=99)
    with pytest.raises(DamagedFile, match="d_sae is 99, but the tensors have 16"):
        formats.load(tmp_path)
    edit(tmp_path / "cfg.json", d_sae=16, k=17)
    with pytest.raises(DamagedFile, match="k must lie between 1 and the 16 latents, got 17"):
        formats.load(tmp_path)
    edit(tmp_path / "cfg.json", k="three")
    with pytest.raises(DamagedFile, match="k must be a whole number, got a str"):
        formats.load(tmp_path)
    edit(tmp_path / "cfg.json", k=3, architecture="temporal")
    with pytest.raises(BadInput, match="'temporal' has no counterpart"):
        formats.load(tmp_path)
    edit(tmp_path / "cfg.json", architecture="topk")
    tensors = load_file(tmp_path / SAELENS)
    save_file({k: v for k, v in tensors.items() if k != "b_enc"}, tmp_path / SAELENS)
    with pytest.raises(DamagedFile, match="lacks b_enc; it holds W_dec, W_enc, b_dec"):
        formats.load(tmp_path)
    save_file(tensors | {"b_enc": torch.full((16,), float("nan"))}, tmp_path / SAELENS)
    with pytest.raises(NotFinite, match="b_enc holds NaN"):
        formats.load(tmp_path)


def test_a_scale_that_the_file_leaves_open_is_asked_for(tmp_path):
    formats.write(ours("topk"), tmp_path, "saelens")
    edit(tmp_path / "cfg.json", normalize_activations="expected_average_only_in")
    with pytest.raises(BadInput, match="--scale"):
        formats.load(tmp_path)
    z, x_hat = codes(formats.load(tmp_path, scale=2.0))
    want = codes(ours("topk"), X * 2)
    torch.testing.assert_close(z, want[0], rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(x_hat, want[1] / 2, rtol=1e-5, atol=2e-6)


def test_a_threshold_never_estimated_is_told(tmp_path):
    formats.write(ours("batch_topk"), tmp_path, "dictionary_learning")
    state = torch.load(tmp_path / DICTIONARY)
    torch.save(state | {"threshold": torch.tensor(-1.0)}, tmp_path / DICTIONARY)
    coder, about = formats.read(tmp_path)
    assert "never estimated" in about["imported"]["notes"][0]
    pre = (X - coder.b_dec) @ coder.W_enc + coder.b_enc
    torch.testing.assert_close(codes(coder)[0], pre.relu().detach(), rtol=1e-5, atol=1e-6)


def test_a_backup_of_a_training_is_read(tmp_path):
    formats.write(ours("topk"), tmp_path, "dictionary_learning")
    state = torch.load(tmp_path / DICTIONARY)
    torch.save({"step": 5, "ae": state, "optimizer": {}, "config": {}, "norm_factor": None}, tmp_path / DICTIONARY)
    assert torch.equal(codes(formats.load(tmp_path))[0], codes(ours("topk"))[0])


def test_sparsify_names_model_and_place_by_its_directories(tmp_path):
    run = tmp_path / "run"
    formats.write(ours("topk"), run / "layers.3", "sparsify")
    assert formats.read(run / "layers.3")[1]["said"] == {"reads": "layers.3"}
    (run / "config.json").write_text(
        json.dumps({"model": "EleutherAI/pythia-70m", "ctx_len": 2048, "sae": {}, "dataset": "a/b"})
    )
    about = formats.read(run / "layers.3")[1]
    assert about["model"] == {"name": "EleutherAI/pythia-70m"}
    assert about["site"] == "resid_post.3"
    assert about["said"]["corpus"] == "a/b"
    formats.write(ours("transcoder"), run / "layers.3.mlp", "sparsify")
    said = formats.read(run / "layers.3.mlp")[1]
    assert (said["said"]["reads"], said["said"]["predicts"]) == ("mlp_in.3", "mlp_out.3")
    assert "site" not in said


def test_half_precision_is_kept(tmp_path):
    formats.write(ours("topk"), tmp_path / "a", "saelens", ABOUT, torch.bfloat16)
    coder, about = formats.read(tmp_path / "a")
    formats.write(coder, tmp_path / "b", "saelens", about)
    a, b = (load_file(tmp_path / name / SAELENS) for name in "ab")
    assert all(v.dtype == torch.bfloat16 and torch.equal(v, b[k]) for k, v in a.items())
    assert coder.W_dec.dtype == torch.float32


def test_the_face_opens_what_it_is_given(tmp_path):
    formats.write(ours("topk"), tmp_path / "a", "saelens")
    assert torch.equal(codes(assay.load(tmp_path / "a"))[0], codes(ours("topk"))[0])
    assert torch.equal(
        codes(assay.load(openai(tmp_path)))[0],
        codes(formats.load(tmp_path / "gpt2-small/resid_post_mlp_v5_32k/autoencoders"))[0],
    )
    assay.save(ours("topk"), tmp_path / "b")
    assert formats.detect(tmp_path / "b") == "native"
