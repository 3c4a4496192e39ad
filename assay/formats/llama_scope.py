"""llama_scope: Llama Scope's coders of Llama 3.1 8B (He et al. 2024, arXiv 2410.20526): hyperparams.json and checkpoints/final.safetensors.

JumpReLU with one threshold for all latents. Activations were scaled to a mean length of √d by a factor that hyperparams.json knows; it is
folded into the weights, and into the threshold, which is in units of unscaled activations (so SAELens reads it too). b_dec is not taken
off the input. Read only, of version 1; of the later ones of the same group none.
"""

from __future__ import annotations

from dataclasses import replace
from math import isfinite, sqrt
from pathlib import Path
from typing import Any

import torch

from assay.errors import BadInput, DamagedFile
from assay.formats.base import Found, Hints, facts
from assay.formats.files import Facts, damage, safetensors_of, taken
from assay.formats.plain import Plain

CONFIG, WEIGHTS = "hyperparams.json", "checkpoints/final.safetensors"
NAMES = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "decoder.weight", "b_dec": "decoder.bias"}


def _home(path: Path) -> Path | None:
    directory = path.parent if path.name == CONFIG else path.parents[1] if path.match(WEIGHTS) else path
    return directory if (directory / CONFIG).is_file() and (directory / WEIGHTS).is_file() else None


def detect(path: Path) -> bool:
    return _home(path) is not None


def read(path: Path, hints: Hints) -> Found:
    directory = _home(path) or path
    cfg, weights = Facts.of(directory / CONFIG), directory / WEIGHTS
    if (act := cfg.word("act_fn", "jumprelu")).lower() != "jumprelu":
        raise BadInput(f"{cfg.path}: act_fn {act[:40]!r} has no counterpart here. Read: jumprelu.")
    if hints.scale is not None:
        raise BadInput(f"{cfg.path} says itself what activations were multiplied by: leave scale out.")
    tensors = safetensors_of(weights)
    given: dict[str, Any] = dict(zip(NAMES, taken(tensors, weights, *NAMES.values())))
    dtype, theta = given["W_enc"].dtype, cfg.number("jump_relu_threshold")
    with damage(weights):
        for name in ("W_enc", "W_dec"):
            given[name] = given[name].T
        plain = Plain.of(weights, gate="jumprelu", centred=False, threshold=torch.tensor(float(theta)), **given)
        if cfg.flag("sparsity_include_decoder_norm", False):  # thresholds are of latents whose decoder rows have unit length
            plain = replace(plain.with_norms(plain.W_dec.norm(dim=1)), threshold=plain.threshold)
        scale = _scale(cfg, plain.d_in)
    del tensors, given  # so that no more than two of a coder's sizes are held while it is scaled
    cfg.check("d_model", plain.d_in)
    cfg.check("d_sae", plain.d_sae)
    plain = replace(plain, threshold=plain.thresholds * scale).with_scale(scale)
    about = facts(
        model="Llama-3.1-8B", reads=cfg.word("hook_point_in", None), context=1024, bos=True, corpus="cerebras/SlimPajama-627B"
    )
    return Found(plain=plain, files=(cfg.path, weights), dtype=dtype, about=about)


def _scale(cfg: Facts, d: int) -> float:
    """√d over the mean length of activations."""
    length = float(cfg.part("dataset_average_activation_norm").number("in"))
    if not (isfinite(length) and length > 0):
        raise DamagedFile(f"{cfg.path}: dataset_average_activation_norm must be positive.")
    return sqrt(d) / length
