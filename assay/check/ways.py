"""ways: how a coder may be meant to be used: as given, and with one thing otherwise each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import log2, sqrt
from typing import TYPE_CHECKING, Any

import torch

from assay.check.judging import ALIKE, Cause, Said, Tally
from assay.coders.base import SparseCoder
from assay.models.base import Model, Site
from assay.shapes import Float, Tensor

if TYPE_CHECKING:
    from assay.corpora.pack import Tokens

SCALES = [2.0**i for i in range(-12, 13)]
NEARBY = 2  # layers to each side whose sites are tried

Through = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From vectors to what a coder makes of them, and how many latents fire on each."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to use a coder."""

    cause: Cause | None
    what: str
    mend: str
    reads: Site
    predicts: Site
    through: Through
    other_rows: bool = False


def ways(coder: SparseCoder[Any], model: Model, reads: Site, target: Site, said: Said, x: Tensor, y: Tensor) -> Iterator[Way]:
    """As given, and with one thing otherwise each. `x` and `y`: some vectors of both sites."""
    plain = used(coder)
    here: dict[str, Any] = {"reads": reads, "predicts": target}
    yield Way(cause=None, what="as given", mend="", through=plain, **here)
    for a, b in _near(coder, model, reads, target):
        where = str(a) if a == b else f"{a} to {b}"
        yield Way(cause="site", what=f"at {where}", mend=f"say --site {a}", reads=a, predicts=b, through=plain)
    if scale := _scale(plain, said, x, y):
        known = _known_scale(scale, x)
        yield Way(
            cause="scale", what=f"activations times {scale:.3g}{known}", through=_scaled(plain, scale), **here,
            mend=f"import it again with --scale {scale:.4g}, times what was said before",
        )  # fmt: skip
    if coder.d_in == coder.d_out:
        for norm, words in (
            ("layer", "each vector less its mean and over its standard deviation"),
            ("length", "each vector of length √d"),
        ):
            mend = "its own library normalises vectors, which these files do not say: see the architecture `normalised`"
            yield Way(cause="norm", what=words, mend=mend, through=_normed(plain, norm), **here)
    yield from (
        Way(cause=cause, what=what, mend=mend, through=through, **here) for cause, what, mend, through in _rewired(coder)
    )


def _near(coder: SparseCoder[Any], model: Model, reads: Site, target: Site) -> list[tuple[Site, Site]]:
    """Other pairs of sites of the coder's widths: of layers near by, and of other kinds there."""
    there = [s for s in model.sites() if abs(s.layer - reads.layer) <= NEARBY and s == _place(s) != _place(reads)]
    pairs = [(a, a) if reads == target else (a, Site(target.kind, target.layer + a.layer - reads.layer)) for a in there]
    sites = set(model.sites())
    return [(a, b) for a, b in pairs if b in sites and (model.d(a), model.d(b)) == (coder.d_in, coder.d_out)]


def _place(site: Site) -> Site:
    """A site by one name: what enters a block is what left the one before it."""
    return Site("resid_post", site.layer - 1) if site.kind == "resid_pre" and site.layer else site


def rows_otherwise(coder: SparseCoder[Any], reads: Site, target: Site, other: Tokens) -> Way:
    bos, words = ("never", "without") if other.packing.bos is None else ("always", "with")
    return Way(
        cause="bos", what=f"rows {words} BOS", mend=f"say --bos {bos}", reads=reads, predicts=target, through=used(coder),
        other_rows=True,
    )  # fmt: skip


def used(coder: SparseCoder[Any]) -> Through:
    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        code = coder.encode(x)
        return coder.decode(code), code.latents.l0()

    return run


def _scaled(plain: Through, scale: float) -> Through:
    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        y, l0 = plain(x * scale)
        return y / scale, l0

    return run


def _normed(plain: Through, norm: str) -> Through:
    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        centre = x.mean(-1, keepdim=True) if norm == "layer" else torch.zeros_like(x[..., :1])
        spread = x.std(-1, keepdim=True) if norm == "layer" else x.norm(dim=-1, keepdim=True) / sqrt(x.shape[-1])
        spread = spread.clamp_min(1e-6)
        y, l0 = plain((x - centre) / spread)
        return y * spread + centre, l0

    return run


def _rewired(coder: SparseCoder[Any]) -> Iterator[tuple[Cause, str, str, Through]]:
    """With square matrices the other way round, and b_dec taken off the input or not."""
    inner = getattr(coder, "inner", coder)
    for name in ("W_enc", "W_dec", "W_skip"):
        owner = inner if isinstance(getattr(inner, name, None), torch.nn.Parameter) else coder
        matrix = getattr(owner, name, None)
        if isinstance(matrix, torch.nn.Parameter) and matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1]:
            twin = coder.clone().eval()
            turned = getattr(twin, "inner", twin) if owner is inner and owner is not coder else twin
            getattr(turned, name).copy_(matrix.T)
            mend = f"{name} is square, so nothing tells which way round it lies in the file: turn it there, and import it again"
            yield "orientation", f"{name} transposed", mend, used(twin)
    b_dec = getattr(inner, "b_dec", None)
    if coder.d_in == coder.d_out and isinstance(b_dec, Tensor) and hasattr(inner, "centred") and bool(b_dec.any()):
        off, words = (b_dec, "b_dec not taken off the input") if inner.centred else (-b_dec, "b_dec taken off the input")
        mend = "its file says otherwise, or was read in the wrong format: say --format"
        yield "centring", words, mend, lambda x: used(coder)(x + off)


def _scale(plain: Through, said: Said, x: Float[Tensor, "n d"], y: Float[Tensor, "n d"]) -> float | None:
    """The factor at which a coder fits best, where that is not near 1."""

    def misfit(scale: float) -> float:
        tally = Tally(y.shape[1])
        tally.add(y, *_scaled(plain, scale)(x))
        return tally.fit().misfit(said)

    best = min(SCALES, key=misfit)
    best = min((best * 2.0 ** (i / 6) for i in range(-4, 5)), key=misfit)
    return None if 1 / ALIKE < best < ALIKE else best


def _known_scale(scale: float, x: Float[Tensor, "n d"]) -> str:
    """What a factor probably is."""
    length, rms, root = float(x.norm(dim=-1).mean()), float(x.square().sum(-1).mean().sqrt()), sqrt(x.shape[-1])
    known = {
        "√d over their mean length": root / length, "their mean length over √d": length / root,
        "1 over their root mean square length": 1 / rms, "their root mean square length": rms,
    }  # fmt: skip
    words, value = min(known.items(), key=lambda one: abs(log2(scale / one[1])))
    return f", about {words} ({value:.3g})" if 1 / ALIKE < scale / value < ALIKE else ""
