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
    "transcoder_jumprelu": {"of": "jumprelu", "d_out": 5}, "transcoder_gated": {"of": "gated", "d_out": 5},
    "skip_transcoder": {"of": "relu", "d_out": 5}, "skip_transcoder_topk": {"of": "topk", "settings": f"k={K}"},
    "normalised": {"of": "topk", "settings": f"k={K}"}, "normalised_length": {"of": "relu", "norm": "length"},
}  # fmt: skip
"""Settings by architecture; what follows the architecture's name tells several of one apart."""
REFUSED = {
    "saelens": {"transcoder", "skip_transcoder_topk"},
    "dictionary_learning": {n for n in OURS if "transcoder" in n or "normalised" in n},
    "gemma_scope": {n for n in OURS if "topk" in n and "batch" not in n} | {
        "frozen_decoder", "transcoder", "skip_transcoder", "normalised", "normalised_length",
    },
    "gemma_scope_2": {n for n in OURS if "topk" in n and "batch" not in n}
    | {"frozen_decoder", "transcoder", "normalised", "normalised_length"},
    "sparsify": set(OURS) - {"topk", "topk_free", "frozen_decoder", "transcoder", "skip_transcoder_topk"},
    "circuit_tracer": set(OURS) - {"transcoder", "skip_transcoder_topk"},
    "openai": set(OURS) - {"relu", "relu_free", "relu_uncentred", "p_anneal", "normalised"},
}  # fmt: skip
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
        value.copy_(drawn)
    if not inner.free:
        inner.constrain()
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
