"""circuit_tracer_clt: cross-layer transcoders of circuit-tracer, a layer at a time: W_enc_N.safetensors, W_dec_N.safetensors, config.yaml.

Latents of layer N read one place and write to the layers from N on. Here each layer is a transcoder that predicts all these layers side by
side, b_dec that of layer N alone: so the parts that all layers write to one layer add up to what the transcoder says of it. One
layer by itself predicts nothing whole; its latents, and what they write, are exact. ReLU and JumpReLU. Read only.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from assay.errors import BadInput
from assay.formats.base import Found, Hints, facts, slice_note
from assay.formats.circuit_tracer import CONFIG, placed
from assay.formats.files import damage, lines_of, safetensors_of, taken
from assay.formats.plain import Plain, cross_layer

FILE = re.compile(r"W_(?:enc|dec)_(\d{1,3})\.safetensors")


def _layers(path: Path) -> list[int]:
    """Layers whose encoder and decoder lie in a directory; that of a file."""
    if path.is_file():
        found = FILE.fullmatch(path.name)
        return [layer for layer in _layers(path.parent) if layer == int(found[1])] if found else []
    names = {file.name for file in path.glob("W_*.safetensors")}
    found = sorted(int(name[1]) for name in map(FILE.fullmatch, names) if name)
    return [layer for layer in dict.fromkeys(found) if {f"W_{end}_{layer}.safetensors" for end in ("enc", "dec")} <= names]


def detect(path: Path) -> bool:
    return bool(_layers(path))


def read(path: Path, hints: Hints) -> Found:
    directory, found = path.parent if path.is_file() else path, _layers(path)
    if hints.layer is not None:
        found = [layer for layer in found if layer == hints.layer]
    if len(found) != 1:
        there = _layers(directory)
        raise BadInput(
            f"{path} is a cross-layer transcoder, read one layer at a time; it has layers {there[0]} to {there[-1]}. Give the path of one's "
            f"file, such as {directory / f'W_enc_{there[0]}.safetensors'}, or layer=."
            if there
            else f"{path} is no layer of a cross-layer transcoder: W_enc_N.safetensors and W_dec_N.safetensors belong together."
        )
    (layer,) = found
    files = [directory / f"W_{end}_{layer}.safetensors" for end in ("enc", "dec")]
    first, second = (safetensors_of(file) for file in files)
    W_enc, b_enc, b_dec = taken(first, files[0], *(f"{name}_{layer}" for name in ("W_enc", "b_enc", "b_dec")))
    (W_dec,) = taken(second, files[1], f"W_dec_{layer}")
    dtype, theta = W_enc.dtype, first.get(f"threshold_{layer}")
    gate: dict[str, Any] = {"gate": "relu"} if theta is None else {"gate": "jumprelu", "threshold": theta}
    with damage(files[1]):
        targets = W_dec.shape[1]
        W_dec, b_dec = cross_layer(W_dec, b_dec)
        plain = Plain.of(files[0], W_enc=W_enc.T, b_enc=b_enc, W_dec=W_dec, b_dec=b_dec, centred=False, transcodes=True, **gate)
    config = directory / CONFIG
    said = lines_of(config) if config.is_file() else {}
    places = [placed(said.get("feature_input_hook"), layer)]
    places += [placed(said.get("feature_output_hook"), layer + i) for i in range(targets)]
    about = facts(model=said.get("model_name"), reads=places[0], predicts=", ".join(filter(None, places[1:])) or None)
    notes = [slice_note(layer, layer + targets)]
    notes += [] if said.get("model_name") else [f"no {CONFIG} beside it says which model it is for: say --model"]
    return Found(plain=plain, files=(*files, config) if said else tuple(files), dtype=dtype, about=about, notes=tuple(notes))
