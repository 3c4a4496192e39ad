"""e2e_sae: Apollo's coders trained end to end (Braun et al. 2024, arXiv 2405.12241): samples_N.pt beside final_config.yaml.

A file may hold the coders of several places, each called after its hook (blocks-6-hook_resid_pre): `layer` says which. ReLU, b_dec not
taken off the input; decoder rows are made unit length whenever they are used, and so here. Of final_config.yaml single lines are read.
Written: ReLU coders, the lengths of free decoder rows in the encoder.
"""

from __future__ import annotations

import io
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from assay.errors import AssayError, BadInput
from assay.formats import torch_zip
from assay.formats.base import Found, Hints, facts, hook_of, resized, said_of, site_of
from assay.formats.files import damage, lines_of, taken
from assay.formats.plain import Plain
from assay.shapes import Float, Tensor
from assay.store import write_atomic

CONFIG = "final_config.yaml"
NAMES = {"W_enc": "encoder.0.weight", "b_enc": "encoder.0.bias", "W_dec": "decoder.weight", "b_dec": "decoder.bias"}
LAST_BITS = 1e-6
SAMPLES = re.compile(r"samples_(\d{1,15})\.pt")


def _file(path: Path) -> Path | None:
    """The file itself, or that of a directory whose training was longest."""
    if path.is_file():
        return path if path.suffix == ".pt" else None
    found = {int(name[1]): file for file in path.glob("samples_*.pt") if (name := SAMPLES.fullmatch(file.name))}
    return found[max(found)] if found else None


def _places(state: Any) -> list[str]:
    """The hooks, with hyphens, whose coders a file holds."""
    ending = f".{NAMES['W_enc']}"
    return [name.removesuffix(ending) for name in state if isinstance(name, str) and name.endswith(ending)]


def detect(path: Path) -> bool:
    file = _file(path)
    try:
        return file is not None and bool(_places(torch_zip.state_of(file, data=False)))
    except AssayError:
        return False


def read(path: Path, hints: Hints) -> Found:
    file = _file(path) or path
    state = torch_zip.state_of(file)
    place = _chosen(file, _places(state), hints.layer)
    given: dict[str, Any] = dict(zip(NAMES, taken(state, file, *(f"{place}.{name}" for name in NAMES.values()))))
    dtype = given["W_enc"].dtype
    with damage(file):
        given["W_enc"] = given["W_enc"].T
        given["W_dec"] = _unit(given["W_dec"].float().T)
        plain = Plain.of(file, gate="relu", centred=False, **given)
    config = file.with_name(CONFIG)
    said = lines_of(config) if config.is_file() else {}
    model = said.get("tlens_model_name")
    model = None if model in ("null", "None", "~") else model
    about = facts(model=model, reads=place.replace("-", "."))
    notes = () if model else (f"no {CONFIG} beside it says which model it is for: say --model",)
    return Found(plain=plain, files=(file, config) if said else (file,), dtype=dtype, about=about, notes=notes)


def _unit(rows: Float[Tensor, "d_sae d"]) -> Float[Tensor, "d_sae d"]:
    """Unit rows. Those that are, to the last bits, stay as they are: reading what was written changes nothing."""
    norms = rows.norm(dim=1, keepdim=True)
    return torch.where((norms - 1).abs() < LAST_BITS, rows, rows / norms.clamp_min(1e-12))


def _chosen(file: Path, places: list[str], layer: int | None) -> str:
    """The only place, or the only one of a layer."""
    found = [place for place in places if layer is None or f".{layer}." in f".{place.replace('-', '.')}."]
    if len(found) == 1:
        return found[0]
    there = ", ".join(place.replace("-", ".")[:60] for place in places[:20]) or "nowhere"
    raise BadInput(f"{file} holds coders at {there}. Say which by layer=, one whose layer has one alone.")


def write(plain: Plain, directory: Path, about: Mapping[str, Any], dtype: torch.dtype) -> list[str]:
    if plain.gate != "relu" or plain.transcodes or plain.W_skip is not None or plain.norm != "none":
        raise BadInput("e2e_sae has ReLU coders of unchanged inputs alone. Export to saelens.")
    said = said_of(about)
    if said["reads"] is None or said["predicts"] not in (None, said["reads"]):  # a crosscoder's form reads several at once
        raise BadInput(
            "e2e_sae's files are called after the place that a coder reads, and nobody knows this one's: import it with --site."
        )
    hook = hook_of(said["reads"]) if site_of(said["reads"]) else said["reads"]
    plain, norms = plain.with_centring(False), plain.W_dec.norm(dim=1)
    if lost := resized(norms):
        plain = plain.with_norms(norms)
    tensors = plain.to(dtype)
    for name in ("W_enc", "W_dec"):
        tensors[name] = tensors[name].T.contiguous()
    state = OrderedDict((f"{hook.replace('.', '-')}.{theirs}", tensors[ours]) for ours, theirs in NAMES.items())
    ratio = plain.d_sae / plain.d_in
    if int(ratio * plain.d_in) != plain.d_sae:  # as its loader counts
        ratio = (plain.d_sae + 0.5) / plain.d_in
    model = said["model"] or "null"
    text = f"tlens_model_name: {model}\ntlens_model_path: null\nsaes:\n  dict_size_to_input_ratio: {ratio!r}\n  sae_positions:\n  - {hook}\n"
    packed = io.BytesIO()
    torch.save(state, packed)
    write_atomic(directory / "samples_0.pt", packed.getvalue())
    write_atomic(directory / CONFIG, text)
    return lost
