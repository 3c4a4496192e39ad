"""Coders of every architecture, ready for export, and small files of dialects that no installable library writes."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from assay import coders
from assay.coders.base import SparseCoder

D, S, N, K = 6, 16, 32, 3
X = torch.randn(N, D, generator=torch.Generator().manual_seed(1)) + 0.3
OURS: dict[str, dict[str, Any]] = {
    "relu": {}, "relu_free": {"decoder": "free"}, "relu_uncentred": {"centred": False}, "p_anneal": {}, "gated": {}, "jumprelu": {},
    "jumprelu_free": {"decoder": "free"}, "jumprelu_uncentred": {"centred": False}, "topk": {"k": K},
    "topk_free": {"k": K, "decoder": "free"}, "batch_topk": {"k": K}, "batch_topk_free": {"k": K, "decoder": "free"},
    "matryoshka": {"k": K, "fractions": "1/4,1/2,1"}, "matryoshka_sampled": {"k": K, "prefixes": "sampled"},
    "frozen_decoder": {"of": "topk", "settings": f"k={K}"}, "transcoder": {"of": "topk", "settings": f"k={K}"},
    "transcoder_relu": {"of": "relu"}, "transcoder_jumprelu": {"of": "jumprelu"}, "transcoder_jumprelu_5": {"of": "jumprelu", "d_out": 5},
    "transcoder_gated_5": {"of": "gated", "d_out": 5}, "skip_transcoder": {"of": "relu"}, "skip_transcoder_5": {"of": "relu", "d_out": 5},
    "skip_transcoder_topk": {"of": "topk", "settings": f"k={K}"}, "normalised": {"of": "topk", "settings": f"k={K}"},
    "normalised_length": {"of": "relu", "norm": "length"}, "crosscoder": {"of": "relu"},
    "crosscoder_three": {"of": "relu", "widths": (2, 2, 2)}, "crosscoder_topk": {"of": "topk", "settings": f"k={K}"},
    "matching_pursuit": {"k": 5, "tolerance": 0.0}, "matching_pursuit_stops": {"k": 9, "tolerance": 0.0, "residual": 0.7, "repeats": False},
}  # fmt: skip
"""Settings by architecture; what follows the architecture's name tells several of one apart."""


def _having(*parts: str) -> set[str]:
    return {kind for kind in OURS if any(part in kind for part in parts)}


TOPK = {"topk", "topk_free", "frozen_decoder"}
TRANSCODERS, NORMALISED, OTHERS = _having("transcoder"), _having("normalised"), _having("crosscoder", "pursuit")
REFUSED = {
    "saelens": {"transcoder", "skip_transcoder_topk"} | _having("crosscoder"),
    "dictionary_learning": TRANSCODERS | NORMALISED | OTHERS,
    "gemma_scope": TOPK | {"transcoder"} | _having("skip") | NORMALISED | OTHERS,
    "gemma_scope_2": TOPK | {"transcoder", "skip_transcoder_topk"} | NORMALISED | OTHERS,
    "sparsify": set(OURS) - TOPK - {"transcoder", "skip_transcoder_topk"},
    "circuit_tracer": set(OURS) - {"transcoder_relu", "transcoder_jumprelu", "skip_transcoder"},
    "openai": set(OURS) - {"relu", "relu_free", "relu_uncentred", "p_anneal", "normalised"},
    "llamascopium": _having("skip", "_5", "pursuit") | {"normalised", "crosscoder_topk"},
    "e2e_sae": set(OURS) - {"relu", "relu_free", "relu_uncentred", "p_anneal"},
    "crosscoder": set(OURS) - {"crosscoder"},
    "bussmann": TOPK | TRANSCODERS | NORMALISED | OTHERS,
}
"""What a dialect has no form for."""


