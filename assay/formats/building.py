"""building: coders from plain numbers, and plain numbers from coders."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate
from typing import Any

import torch

from assay import coders, registry
from assay.coders.base import SparseCoder
from assay.coders.batch_topk import BatchTopK
from assay.coders.crosscoder import Crosscoder
from assay.coders.frozen_decoder import FrozenDecoder
from assay.coders.gated import Gated
from assay.coders.jumprelu import JumpReLU
from assay.coders.linear import LinearCoder
from assay.coders.matching_pursuit import MatchingPursuit
from assay.coders.matryoshka import Matryoshka, prefix_lengths
from assay.coders.normalised import Normalised
from assay.coders.p_anneal import PAnneal
from assay.coders.relu import ReLU
from assay.coders.skip_transcoder import SkipTranscoder
from assay.coders.topk import TopK
from assay.coders.transcoder import Transcoder
from assay.errors import BadInput
from assay.formats.plain import Gate, Plain
from assay.shapes import Float, Tensor

UNIT = 1e-2  # decoder rows whose lengths differ from 1 by less are taken as unit rows, also in half precision
STATE = {"threshold_batches": 1, "draws": 0, "b_in": 0.0, "site_scale": 1.0}
"""State of coders beside what `Plain` names."""
GATES: dict[type, Gate] = {
    ReLU: "relu", PAnneal: "relu", TopK: "topk", BatchTopK: "batch_topk", Matryoshka: "matryoshka", JumpReLU: "jumprelu",
    Gated: "gated",
}  # fmt: skip


@torch.no_grad()
def coder(plain: Plain, *, seed: int = 0) -> SparseCoder[Any]:
    """The coder that these numbers are, in eval mode. It has copies of them, and nothing is drawn that they would replace."""
    with torch.device("meta"):
        made = _unfilled(plain, seed)
    inner = getattr(made, "inner", made)
    if isinstance(inner, LinearCoder):
        plain = plain.with_centring(inner.centred)
    made.to_empty(device="cpu")
    for name, place in made.state_dict().items():
        place.copy_(_number(plain, name.removeprefix("inner.")))
    return made.eval()


def _unfilled(plain: Plain, seed: int) -> SparseCoder[Any]:
    """The same without its numbers."""
    widths = {"d_in": plain.d_in, "d_sae": plain.d_sae, "d_out": plain.d_out if plain.d_out != plain.d_in else None}
    if plain.gate == "matching_pursuit":
        _around(plain)
        settings = {name: getattr(plain, name) for name in ("k", "tolerance", "residual", "repeats")}
        return coders.new("matching_pursuit", seed=seed, **widths, **settings)
    settings, around = _settings(plain), _around(plain)
    if around is None:
        return coders.new(plain.gate, seed=seed, **widths, **settings)
    said = ",".join(f"{name}={value}" for name, value in settings.items())
    more = {"normalised": {"norm": plain.norm}, "crosscoder": {"widths": plain.widths}}.get(around, {})
    return coders.new(around, seed=seed, **widths, of=plain.gate, settings=said, **more)


def _number(plain: Plain, name: str) -> Tensor:
    """What a tensor of a coder's state holds. One that is not known here is an error: nothing is left to chance."""
    if name in STATE:
        return torch.tensor(STATE[name])
    if name == "log_threshold":
        return plain.thresholds.double().clamp_min(torch.finfo(torch.float32).tiny).log()
    return getattr(plain, name)


def _around(plain: Plain) -> str | None:
    """The architecture around the gate's, where there is one."""
    special = plain.transcodes or plain.W_skip is not None or plain.gate == "matching_pursuit"
    if (plain.norm != "none" and (special or plain.widths)) or (plain.widths and special):
        raise BadInput(
            "Transcoders, skip paths, matching pursuits, crosscoders and normalised vectors: two of these in one coder have no counterpart "
            "among Assay's architectures."
        )
    if plain.norm != "none":
        return "normalised"
    if plain.widths:
        return "crosscoder"
    if plain.W_skip is not None:
        return "skip_transcoder"
    return "transcoder" if plain.transcodes or plain.d_in != plain.d_out else None


