"""Dialects of single papers and groups: e2e_sae, crosscoder, Bussmann, Llama Scope R1, cross-layer transcoders; rare types of SAELens."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import assay
from assay import formats
from assay.coders.crosscoder import Crosscoder
from assay.errors import BadInput, DamagedFile
from tests.formats.dialects import (
    LENGTH,
    D,
    K,
    S,
    X,
    bussmann,
    circuit_tracer_clt,
    codes,
    crosscoder,
    e2e_sae,
    llama_scope_r1,
    ours,
    weights,
)

CLOSE = {"rtol": 1e-5, "atol": 2e-6}


def edit(path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def same_files(one, other, *names, but=()) -> None:
    """Tensors of two state dicts are the same to the bit."""
    first, second = (torch.load(path / name) for path, name in zip((one, other), names * 2))
    assert first.keys() == second.keys()
    for name, value in first.items():
        if name in but:
            torch.testing.assert_close(second[name], value, rtol=2e-6, atol=0)
        else:
            assert torch.equal(second[name], value), name


# --- e2e_sae -------------------------------------------------------------------------------------------------------------------


def test_e2e_sae(tmp_path):
    w, path = weights(), e2e_sae(tmp_path / "run")
    (path / "samples_90000.pt").write_bytes(b"of an earlier time")
    coder, about = formats.read(path)
    rows = torch.nn.functional.normalize(w["W_dec"], dim=1)
    z = (X @ w["W_enc"] + w["b_enc"]).relu()
    torch.testing.assert_close(codes(coder), (z, z @ rows + w["b_dec"]), **CLOSE)
    assert (about["model"], about["site"]) == ({"name": "openai-community/gpt2"}, "resid_post.6")
    assert "samples_400000.pt" in about["imported"]["files"], "the longest training is meant"
    formats.write(coder, tmp_path / "again", "e2e_sae", about)
    formats.write(formats.load(tmp_path / "again"), tmp_path / "third", "e2e_sae", about)
    same_files(tmp_path / "again", tmp_path / "third", "samples_0.pt", but=("blocks-6-hook_resid_post.decoder.weight",))
    text = (tmp_path / "again/final_config.yaml").read_text()
    ratio = float(text.split("dict_size_to_input_ratio: ")[1].split()[0])
    assert int(ratio * D) == S, "its loader would build another width"


def test_e2e_sae_of_several_places(tmp_path):
    path = e2e_sae(tmp_path, ("blocks.2.hook_resid_post", "blocks.6.hook_resid_post", "blocks.26.hook_resid_post"))
    with pytest.raises(BadInput, match=r"blocks\.2\.hook_resid_post, blocks\.6.*layer="):
        formats.load(path)
    coder, about = formats.read(path, layer=6)
    assert about["site"] == "resid_post.6"
    assert torch.equal(coder.W_enc.detach(), weights()["W_enc"] * 2)


def test_e2e_sae_needs_a_place(tmp_path):
    with pytest.raises(BadInput, match="--site"):
        formats.write(ours("relu"), tmp_path, "e2e_sae")


# --- Crosscoders ---------------------------------------------------------------------------------------------------------------


def crossed(w, x, scale=(1.0, 1.0)):
    """Its formula, model by model."""
    parts, W_enc, W_dec = x.reshape(-1, 2, 3), w["W_enc"].reshape(2, 3, S), w["W_dec"].reshape(S, 2, 3)
    pre = sum(parts[:, m] * scale[m] @ W_enc[m] for m in range(2)) + w["b_enc"]
    z = pre.relu()
    return z, torch.cat([(z @ W_dec[:, m] + w["b_dec"].reshape(2, 3)[m]) / scale[m] for m in range(2)], dim=1)


def test_crosscoder(tmp_path):
    path = crosscoder(tmp_path)
    coder, about = formats.read(path)
    assert isinstance(coder, Crosscoder)
    torch.testing.assert_close(codes(coder), crossed(weights(), X), **CLOSE)
    assert "one a model" in about["imported"]["notes"][0]
    assert "site" not in about, "the site of one model is not what it reads"
    formats.write(coder, tmp_path / "again", "crosscoder", about)
    same_files(path, tmp_path / "again", "cc_weights.pt")
    assert formats.read(tmp_path / "again")[1]["said"] == about["said"]
    torch.testing.assert_close(codes(coder.site(1))[1], codes(coder)[1][:, 3:], **CLOSE)


def test_a_crosscoders_scales(tmp_path):
    path = crosscoder(tmp_path)
    coder, about = formats.read(path, scale=(0.5, 4.0))
    torch.testing.assert_close(codes(coder), crossed(weights(), X, (0.5, 4.0)), **CLOSE)
    assert about["imported"]["scale"] == (0.5, 4.0)
    assert not about["imported"]["notes"]
    torch.testing.assert_close(codes(formats.load(path, scale=2.0)), crossed(weights(), X, (2.0, 2.0)), **CLOSE)
    with pytest.raises(BadInput, match="3 scales were said for 2 sites"):
        formats.load(path, scale=(1.0, 2.0, 3.0))


def test_a_crosscoder_as_its_training_leaves_it(tmp_path):
    path = crosscoder(tmp_path)
    (path / "cc_weights.pt").rename(path / "7.pt")
    (path / "cfg.json").rename(path / "7_cfg.json")
    torch.testing.assert_close(codes(formats.load(path / "7.pt")), crossed(weights(), X), **CLOSE)
    state = torch.load(path / "7.pt")
    torch.save(state | {"W_dec": state["W_dec"].transpose(0, 1)}, path / "7.pt")
    with pytest.raises(DamagedFile, match=r"W_dec has shape \(2, 16, 3\); \(16, 2, 3\) fits"):
        formats.load(path / "7.pt")


# --- Bussmann ------------------------------------------------------------------------------------------------------------------


def bussmann_codes(kind, w, x, unit=False):
    """Its formulas. What is chosen among a batch is chosen by the threshold."""
    mean, std = (x.mean(-1, keepdim=True), x.std(-1, keepdim=True)) if unit else (0.0, 1.0)
    x = (x - mean) / (std + 1e-5) if unit else x
    pre = {"vanilla": (x - w["b_dec"]) @ w["W_enc"] + w["b_enc"], "jumprelu": x @ w["W_enc"] + w["b_enc"]}.get(
        kind, (x - w["b_dec"]) @ w["W_enc"]
    )
    top = pre.relu().topk(K)
    z = {
        "vanilla": pre.relu(), "jumprelu": pre.relu() * (pre.relu() > w["threshold"]), "batchtopk": pre.relu(),
        "topk": torch.zeros_like(pre).scatter(-1, top.indices, top.values),
    }.get(kind, pre.relu() * (pre > 0.3))  # fmt: skip
    return z, (z @ w["W_dec"] + w["b_dec"]) * std + mean


@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("kind", ["vanilla", "topk", "batchtopk", "batch-topk", "jumprelu", "global-matryoshka-topk"])
def test_bussmann(kind, unit, tmp_path):
    path = bussmann(tmp_path, kind, input_unit_norm=unit)
    coder, about = formats.read(path)
    torch.testing.assert_close(codes(coder), bussmann_codes(kind, weights(), X, unit), **CLOSE)
    assert (about["model"], about["site"]) == ({"name": "openai-community/gpt2"}, "resid_pre.8")
    assert about["packing"] == {"context": 128}
    assert bool(about["imported"]["notes"]) == (kind == "batchtopk"), "a threshold of 0 is told"
    formats.write(coder, tmp_path / "again", "bussmann", about)
    again, said = formats.read(tmp_path / "again")
    assert said["said"] == about["said"] | {"model": "openai-community/gpt2"}
    assert again.config == coder.config
    for name, value in coder.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    if kind in ("vanilla", "jumprelu"):
        same_files(path, tmp_path / "again", "sae.pt")


def test_bussmann_has_no_encoder_bias(tmp_path):
    with pytest.raises(BadInput, match="no encoder bias"):
        formats.write(ours("topk"), tmp_path, "bussmann")
    lost = formats.write(ours("batch_topk"), tmp_path, "bussmann")
    assert "jumprelu: k is not kept" in lost[0]
    path = bussmann(tmp_path / "a", "topk", activation="gelu")
    with pytest.raises(BadInput, match="gelu have no counterpart"):
        formats.load(path)
    edit(path / "config.json", activation="relu", sae_type="quantile")
    with pytest.raises(BadInput, match="'quantile' has no counterpart"):
        formats.load(path)
    edit(path / "config.json", sae_type="global-matryoshka-topk", group_sizes="[4, 4]")
    with pytest.raises(DamagedFile, match="add up to 16"):
        formats.load(path)


# --- Llama Scope R1 and llamascopium -------------------------------------------------------------------------------------------


def test_llama_scope_r1(tmp_path):
    path, w = llama_scope_r1(tmp_path), weights()
    coder, about = formats.read(path)
    scale, norms = D**0.5 / LENGTH, w["W_dec"].norm(dim=1)
    pre = X * scale @ w["W_enc"] + w["b_enc"]
    z = pre * (pre * norms > w["threshold"])
    torch.testing.assert_close(codes(coder), (z, (z @ w["W_dec"] + w["b_dec"]) / scale), **CLOSE)
    assert about["site"] == "resid_post.15"
    with pytest.raises(BadInput, match="leave scale out"):
        formats.load(path, scale=2.0)
    edit(path / "config.json", sparsity_include_decoder_norm=False)
    z = pre * (pre > w["threshold"])
    torch.testing.assert_close(codes(formats.load(path)), (z, (z @ w["W_dec"] + w["b_dec"]) / scale), **CLOSE)
    tensors = load_file(path / "sae_weights.safetensors")
    save_file({name: value for name, value in tensors.items() if "norm" not in name}, path / "sae_weights.safetensors")
    with pytest.raises(BadInput, match="--scale"):
        formats.load(path)
    torch.testing.assert_close(codes(formats.load(path, scale=scale))[0], z, **CLOSE)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sae_type": "molt"}, "sae_type 'molt' has no counterpart here. Read: sae, crosscoder, clt"),
        ({"use_glu_encoder": True}, "sigmoid gate"),
        ({"norm_activation": "batch-wise"}, "'batch-wise' has no counterpart"),
        ({"act_fn": "layertopk"}, "'layertopk' has no counterpart"),
    ],
)
def test_llamascopium_refuses_what_has_no_counterpart(changes, said, tmp_path):
    path = llama_scope_r1(tmp_path)
    edit(path / "config.json", **changes)
    with pytest.raises(BadInput, match=said):
        formats.load(path)


def test_llamascopium_keeps_the_choice_by_lengths(tmp_path):
    coder = ours("topk_free")
    formats.write(coder, tmp_path / "a", "llamascopium")
    assert json.loads((tmp_path / "a/config.json").read_text())["sparsity_include_decoder_norm"]
    again = formats.load(tmp_path / "a")
    assert torch.equal(again.W_dec, coder.W_dec)
    assert again.config.decoder == "free"
    torch.testing.assert_close(codes(again), codes(coder), **CLOSE)
    edit(tmp_path / "a/config.json", sparsity_include_decoder_norm=False)
    assert not torch.equal(codes(formats.load(tmp_path / "a"))[0], codes(coder)[0])


# --- Cross-layer transcoders ---------------------------------------------------------------------------------------------------


def test_layers_of_a_cross_layer_transcoder_add_up(tmp_path):
    path, layers = circuit_tracer_clt(tmp_path, (0, 1, 2)), 3
    whole = [torch.zeros_like(X) for _ in range(layers)]
    for layer in range(layers):
        coder, about = formats.read(path / f"W_enc_{layer}.safetensors")
        w = weights(layer)
        pre = X @ w["W_enc"] + w["b_enc"]
        z, y = codes(coder)
        torch.testing.assert_close(z, pre * (pre > w["threshold"]), **CLOSE)
        assert about["said"]["reads"] == f"mlp_in.{layer}"
        assert about["said"]["predicts"] == ", ".join(f"mlp_out.{later}" for later in range(layer, layers))
        assert f"layer {layer} of a cross-layer transcoder of 3" in about["imported"]["notes"][0]
        for later, part in zip(range(layer, layers), y.split(D, dim=1)):
            whole[later] += part
    for later in range(layers):
        want = weights(later)["b_dec"].clone()
        for layer in range(later + 1):
            w = weights(layer)
            pre = X @ w["W_enc"] + w["b_enc"]
            want = want + pre * (pre > w["threshold"]) @ weights(10 * layer + later)["W_dec"]
        torch.testing.assert_close(whole[later], want, **CLOSE)


def test_which_layer_of_a_cross_layer_transcoder_is_asked(tmp_path):
    path = circuit_tracer_clt(tmp_path, (0, 2))
    with pytest.raises(BadInput, match=r"layers 0 to 2.*W_enc_0\.safetensors, or layer="):
        formats.load(path)
    assert torch.equal(codes(formats.load(path, layer=2))[0], codes(formats.load(path / "W_dec_2.safetensors"))[0])
    (path / "W_dec_2.safetensors").unlink()
    assert formats.load(path).d_out == 3 * D
    with pytest.raises(BadInput, match="no known format"):
        formats.load(path / "W_enc_2.safetensors")


def test_layers_of_gemma_scope_2s_cross_layer_transcoders(tmp_path):
    path = tmp_path / "gemma-scope-2-1b-pt/clt/width_262k_l0_medium/params_layer_1.safetensors"
    path.parent.mkdir(parents=True)
    w = weights()
    save_file(
        {name.lower(): value for name, value in w.items()} | {"w_dec": torch.stack([w["W_dec"] * i for i in range(3)], 1)}, path
    )
    coder, about = formats.read(path)
    pre = X @ w["W_enc"] + w["b_enc"]
    z = pre * (pre > w["threshold"])
    own, later = z @ w["W_dec"] + w["b_dec"], z @ w["W_dec"] * 2
    torch.testing.assert_close(codes(coder), (z, torch.cat([own, later], dim=1)), **CLOSE)
    assert about["model"] == {"name": "google/gemma-3-1b-pt"}
    assert (about["said"]["reads"], about["said"]["predicts"]) == ("mlp_in.1", "mlp_out.1, mlp_out.2")
    with pytest.raises(BadInput, match="of 3 layers has no layer 7"):
        formats.load(path, layer=7)
    save_file({"w_enc": w["W_enc"]}, path)
    with pytest.raises(BadInput, match="no known format"):
        formats.load(path)


# --- SAELens -------------------------------------------------------------------------------------------------------------------


def saelens(path, architecture, **config):
    """A file of an architecture that is not written here."""
    w = weights()
    tensors = {name: w[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    path.mkdir(parents=True)
    save_file(
        {name: tensors[name] for name in (("W_dec", "b_dec") if "pursuit" in architecture else tensors)},
        path / "sae_weights.safetensors",
    )
    facts = {"architecture": architecture, "d_in": D, "d_sae": S, "apply_b_dec_to_input": True, "normalize_activations": "none"}
    facts |= {"metadata": {"sae_lens_version": "6.54.12"}} | config
    (path / "cfg.json").write_text(json.dumps(facts))
    return path


@pytest.mark.parametrize("rescaled", [False, True])
def test_abstopk_is_two_latents_for_one(rescaled, tmp_path):
    coder, about = formats.read(saelens(tmp_path / "a", "abstopk", k=K, rescale_acts_by_decoder_norm=rescaled))
    w = weights()
    norms = w["W_dec"].norm(dim=1) if rescaled else torch.ones(S)
    pre = ((X - w["b_dec"]) @ w["W_enc"] + w["b_enc"]) * norms
    z = torch.zeros_like(pre).scatter(-1, (top := pre.abs().topk(K).indices), pre.gather(-1, top))
    assert bool((z < 0).any()), "nothing negative to tell by"
    both, x_hat = codes(coder)
    torch.testing.assert_close((both[:, :S] - both[:, S:], x_hat), (z, z / norms @ w["W_dec"] + w["b_dec"]), **CLOSE)
    assert coder.d_sae == 2 * S
    assert "each is two here" in about["imported"]["notes"][0]
    formats.write(coder, tmp_path / "b", "saelens", about)
    torch.testing.assert_close(codes(formats.load(tmp_path / "b")), codes(coder), **CLOSE)


def pursued(w, x, most, enough, once):
    """SAELens' matching pursuit, token by token."""
    z, rest = torch.zeros(len(x), S), x - w["b_dec"]
    for token in range(len(x)):
        for _ in range(most):
            shares = rest[token] @ w["W_dec"].T
            best = int(shares.argmax())
            again = bool(z[token, best] != 0) or bool(shares[best] <= 0)
            share = shares[best].relu()
            z[token, best] += share
            rest[token] = rest[token] - share * w["W_dec"][best]
            if (once and again) or rest[token].norm() < enough:
                break
    return z, z @ w["W_dec"] + w["b_dec"]


