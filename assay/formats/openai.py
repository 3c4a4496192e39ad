"""openai: OpenAI's coders of GPT-2 small (Gao et al. 2024, arXiv 2406.04093): one file a layer, LAYER.pt.

ReLU coders (v1, v4) read activations as they are; TopK coders (v5_32k, v5_128k) each vector less its mean and divided by its standard
deviation, here the architecture `normalised`. Layer and place are read from the path, as the releases lay it out:
gpt2-small/resid_post_mlp_v5_32k/autoencoders/8.pt. The statistics of training in the file get lost. Written: ReLU coders, and
normalised TopK coders.
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
from assay.formats.base import Found, Hints, facts, said_of, site_of
from assay.formats.files import Facts, damage, taken
from assay.formats.plain import Plain
from assay.store import write_atomic

NAMES = {"W_enc": "encoder.weight", "b_enc": "latent_bias", "W_dec": "decoder.weight", "b_dec": "pre_bias"}
SITES = {
    "resid_post_mlp": "resid_post",
    "resid_post_attn": "resid_mid",
    "resid_delta_mlp": "mlp_out",
    "resid_delta_attn": "attn_out",
}
PLACE = re.compile(
    r"(mlp_post_act|resid_delta_attn|resid_delta_mlp|resid_post_attn|resid_post_mlp)[^/]*/(?:autoencoders/)?(\d{1,3})\.pt$"
)


def detect(path: Path) -> bool:
    file = _file(path)
    try:
        return file is not None and set(NAMES.values()) <= set(torch_zip.state_of(file, data=False))
    except AssayError:
        return False


def _file(path: Path) -> Path | None:
    """The file itself, or the one .pt of a directory."""
    if path.is_file():
        return path if path.suffix == ".pt" else None
    found = list(path.glob("*.pt"))
    return found[0] if len(found) == 1 else None


def read(path: Path, hints: Hints) -> Found:
    file = _file(path) or path
    state = torch_zip.state_of(file)
    said = Facts(file, state)
    activation = said.word("activation", "ReLU")
    if activation not in ("ReLU", "TopK"):
        raise BadInput(f"{file}: the activation {activation[:40]!r} has no counterpart here. Read: ReLU, TopK.")
    given: dict[str, Any] = dict(zip(NAMES, taken(state, file, *NAMES.values())))
    dtype = given["W_enc"].dtype
    with damage(file):
        for name in ("W_enc", "W_dec"):
            given[name] = given[name].T
        if activation == "TopK":
            kept = said.part("activation_state_dict")
            if (after := kept.word("postact_fn", "ReLU")) != "ReLU":
                raise BadInput(f"{file}: TopK followed by {after[:40]!r} has no counterpart here.")
            given |= {"k": kept.whole("k"), "norm": "layer"}
        plain = Plain.of(file, gate="topk" if activation == "TopK" else "relu", centred=True, **given)
    place = PLACE.search(file.absolute().as_posix())
    reads = f"{SITES.get(place[1], place[1])}.{place[2]}" if place else None
    notes = () if place else ("its path does not say where it reads: say --site",)
    about = facts(model="gpt2-small", reads=reads, context=64)
    return Found(plain=plain, files=(file,), dtype=dtype, about=about, notes=notes)


def write(plain: Plain, directory: Path, about: Mapping[str, Any], dtype: torch.dtype) -> list[str]:
    if plain.transcodes or plain.W_skip is not None or (plain.gate, plain.norm) not in (("relu", "none"), ("topk", "layer")):
        raise BadInput(
            "OpenAI's files hold ReLU coders, and TopK coders of layer-normalised vectors (architecture normalised). Export to saelens."
        )
    tensors = plain.with_centring(True).to(dtype)
    state: dict[str, Any] = OrderedDict((theirs, tensors[ours]) for ours, theirs in NAMES.items())
    for name in ("encoder.weight", "decoder.weight"):
        state[name] = state[name].T.contiguous()
    for name in ("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square"):
        state[name] = torch.zeros(plain.d_sae, dtype=torch.int64 if name.startswith("stats") else torch.float32)
    state["activation"] = "TopK" if plain.gate == "topk" else "ReLU"
    if plain.gate == "topk":
        state["activation_state_dict"] = {"k": plain.k, "postact_fn": "ReLU"}
    site = site_of(said_of(about)["reads"])
    packed = io.BytesIO()
    torch.save(state, packed)
    write_atomic(directory / f"{site.layer if site else 0}.pt", packed.getvalue())
    return ["model and site, which the path has to say"]