@torch.no_grad()
def ours(name: str, seed: int = 0) -> SparseCoder[Any]:
    """A coder with numbers that are neither fresh nor symmetric."""
    architecture = max((key for key in coders.registry.CODERS if name.startswith(key)), key=len)
    coder = coders.new(architecture, seed=seed, d_in=D, d_sae=S, **OURS[name])
    random = torch.Generator().manual_seed(seed)
    inner = getattr(coder, "inner", coder)
    for key, value in coder.state_dict().items():
        if not value.is_floating_point():
            continue
        drawn = torch.randn(value.shape, generator=random) * (0.5 if value.ndim == 2 else 0.2)
        if "log_threshold" in key:
            drawn = (0.1 + 0.4 * drawn.abs()).log()
        if key.endswith("threshold") and "log" not in key:
            drawn = torch.tensor(0.3)
        if key == "site_scale":
            drawn = torch.arange(1.0, len(value) + 1) / 2
        value.copy_(drawn)
    if not getattr(inner, "free", False):
        coder.constrain()
    return coder.eval()


@torch.no_grad()
def codes(coder: SparseCoder[Any], x: torch.Tensor = X) -> tuple[torch.Tensor, torch.Tensor]:
    code = coder.encode(x)
    return code.z, coder.decode(code)


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    """W_enc, b_enc, W_dec, b_dec and thresholds in the house's orientation."""
    random = torch.Generator().manual_seed(seed)
    shapes = {"W_enc": (D, S), "b_enc": (S,), "W_dec": (S, D), "b_dec": (D,)}
    made = {name: torch.randn(shape, generator=random) * (0.5 if len(shape) == 2 else 0.2) for name, shape in shapes.items()}
    return made | {"threshold": 0.1 + 0.4 * torch.rand(S, generator=random)}


def gemma_scope(directory: Path) -> Path:
    """A release's file where the release has it."""
    path = directory / "gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82"
    path.mkdir(parents=True)
    np.savez(path / "params.npz", **{name: value.numpy() for name, value in weights().items()})
    return path


def openai(directory: Path, activation: str = "TopK") -> Path:
    """A file as OpenAI's code saves an autoencoder."""
    w = weights()
    state: dict[str, Any] = OrderedDict(
        pre_bias=w["b_dec"], latent_bias=w["b_enc"], stats_last_nonzero=torch.zeros(S, dtype=torch.long),
        latents_activation_frequency=torch.ones(S, dtype=torch.long), latents_mean_square=torch.ones(S),
    )  # fmt: skip
    state |= {
        "encoder.weight": w["W_enc"].T.contiguous(),
        "decoder.weight": w["W_dec"].T.contiguous(),
        "activation": activation,
    }
    if activation == "TopK":
        state["activation_state_dict"] = OrderedDict(k=K, postact_fn="ReLU")
    path = directory / f"gpt2-small/resid_post_mlp_{'v5_32k' if activation == 'TopK' else 'v4'}/autoencoders/8.pt"
    path.parent.mkdir(parents=True)
    torch.save(state, path)
    return path


def gemma_scope_2(directory: Path, site: str = "model.layers.7.output", *, affine: bool = False) -> Path:
    """A release's directory."""
    path = directory / "gemma-scope-2-270m-pt/resid_post/layer_7_width_16k_l0_small"
    path.mkdir(parents=True)
    tensors = {name.lower(): value for name, value in weights().items()}
    if affine:
        tensors["affine_skip_connection"] = torch.randn(D, D, generator=torch.Generator().manual_seed(5))
    save_file(tensors, path / "params.safetensors")
    config = {"architecture": "jump_relu", "model_name": "gemma-v3-270m-pt", "hf_hook_point_in": site, "width": S}
    if affine:
        config |= {"hf_hook_point_out": site.replace("pre_", "post_"), "affine_connection": True}
    (path / "config.json").write_text(json.dumps(config))
    return path


def qwen_scope(directory: Path, release: str = "elsewhere") -> Path:
    """A release's file, or one that lies elsewhere."""
    path = directory / release / "layer12.sae.pt"
    path.parent.mkdir(parents=True)
    w = weights()
    state = {"W_enc": w["W_enc"].T.contiguous(), "W_dec": w["W_dec"].T.contiguous(), "b_enc": w["b_enc"], "b_dec": w["b_dec"]}
    torch.save(state, path)
    return path


