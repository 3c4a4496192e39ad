"""bussmann: Bart Bussmann's BatchTopK and matryoshka_sae (Bussmann et al. 2024, arXiv 2412.06410; 2025, arXiv 2503.17547): sae.pt, config.json.

`sae_type` decides: vanilla, topk, batchtopk (batch-topk), jumprelu, global-matryoshka-topk. All but vanilla and jumprelu ignore b_enc, and
all but jumprelu take b_dec off the input; `input_unit_norm` is the architecture `normalised`. The BatchTopK repository keeps no threshold:
its files are read with one of 0. Written: all of these, where b_enc is 0 if the type ignores it; BatchTopK otherwise as jumprelu.
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
from assay.formats.base import NO_THRESHOLD, Found, Hints, facts, home, hook_of, resized, said_of, site_of
from assay.formats.files import Facts, damage, taken
from assay.formats.plain import Gate, Plain
from assay.shapes import Tensor
from assay.store import write_atomic

TAKES = ("weighed",)
WEIGHTS, CONFIG = "sae.pt", "config.json"
NAMES = ("W_enc", "b_enc", "W_dec", "b_dec")
THRESHOLD = "jumprelu.log_threshold"
TYPES: dict[str, Gate] = {
    "vanilla": "relu", "topk": "topk", "batchtopk": "batch_topk", "batch-topk": "batch_topk", "jumprelu": "jumprelu",
    "global-matryoshka-topk": "matryoshka",
}  # fmt: skip
BIASED = ("relu", "jumprelu")
"""Gates that use b_enc."""


def detect(path: Path) -> bool:
    return home(path, WEIGHTS, CONFIG) is not None


def read(path: Path, hints: Hints) -> Found:
    directory = home(path, WEIGHTS, CONFIG) or path
    cfg, weights = Facts.of(directory / CONFIG), directory / WEIGHTS
    kind = cfg.word("sae_type")
    if kind not in TYPES:
        raise BadInput(f"{cfg.path}: sae_type {kind[:60]!r} has no counterpart here. Read: {', '.join(TYPES)}.")
    if (act := cfg.word("activation", "relu")) != "relu" or cfg.flag("tied_weights", False):
        raise BadInput(
            f"{cfg.path}: {'tied weights' if act == 'relu' else act[:40]} have no counterpart here. Read: relu, untied."
        )
    state, gate, notes = torch_zip.state_of(weights), TYPES[kind], []
    given: dict[str, Any] = dict(zip(NAMES, taken(state, weights, *NAMES)))
    dtype = given["W_enc"].dtype
    with damage(weights):
        if gate not in BIASED and not cfg.flag("use_encoder_bias", False):
            given["b_enc"] = torch.zeros_like(given["b_enc"])
        if gate == "jumprelu":
            given["threshold"] = taken(state, weights, THRESHOLD)[0].double().exp()
        if gate in ("topk", "batch_topk", "matryoshka"):
            given["k"] = cfg.whole("top_k")
        if gate in ("batch_topk", "matryoshka"):
            given["threshold"] = state.get("threshold", torch.zeros(()))
        if gate == "batch_topk" and not isinstance(state.get("threshold"), Tensor):
            notes.append(NO_THRESHOLD.format(given["k"]))
        if gate == "matryoshka":
            given["groups"] = _groups(cfg, given["W_dec"].shape[0])
        norm = "layer" if cfg.flag("input_unit_norm", False) else "none"
        plain = Plain.of(weights, gate=gate, centred=gate != "jumprelu", norm=norm, **given)
    cfg.check("act_size", plain.d_in)
    cfg.check("dict_size", plain.d_sae)
    about = facts(
        model=cfg.word("model_name", None), reads=cfg.word("hook_point", None), context=cfg.whole("seq_len", None),
        corpus=cfg.word("dataset_path", None),
    )  # fmt: skip
    return Found(plain=plain, files=(cfg.path, weights), dtype=dtype, about=about, notes=tuple(notes))


def _groups(cfg: Facts, d_sae: int) -> tuple[int, ...]:
    """Sizes of the groups of latents, which its configuration has as text: "[4, 4, 8]"."""
    said = cfg.word("group_sizes")
    found = tuple(int(size) for size in re.findall(r"\d{1,12}", said)) if re.fullmatch(r"[\[\]\d, ]*", said) else ()
    if min(found, default=0) < 1 or sum(found) != d_sae:
        raise DamagedFile(f"{cfg.path}: group_sizes must read like [4, 4, 8] and add up to {d_sae}, got {said[:60]!r}.")
    return found


def write(plain: Plain, directory: Path, about: Mapping[str, Any], dtype: torch.dtype) -> list[str]:
    if plain.transcodes or plain.W_skip is not None or plain.norm == "length":
        raise BadInput("Bussmann's files have neither transcoders nor vectors of one length. Export to saelens.")
    plain, lost = _fitting(plain)
    plain = plain.with_centring(plain.gate != "jumprelu")
    tensors = plain.to(dtype)
    state: dict[str, Tensor] = OrderedDict((name, tensors[name]) for name in ("b_dec", "b_enc", "W_enc", "W_dec"))
    if plain.gate == "jumprelu":
        state[THRESHOLD] = plain.thresholds.double().clamp_min(torch.finfo(torch.float32).tiny).log().float()
    elif plain.threshold is not None:
        state["threshold"] = plain.threshold
    said = said_of(about)
    site = site_of(said["reads"])
    config = {
        "sae_type": {"batch_topk": "batch-topk"}.get(plain.gate) or next(name for name, gate in TYPES.items() if gate == plain.gate),
        "act_size": plain.d_in, "dict_size": plain.d_sae, "top_k": plain.k, "group_sizes": str(list(plain.groups)) if plain.groups else None,
        "input_unit_norm": plain.norm == "layer", "dtype": str(dtype), "device": "cpu", "seed": 0, "model_name": said["model"],
        "site": site.kind if site else None, "layer": site.layer if site else None, "seq_len": said["context"],
        "hook_point": hook_of(said["reads"]) if site else said["reads"], "dataset_path": said["corpus"],
    }  # fmt: skip
    packed = io.BytesIO()
    torch.save(state, packed)
    write_atomic(directory / WEIGHTS, packed.getvalue())
    write_atomic(directory / CONFIG, codec.to_json({name: value for name, value in config.items() if value is not None}))
    return lost


def _fitting(plain: Plain) -> tuple[Plain, list[str]]:
    """The same function as one of its types, and what got lost."""
    biased = bool(plain.with_centring(True).b_enc.any())
    if plain.gate == "gated":
        return plain.as_jumprelu(), ["gated is written as jumprelu"]
    if plain.gate in BIASED or not biased:
        return (plain.unweighed(), resized(plain.W_dec.norm(dim=1))) if plain.weighed else (plain, [])
    if plain.gate == "topk":
        raise BadInput("Bussmann's TopK coders have no encoder bias; this one's is not 0. Export to saelens.")
    return plain.as_jumprelu(), [f"{plain.gate} with an encoder bias is written as jumprelu: k is not kept"]