@pytest.mark.parametrize(("most", "enough", "once"), [(None, 0.9, True), (9, 0.0, True), (9, 0.9, False), (4, 0.0, False)])
def test_matching_pursuit_of_saelens(most, enough, once, tmp_path):
    w = weights()
    w["W_dec"] = (
        w["W_dec"] / w["W_dec"].norm(dim=1, keepdim=True) * torch.linspace(0.95, 1.05, S)[:, None]
    )  # free, as it trains them
    said = {"max_iterations": most, "residual_threshold": enough, "stop_on_duplicate_support": once}
    path = saelens(tmp_path / "a", "matching_pursuit", **said)
    save_file({"W_dec": w["W_dec"], "b_dec": w["b_dec"]}, path / "sae_weights.safetensors")
    coder, about = formats.read(path)
    torch.testing.assert_close(codes(coder), pursued(w, X, most or D, enough, once), **CLOSE)
    formats.write(coder, tmp_path / "b", "saelens", about)
    again = load_file(tmp_path / "b/sae_weights.safetensors")
    assert all(torch.equal(again[name], w[name]) for name in ("W_dec", "b_dec"))
    assert codes(formats.load(tmp_path / "b"))[0].equal(codes(coder)[0])
    other = pursued(w, X, most or D, 0.0, False)[0]
    assert enough or once or torch.equal(other > 0, codes(coder)[0] > 0)
    assert not (enough or once) or not torch.allclose(other, codes(coder)[0]), "the stopping rule stops nothing"


def test_a_tolerance_that_saelens_has_not_is_said(tmp_path):
    lost = formats.write(assay.new("matching_pursuit", d_in=D, d_sae=S, k=3), tmp_path, "saelens")
    assert "tolerance 0.0001" in lost[0]


def test_temporal_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"'temporal' has no counterpart here\. Read: standard"):
        formats.load(saelens(tmp_path / "a", "temporal"))