LENGTH = 4.0  # mean length of activations, for Llama Scope


def llama_scope(directory: Path) -> Path:
    """A release's directory."""
    path, w = directory / "Llama3_1-8B-Base-L15R-8x", weights()
    (path / "checkpoints").mkdir(parents=True)
    tensors = {
        "encoder.weight": w["W_enc"].T.contiguous(), "encoder.bias": w["b_enc"], "decoder.weight": w["W_dec"].T.contiguous(),
        "decoder.bias": w["b_dec"],
    }  # fmt: skip
    save_file({name: value.bfloat16() for name, value in tensors.items()}, path / "checkpoints/final.safetensors")
    facts = {
        "d_model": D, "d_sae": S, "act_fn": "jumprelu", "jump_relu_threshold": 0.25, "hook_point_in": "blocks.15.hook_resid_post",
        "hook_point_out": "blocks.15.hook_resid_post", "dataset_average_activation_norm": {"in": LENGTH, "out": LENGTH},
    }  # fmt: skip
    (path / "hyperparams.json").write_text(json.dumps(facts))
    return path


def circuit_tracer(directory: Path, gate: str = "jumprelu") -> Path:
    """A layer's file, with its configuration."""
    w = weights()
    tensors = {"W_enc": w["W_enc"].T.contiguous(), "b_enc": w["b_enc"], "W_dec": w["W_dec"], "b_dec": w["b_dec"]}
    tensors["W_skip"] = torch.randn(D, D, generator=torch.Generator().manual_seed(5))
    if gate == "jumprelu":
        tensors["activation_function.threshold"] = w["threshold"]
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / "layer_4.safetensors")
    lines = [
        "model_name: google/gemma-2-2b  # or another",
        'feature_input_hook: "mlp.hook_in"',
        "feature_output_hook: hook_mlp_out",
    ]
    (directory / "config.yaml").write_text(
        "\n".join([*lines, *(["activation: topk", "k: 3"] if gate == "topk" else []), "transcoders:", "  - hf://a/b"])
    )
    return directory


def e2e_sae(directory: Path, places: tuple[str, ...] = ("blocks.6.hook_resid_post",)) -> Path:
    """A training's directory."""
    w, state = weights(), OrderedDict()
    for number, place in enumerate(places):
        key = place.replace(".", "-")
        state |= {
            f"{key}.encoder.0.weight": w["W_enc"].T.contiguous() * (number + 1), f"{key}.encoder.0.bias": w["b_enc"],
            f"{key}.decoder.weight": w["W_dec"].T.contiguous(), f"{key}.decoder.bias": w["b_dec"],
        }  # fmt: skip
    directory.mkdir(parents=True, exist_ok=True)
    torch.save(state, directory / "samples_400000.pt")
    lines = [
        "lr: 0.0005",
        "saes:",
        "  dict_size_to_input_ratio: 2.7",
        "  sae_positions:",
        *(f"  - {place}" for place in places),
    ]
    (directory / "final_config.yaml").write_text(
        "\n".join([*lines, "tlens_model_name: gpt2-small", "tlens_model_path: null", ""])
    )
    return directory


def bussmann(directory: Path, kind: str = "global-matryoshka-topk", **config: Any) -> Path:
    """A checkpoint as its repositories save one."""
    w = weights()
    state = OrderedDict((name, w[name]) for name in ("b_dec", "b_enc", "W_enc", "W_dec"))
    if kind == "jumprelu":
        state["jumprelu.log_threshold"] = w["threshold"].log()
    if kind in ("batch-topk", "global-matryoshka-topk"):
        state["threshold"] = torch.tensor(0.3)
    facts = {
        "seed": 49, "batch_size": 4096, "seq_len": 128, "dtype": "torch.float32", "model_name": "gpt2-small", "site": "resid_pre", "layer": 8,
        "act_size": D, "dict_size": S, "device": "cuda", "dataset_path": "Skylion007/openwebtext", "input_unit_norm": False,
        "sae_type": kind, "top_k": K, "hook_point": "blocks.8.hook_resid_pre", "group_sizes": "[4, 4, 8]",
    } | config  # fmt: skip
    path = directory / f"gpt2-small_blocks.8.hook_resid_pre_{S}_{kind}_{K}_0.0003_9999"
    path.mkdir(parents=True)
    torch.save(state, path / "sae.pt")
    (path / "config.json").write_text(json.dumps(facts, indent=4))
    return path