def _settings(plain: Plain) -> dict[str, Any]:
    """Settings of the gate's architecture, so far as they decide what the coder does."""
    known = {s.name for s in registry.CODERS.settings(plain.gate)}
    settings: dict[str, Any] = {"k": plain.k} if plain.k is not None and "k" in known else {}
    chooses = plain.gate in ("topk", "batch_topk", "matryoshka")  # a free decoder weighs the choice with lengths of rows
    free = plain.weighed if chooses else float((plain.W_dec.norm(dim=1) - 1).abs().max()) > UNIT
    if free and not plain.widths:  # a crosscoder has a norm of its own
        settings["decoder"] = "free"
    if "centred" in known and not plain.centred:
        settings["centred"] = False
    if plain.gate == "matryoshka":
        settings["fractions"] = ",".join(f"{m}/{plain.d_sae}" for m in accumulate(plain.groups[:-1])) + ",1"
        settings["fractions"] = settings["fractions"].lstrip(",")
    return settings


@torch.no_grad()
def plain(coder: SparseCoder[Any]) -> Plain:
    """The numbers of a coder: its function in eval mode. `BadInput` where it is of a kind that no other library knows."""
    if isinstance(coder, FrozenDecoder):
        return plain(coder.inner)
    if isinstance(coder, Normalised):
        return replace(plain(coder.inner), norm=coder.config.norm)
    if isinstance(coder, Crosscoder):
        found = replace(plain(coder.inner).with_centring(False), widths=tuple(coder.widths))
        return found.with_scale(coder.site_scale.tolist())
    if isinstance(coder, MatchingPursuit):
        stops = {name: getattr(coder.config, name) for name in ("k", "tolerance", "residual", "repeats")}
        W_dec, b_enc = _bare(coder.W_dec), torch.zeros(coder.d_sae)
        return Plain(
            gate="matching_pursuit", W_enc=W_dec.T, b_enc=b_enc, W_dec=W_dec, b_dec=_bare(coder.b_dec), centred=True, **stops
        )
    if isinstance(coder, Transcoder):
        found = plain(coder.inner)
        off = coder.b_in.detach().cpu()
        found = replace(found, transcodes=True, b_enc=_less(found.b_enc, off, found.W_enc))
        if found.b_mag is not None and found.r_mag is not None:
            found = replace(found, b_mag=_less(found.b_mag, off, found.W_enc, found.r_mag.exp()))
        if isinstance(coder, SkipTranscoder):
            W_skip = coder.W_skip.detach().cpu().float()
            found = replace(found, W_skip=W_skip, b_dec=_less(found.b_dec, off, W_skip))
        return found
    gate = GATES.get(type(coder))
    if gate is None or not isinstance(coder, LinearCoder):
        raise BadInput(f"{type(coder).__name__} has no counterpart in other libraries, so it cannot be exported.")
    weighed = coder.free and gate in ("topk", "batch_topk", "matryoshka")
    given: dict[str, Any] = {name: _bare(getattr(coder, name)) for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    if isinstance(coder, Gated):
        given |= {"r_mag": _bare(coder.r_mag), "b_mag": _bare(coder.b_mag)}
    if isinstance(coder, JumpReLU):
        given["threshold"] = _bare(coder.log_threshold.double().exp())
    if isinstance(coder, TopK | BatchTopK):
        given["k"] = coder.config.k
    if isinstance(coder, BatchTopK):
        given["threshold"] = _bare(coder.threshold)
    if isinstance(coder, Matryoshka):
        lengths = prefix_lengths(coder.config.fractions, coder.d_sae) if coder.config.prefixes == "fixed" else [coder.d_sae]
        given["groups"] = tuple(b - a for a, b in zip([0, *lengths], lengths))
    return Plain(gate=gate, centred=coder.centred, weighed=weighed, transcodes=coder.d_in != coder.d_out, **given)


def _bare(value: Tensor) -> Tensor:
    return value.detach().cpu().float()


def _less(bias: Tensor, off: Tensor, W: Float[Tensor, "d_in d"], gain: Tensor | float = 1.0) -> Tensor:
    """bias − gain · (off @ W): what is taken off the input, moved into a bias."""
    if not bool(off.any()):
        return bias
    moved = (off.double() @ W.double()) * gain
    return (bias.double() - moved).float()
