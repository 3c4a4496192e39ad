"""gemma_scope_2: Google DeepMind's Gemma Scope 2, coders of Gemma 3: config.json beside params.safetensors, JumpReLU all of them.

Coders and transcoders, with and without an affine skip path; b_dec is not taken off the input. Of cross-layer transcoders, one file a layer
that says its number (…layer_5.safetensors), each is a transcoder that predicts all layers from its own on, side by side: see
circuit_tracer_clt. Written: whatever is or folds to a JumpReLU coder or transcoder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from assay import codec
from assay.errors import AssayError, BadInput
from assay.formats.base import Found, Hints, facts, home, said_of, site_of, slice_note
from assay.formats.files import Facts, damage, safetensors_of, shapes_of, taken
from assay.formats.plain import Plain, cross_layer
from assay.store import write_atomic

TAKES = ("weighed",)  # as thresholds, one a latent
CONFIG, WEIGHTS = "config.json", "params.safetensors"
NAMES = {"W_enc": "w_enc", "W_dec": "w_dec", "b_enc": "b_enc", "b_dec": "b_dec", "threshold": "threshold"}
SKIP = "affine_skip_connection"
HOOKS = {
    "output": "resid_post", "self_attn.o_proj.input": "attn_z", "post_attention_layernorm.output": "attn_out",
    "pre_feedforward_layernorm.output": "mlp_in", "post_feedforward_layernorm.output": "mlp_out",
}  # fmt: skip
"""What follows `model.layers.N.` in its names of places."""
RELEASE = re.compile(r"gemma-scope-2-((?:270m|1b|4b|12b|27b)-(?:pt|it))")
LAYER = re.compile(r"layer_(\d{1,3})")


def detect(path: Path) -> bool:
    return home(path, CONFIG, WEIGHTS) is not None or _is_layer(path)


def _is_layer(path: Path) -> bool:
    """Whether a file is a layer of a cross-layer transcoder."""
    if not (path.is_file() and path.suffix == ".safetensors" and LAYER.search(path.stem)):
        return False
    try:
        shapes = shapes_of(path)
    except AssayError:
        return False
    return set(NAMES.values()) <= set(shapes) and len(shapes["w_dec"]) == 3


def read(path: Path, hints: Hints) -> Found:
    if home(path, CONFIG, WEIGHTS) is None and path.is_file():
        return _layer(path, hints)
    directory = home(path, CONFIG, WEIGHTS) or path
    cfg, weights = Facts.of(directory / CONFIG), directory / WEIGHTS
    if (architecture := cfg.word("architecture", "jump_relu")) != "jump_relu":
        raise BadInput(f"{cfg.path}: the architecture {architecture[:40]!r} has no counterpart here. Read: jump_relu.")
    tensors = safetensors_of(weights)
    given: dict[str, Any] = dict(zip(NAMES, taken(tensors, weights, *NAMES.values())))
    if given["W_dec"].ndim == 3:
        raise BadInput(
            f"{weights} is a layer of a cross-layer transcoder. Its file is read where its name says which: …layer_5.safetensors."
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


def _layer(path: Path, hints: Hints) -> Found:
    """What one layer of a cross-layer transcoder writes to the layers from its own on. Those before it are in the file, and unused."""
    tensors, named = safetensors_of(path), LAYER.search(path.stem)
    given: dict[str, Any] = dict(zip(NAMES, taken(tensors, path, *NAMES.values())))
    layer = hints.layer if hints.layer is not None else int(named[1]) if named else -1
    with damage(path):
        layers = given["W_dec"].shape[1]
        if not 0 <= layer < layers:
            raise BadInput(
                f"{path}: a cross-layer transcoder of {layers} layers has no layer {layer}. Say which it is as layer=."
            )
        given["W_dec"], given["b_dec"] = cross_layer(given["W_dec"][:, layer:], given["b_dec"])
        if SKIP in tensors:  # to its own layer alone
            skip = tensors[SKIP]
            given["W_skip"] = torch.cat([skip, skip.new_zeros(len(skip), len(given["b_dec"]) - skip.shape[1])], dim=1)
        plain = Plain.of(path, gate="jumprelu", centred=False, transcodes=True, **given)
    release = RELEASE.search(path.absolute().as_posix())
    about = facts(
        model=_model(f"gemma-3-{release[1]}") if release else None, reads=f"mlp_in.{layer}",
        predicts=", ".join(f"mlp_out.{later}" for later in range(layer, layers)), context=1024, bos=True,
    )  # fmt: skip
    notes = [slice_note(layer, layers)]
    notes += [] if release else ["its path names no release, so the model is not known: say --model"]
    return Found(plain=plain, files=(path,), dtype=tensors["w_enc"].dtype, about=about, notes=tuple(notes))


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