def crosscoder(directory: Path) -> Path:
    """A release's directory: two models of width 3."""
    w, path = weights(), directory / "blocks.14.hook_resid_pre"
    path.mkdir(parents=True)
    state = OrderedDict(
        W_enc=w["W_enc"].reshape(2, 3, S), W_dec=w["W_dec"].reshape(S, 2, 3), b_enc=w["b_enc"], b_dec=w["b_dec"].reshape(2, 3)
    )
    torch.save(state, path / "cc_weights.pt")
    facts = {
        "seed": 49, "l1_coeff": 2, "d_in": 3, "dict_size": S, "seq_len": 1024, "enc_dtype": "fp32", "model_name": "gemma 2 2b",
        "site": "resid_pre", "device": "cuda:0", "dec_init_norm": 0.08, "hook_point": "blocks.14.hook_resid_pre",
    }  # fmt: skip
    (path / "cfg.json").write_text(json.dumps(facts))
    return path


def llama_scope_r1(directory: Path) -> Path:
    """A release's directory: an early version of llamascopium."""
    w, path = weights(), directory / "800M-Slimpajama-0-OpenR1-Math-220k/L15R"
    path.mkdir(parents=True)
    tensors = {
        "encoder.weight": w["W_enc"].T.contiguous(), "encoder.bias": w["b_enc"], "decoder.weight": w["W_dec"].T.contiguous(),
        "decoder.bias": w["b_dec"], "log_jumprelu_threshold": w["threshold"].log(),
        "dataset_average_activation_norm.blocks.15.hook_resid_post": torch.tensor(LENGTH),
    }  # fmt: skip
    save_file(tensors, path / "sae_weights.safetensors")
    facts = {
        "sae_type": "sae", "hook_point_in": "blocks.15.hook_resid_post", "hook_point_out": "blocks.15.hook_resid_post", "d_model": D,
        "expansion_factor": S / D, "use_decoder_bias": True, "use_glu_encoder": False, "act_fn": "jumprelu", "top_k": 50,
        "norm_activation": "dataset-wise", "sparsity_include_decoder_norm": True, "jumprelu_threshold_window": 2.0,
    }  # fmt: skip
    (path / "config.json").write_text(json.dumps(facts))
    return path


def circuit_tracer_clt(directory: Path, layers: tuple[int, ...] = (1,), of: int = 3) -> Path:
    """Layers of a cross-layer transcoder of `of` layers."""
    directory.mkdir(parents=True, exist_ok=True)
    for layer in layers:
        w = weights(layer)
        W_dec = torch.stack([weights(10 * layer + later)["W_dec"] for later in range(layer, of)], dim=1)
        first = {"W_enc": w["W_enc"].T.contiguous(), "b_enc": w["b_enc"], "b_dec": w["b_dec"], "threshold": w["threshold"]}
        save_file({f"{name}_{layer}": value for name, value in first.items()}, directory / f"W_enc_{layer}.safetensors")
        save_file({f"W_dec_{layer}": W_dec}, directory / f"W_dec_{layer}.safetensors")
    lines = ["model_name: google/gemma-2-2b", "model_kind: cross_layer_transcoder", "feature_input_hook: mlp.hook_in"]
    (directory / "config.yaml").write_text("\n".join([*lines, "feature_output_hook: hook_mlp_out", ""]))
    return directory
