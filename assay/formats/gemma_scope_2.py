"""gemma_scope_2: Google DeepMind's Gemma Scope 2, coders of Gemma 3: config.json beside params.safetensors, JumpReLU all of them.

Coders and transcoders, with and without an affine skip path; b_dec is not taken off the input. Layers of cross-layer transcoders, which
write to many layers at once, are not read. Written: whatever is or folds to a JumpReLU coder or transcoder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from assay import codec
from assay.errors import BadInput
from assay.formats.base import Found, Hints, facts, home, said_of, site_of
from assay.formats.files import Facts, damage, safetensors_of, taken
from assay.formats.plain import Plain
from assay.store import write_atomic

CONFIG, WEIGHTS = "config.json", "params.safetensors"
NAMES = {"W_enc": "w_enc", "W_dec": "w_dec", "b_enc": "b_enc", "b_dec": "b_dec", "threshold": "threshold"}
SKIP = "affine_skip_connection"
HOOKS = {
    "output": "resid_post", "self_attn.o_proj.input": "attn_z", "post_attention_layernorm.output": "attn_out",
    "pre_feedforward_layernorm.output": "mlp_in", "post_feedforward_layernorm.output": "mlp_out",
}  # fmt: skip
"""What follows `model.layers.N.` in its names of places."""


def detect(path: Path) -> bool:
    return home(path, CONFIG, WEIGHTS) is not None


def read(path: Path, hints: Hints) -> Found:
    directory = home(path, CONFIG, WEIGHTS) or path
    cfg, weights = Facts.of(directory / CONFIG), directory / WEIGHTS
    if (architecture := cfg.word("architecture", "jump_relu")) != "jump_relu":
        raise BadInput(f"{cfg.path}: the architecture {architecture[:40]!r} has no counterpart here. Read: jump_relu.")
    tensors = safetensors_of(weights)
    given: dict[str, Any] = dict(zip(NAMES, taken(tensors, weights, *NAMES.values())))
    if given["W_dec"].ndim == 3:
        raise BadInput(
            f"{weights} is a layer of a cross-layer transcoder, which writes to {given['W_dec'].shape[1]} layers. It is not read."
        )
    reads, predicts = _site(cfg.word("hf_hook_point_in", None)), _site(cfg.word("hf_hook_point_out", None))
    transcodes = predicts not in (None, reads) or SKIP in tensors
    with damage(weights):
        if cfg.flag("affine_connection", SKIP in tensors):
            (given["W_skip"],) = taken(tensors, weights, SKIP)
        plain = Plain.of(weights, gate="jumprelu", centred=False, transcodes=transcodes, **given)
    cfg.check("width", plain.d_sae)
    about = facts(
        model=_model(cfg.word("model_name", None)),
        reads=reads,
        predicts=predicts if transcodes else None,
        context=1024,
        bos=True,
    )
    return Found(plain=plain, files=(cfg.path, weights), dtype=tensors["w_enc"].dtype, about=about)


def _site(hook: str | None) -> str | None:
    """A site from a name such as model.layers.5.self_attn.o_proj.input."""
    found = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", hook or "")
    return f"{HOOKS[found[2]]}.{found[1]}" if found and found[2] in HOOKS else hook


def _model(name: str | None) -> str | None:
    """gemma-v3-270m-pt as gemma-3-270m, which is what the hub calls it."""
    if name is None:
        return None
    name = name.removeprefix("google/").replace("-v3", "-3")
    return name.removesuffix("-pt") if "270m" in name else name


def write(plain: Plain, directory: Path, about: Mapping[str, Any], dtype: torch.dtype) -> list[str]:
    if plain.norm != "none":
        raise BadInput("Gemma Scope 2's files have no normalised inputs. Export to saelens.")
    lost = [f"{plain.gate} is written as JumpReLU: k is not kept"] if plain.gate in ("batch_topk", "matryoshka") else []
    plain = (plain if plain.gate == "jumprelu" else plain.as_jumprelu()).with_centring(False)
    tensors = plain.to(dtype) | {"threshold": plain.thresholds}
    kept = {theirs: tensors[ours] for ours, theirs in NAMES.items()}
    if plain.W_skip is not None:
        kept[SKIP] = tensors["W_skip"]
    said = said_of(about)
    config = {
        "architecture": "jump_relu", "model_name": said["model"], "width": plain.d_sae, "affine_connection": plain.W_skip is not None,
        "hf_hook_point_in": _hook(said["reads"]), "hf_hook_point_out": _hook(said["predicts"] if plain.transcodes else said["reads"]),
    }  # fmt: skip
    write_atomic(directory / WEIGHTS, save(kept))
    write_atomic(directory / CONFIG, codec.to_json({name: value for name, value in config.items() if value is not None}))
    return lost


def _hook(place: str | None) -> str | None:
    site = site_of(place)
    ending = next((name for name, kind in HOOKS.items() if site and kind == site.kind), None)
    return f"model.layers.{site.layer}.{ending}" if site and ending else place
