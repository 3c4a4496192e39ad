"""crosscoder: crosscoders of two models (ckkissane/crosscoder-model-diff-replication; Lindsey et al. 2024): cc_weights.pt beside cfg.json.

Also as its training leaves them, N.pt beside N_cfg.json. ReLU, nothing taken off the input; here the architecture `crosscoder`, whose sites
are the models in their order. Latents and decoder rows keep their size. Training multiplies each model's activations by a factor that the
files do not hold: say them as scale, one a model. Written: crosscoders of ReLU, of two sites of one width.
"""

from __future__ import annotations

import io
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from assay import codec
from assay.errors import BadInput, DamagedFile
from assay.formats import torch_zip
from assay.formats.base import Found, Hints, facts, home, hook_of, said_of, site_of
from assay.formats.files import Facts, damage, taken
from assay.formats.plain import Plain
from assay.store import write_atomic

TAKES = ("sites",)
WEIGHTS, CONFIG = "cc_weights.pt", "cfg.json"
NAMES = ("W_enc", "b_enc", "W_dec", "b_dec")
TYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
UNSCALED = (
    "training multiplied each model's activations by a factor that the files do not hold, and the weights expect them: say them as "
    "scale, one a model"
)


def _files(path: Path) -> tuple[Path, Path] | None:
    """Weights and configuration."""
    if directory := home(path, WEIGHTS, CONFIG):
        return directory / WEIGHTS, directory / CONFIG
    if path.is_file() and (number := re.fullmatch(r"(\d{1,9})(?:\.pt|_cfg\.json)", path.name)):
        found = path.with_name(f"{number[1]}.pt"), path.with_name(f"{number[1]}_cfg.json")
        return found if all(file.is_file() for file in found) else None
    return None


def detect(path: Path) -> bool:
    return _files(path) is not None


def read(path: Path, hints: Hints) -> Found:
    weights, config = _files(path) or (path, path.with_name(CONFIG))
    cfg, state = Facts.of(config), torch_zip.state_of(weights)
    given: dict[str, Any] = dict(zip(NAMES, taken(state, weights, *NAMES)))
    dtype = given["W_enc"].dtype
    with damage(weights):
        models, d_in, d_sae = given["W_enc"].shape
        for name, shape in (("W_dec", (d_sae, models, d_in)), ("b_dec", (models, d_in))):
            if given[name].shape != shape:
                raise DamagedFile(f"{weights}: {name} has shape {tuple(given[name].shape)}; {shape} fits W_enc.")
        given["W_enc"] = given["W_enc"].reshape(models * d_in, d_sae)
        given["W_dec"] = given["W_dec"].reshape(d_sae, models * d_in)
        given["b_dec"] = given["b_dec"].reshape(-1)
        plain = Plain.of(weights, gate="relu", centred=False, widths=(d_in,) * models, **given)
    cfg.check("d_in", d_in)
    cfg.check("dict_size", d_sae)
    hook = cfg.word("hook_point", None)
    about = facts(reads=hook, predicts="each of its models there", context=cfg.whole("seq_len", None))
    about["said"] |= {"models": name} if (name := cfg.word("model_name", None)) else {}
    notes = () if hints.scale is not None else (UNSCALED,)
    return Found(plain=plain, files=(config, weights), dtype=dtype, about=about, notes=notes)


def write(plain: Plain, directory: Path, about: Mapping[str, Any], dtype: torch.dtype) -> list[str]:
    if plain.gate != "relu" or len(plain.widths) != 2 or len(set(plain.widths)) != 1:
        raise BadInput(
            "These files hold crosscoders of ReLU, of two models at sites of one width. Export others to llamascopium, or each site's coder."
        )
    tensors, (d_in, _) = plain.to(dtype), plain.widths
    tensors["W_enc"] = tensors["W_enc"].reshape(2, d_in, plain.d_sae)
    tensors["W_dec"] = tensors["W_dec"].reshape(plain.d_sae, 2, d_in)
    tensors["b_dec"] = tensors["b_dec"].reshape(2, d_in)
    said = said_of(about)
    place = said["reads"]
    config = {
        "seed": 0, "d_in": d_in, "dict_size": plain.d_sae, "enc_dtype": TYPES.get(dtype, "fp32"), "dec_init_norm": 0.08, "device": "cpu",
        "model_name": (about.get("said") or {}).get("models") or said["model"], "seq_len": said["context"],
        "hook_point": hook_of(place) if place and site_of(place) else place,
    }  # fmt: skip
    packed = io.BytesIO()
    torch.save(OrderedDict((name, tensors[name]) for name in NAMES), packed)
    write_atomic(directory / WEIGHTS, packed.getvalue())
    write_atomic(directory / CONFIG, codec.to_json({name: value for name, value in config.items() if value is not None}))
    return ["which models its sites are of"]
