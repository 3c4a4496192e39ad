"""gemma_scope: Google DeepMind's Gemma Scope (Lieberum et al. 2024, arXiv 2408.05147): JumpReLU coders, a params.npz each.

The file holds numbers alone. Model, site and layer are read from the path, as the releases lay it out:
gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82/params.npz, also inside the hub's cache. b_dec is not taken off the input. Those of
embeddings are brought to the model's scale. Written: whatever is or folds to a JumpReLU coder; the path is yours to choose.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch

from assay.errors import BadInput
from assay.formats.base import Found, Hints, facts, home
from assay.formats.files import damage, npz_of, taken
from assay.formats.plain import Plain
from assay.store import write_atomic

TAKES = ("weighed",)  # as thresholds, one a latent
WEIGHTS = "params.npz"
NAMES = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")
RELEASE = re.compile(r"gemma-scope-(2b|9b|27b)-(pt|it)-(res|mlp|att|transcoders)")
HOOKS = {"res": "resid_post.{}", "mlp": "mlp_out.{}", "att": "attn_z.{}", "transcoders": "blocks.{}.ln2.hook_normalized"}


def detect(path: Path) -> bool:
    return home(path, WEIGHTS) is not None


def read(path: Path, hints: Hints) -> Found:
    weights = (home(path, WEIGHTS) or path) / WEIGHTS
    arrays = {f"W{name[1:]}" if name.startswith("w_") else name: array for name, array in npz_of(weights).items()}
    about, transcodes, embedding = _about(weights)
    with damage(weights):
        given = dict(zip(NAMES, taken(arrays, weights, *NAMES)))
        dtype = given["W_enc"].dtype
        plain = Plain.of(weights, gate="jumprelu", centred=False, transcodes=transcodes, **given)
    notes = [] if "model" in about else ["its path names no release, so model and site are not known: say --model and --site"]
    if embedding:
        plain = Plain.of(
            weights, **{**vars(plain), "W_enc": plain.W_enc / sqrt(plain.d_in), "W_dec": plain.W_dec * sqrt(plain.d_in)}
        )
        notes.append("an embedding's coder: its weights were brought to the model's scale, by √d")
    return Found(plain=plain, files=(weights,), dtype=dtype, about=about, notes=tuple(notes))


def _about(path: Path) -> tuple[dict[str, Any], bool, bool]:
    """What a path says: facts, whether it is a transcoder, whether it is of the embedding."""
    text = path.absolute().as_posix()
    release, layer = RELEASE.search(text), re.search(r"layer_(\d{1,3})(?:/|$)", text)
    if release is None:
        return facts(), False, False
    model = f"gemma-2-{release[1]}{'-it' if release[2] == 'it' else ''}"
    transcodes, embedding = release[3] == "transcoders", "/embedding/" in text
    reads = "hook_embed" if embedding else HOOKS[release[3]].format(layer[1]) if layer else None
    predicts = f"mlp_out.{layer[1]}" if transcodes and layer else None
    found = facts(
        model=model, reads=reads, predicts=predicts, context=1024, bos=True,
        corpus=None if release[2] == "it" else "monology/pile-uncopyrighted",
    )  # fmt: skip
    return found, transcodes, embedding


def write(plain: Plain, directory: Path, about: Mapping[str, Any], dtype: torch.dtype) -> list[str]:
    if plain.W_skip is not None or plain.norm != "none":
        raise BadInput("Gemma Scope's files have neither skip paths nor normalised inputs. Export to saelens.")
    if dtype == torch.bfloat16:
        raise BadInput("NumPy has no bfloat16. Export with --dtype float32 or float16.")
    lost = ["model and site, which the path has to say"]
    if plain.gate in ("batch_topk", "matryoshka"):
        lost.append(f"{plain.gate} is written as JumpReLU: k is not kept")
    plain = (plain if plain.gate == "jumprelu" else plain.as_jumprelu()).with_centring(False)
    tensors = plain.to(dtype) | {"threshold": plain.thresholds}
    packed = io.BytesIO()
    arrays: dict[str, Any] = {name: tensors[name].numpy() for name in NAMES}
    np.savez(packed, **arrays)
    write_atomic(directory / WEIGHTS, packed.getvalue())
    return lost
