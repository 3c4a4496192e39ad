"""circuit_tracer: transcoders of circuit-tracer (safety-research), one file a layer, layer_N.safetensors, beside config.yaml.

ReLU, JumpReLU and TopK, with and without a skip path; both matrices have one row a latent. config.yaml, of which single lines are read, names
the model and both places. Of TopK it keeps also negative values among the k largest; here these are 0. Written: transcoders of ReLU and
JumpReLU as wide at both ends, which its loader opens. Its cross-layer transcoders are circuit_tracer_clt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from assay.errors import BadInput
from assay.formats.base import Found, Hints, facts, hook_of, said_of, site_of
from assay.formats.files import damage, lines_of, safetensors_of, taken
from assay.formats.plain import Plain
from assay.store import write_atomic

TAKES = ("weighed",)  # as thresholds, one a latent
FILE = re.compile(r"layer_(\d{1,3})\.safetensors")
CONFIG = "config.yaml"
NAMES = ("W_enc", "b_enc", "W_dec", "b_dec")
THRESHOLD = "activation_function.threshold"


def _file(path: Path) -> Path | None:
    """The file itself, or the one of a directory."""
    found = [path] if path.is_file() else list(path.glob("layer_*.safetensors"))
    return found[0] if len(found) == 1 and FILE.fullmatch(found[0].name) else None


def detect(path: Path) -> bool:
    return _file(path) is not None


def read(path: Path, hints: Hints) -> Found:
    file = _file(path) or path
    config, said = file.with_name(CONFIG), {}
    if config.is_file():
        said = lines_of(config)
    tensors = safetensors_of(file)
    given: dict[str, Any] = dict(zip(NAMES, taken(tensors, file, *NAMES)))
    dtype = given["W_enc"].dtype
    with damage(file):
        given["W_enc"] = given["W_enc"].T
        if "W_skip" in tensors:
            given["W_skip"] = tensors["W_skip"].T
        k = hints.k if hints.k is not None else int(tensors["k"]) if "k" in tensors else _whole(said.get("k"))
        if k is not None:
            given |= {"gate": "topk", "k": k}
        elif THRESHOLD in tensors:
            given |= {"gate": "jumprelu", "threshold": tensors[THRESHOLD].reshape(-1 if tensors[THRESHOLD].numel() > 1 else ())}
        else:
            given["gate"] = "relu"
        if said.get("activation") == "topk" and given["gate"] != "topk":
            raise BadInput(f"{file}: how many latents it keeps is not said. Say k= or --k.")
        plain = Plain.of(file, centred=False, transcodes=True, **given)
    layer = FILE.fullmatch(file.name)
    places = [placed(said.get(f"feature_{way}_hook"), layer[1] if layer else None) for way in ("input", "output")]
    about = facts(model=said.get("model_name"), reads=places[0], predicts=places[1])
    notes = () if said.get("model_name") else (f"no {CONFIG} beside it says which model it is for: say --model",)
    return Found(plain=plain, files=(file, config) if said else (file,), dtype=dtype, about=about, notes=notes)


def _whole(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"\d{1,9}", text) else None


def placed(hook: str | None, layer: str | int | None) -> str | None:
    """A hook such as hook_mlp_out or mlp.hook_in, in its layer."""
    if not hook or layer is None:
        return hook
    full = f"blocks.{layer}.{hook}"
    site = site_of(full)
    return str(site) if site else full


def write(plain: Plain, directory: Path, about: Mapping[str, Any], dtype: torch.dtype) -> list[str]:
    if not plain.transcodes or plain.norm != "none" or plain.d_in != plain.d_out:
        raise BadInput("circuit-tracer has transcoders alone, as wide at both ends. Export to saelens.")
    lost = [f"{plain.gate} is written as JumpReLU"] if plain.gate in ("batch_topk", "matryoshka", "gated") else []
    if plain.gate == "topk":
        raise BadInput(
            "circuit-tracer's loader knows ReLU and JumpReLU alone, and this is TopK. Export to sparsify, or `assay surgery convert` it."
        )
    plain = (plain if plain.gate in ("relu", "jumprelu") else plain.as_jumprelu()).with_centring(False)
    tensors = plain.to(dtype)
    kept = {name: tensors[name] for name in NAMES} | {"W_enc": tensors["W_enc"].T.contiguous()}
    if plain.W_skip is not None:
        kept["W_skip"] = tensors["W_skip"].T.contiguous()
    if plain.threshold is not None:
        kept[THRESHOLD] = plain.thresholds
    said = said_of(about)
    site = site_of(said["reads"])
    hooks = {f"feature_{way}_hook": said[name] for way, name in (("input", "reads"), ("output", "predicts"))}
    lines = {"model_name": said["model"]} | {key: _bare(value) for key, value in hooks.items()}
    text = "".join(f'{key}: "{value}"\n' for key, value in lines.items() if value)
    write_atomic(directory / f"layer_{site.layer if site else 0}.safetensors", save(kept))
    write_atomic(directory / CONFIG, text)
    return lost


def _bare(place: str | None) -> str | None:
    """TransformerLens' name of a place without its layer."""
    return hook_of(place).split(".", 2)[2] if place and site_of(place) else None
