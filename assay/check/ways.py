"""ways: how a coder may be meant to be used: as given, and with one thing otherwise each, which may then be put together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import log2, sqrt
from typing import TYPE_CHECKING, Any, Literal

import torch

from assay.check.judging import ALIKE, Cause, Said, Tally
from assay.coders.base import SparseCoder
from assay.models.base import Model, Site
from assay.shapes import Float, Tensor
from assay.splice import home

if TYPE_CHECKING:
    from assay.corpora.pack import Tokens

SCALES = [2.0**i for i in range(-12, 13)]
NEARBY = 2  # layers to each side in which sites of other kinds are tried; those of its own kind are tried in all


@dataclass(frozen=True, kw_only=True)
class Use:
    """One way to use a coder: on what, and what is done to vectors before it (and undone behind it)."""

    coder: SparseCoder[Any]
    reads: Site
    predicts: Site
    scale: float = 1.0
    norm: Literal["layer", "length"] | None = None
    shift: Tensor | None = None
    other_rows: bool = False

    def through(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the coder makes of vectors, and how many latents fire on each."""
        x = x.to(home(self.coder)) * self.scale
        centre = x.mean(-1, keepdim=True) if self.norm == "layer" else torch.zeros_like(x[..., :1])
        spread = torch.ones_like(centre)
        if self.norm is not None:
            spread = x.std(-1, keepdim=True) if self.norm == "layer" else x.norm(dim=-1, keepdim=True) / sqrt(x.shape[-1])
        spread = spread.clamp_min(1e-6)
        x = (x - centre) / spread
        code = self.coder.encode(x if self.shift is None else x + self.shift)
        return (self.coder.decode(code) * spread + centre) / self.scale, code.latents.l0()


@dataclass(frozen=True, kw_only=True)
class Way:
    """A use in which one thing is otherwise than in another."""

    cause: Cause
    what: str
    mend: str
    use: Use
    far: bool = False
    """Whether it is at another site."""


def ways(use: Use, model: Model, said: Said, sample: Callable[[Site], Float[Tensor, "n d"]]) -> Iterator[Way]:
    """One thing otherwise each. `sample`: some vectors of a site."""
    coder = use.coder
    yield from elsewhere(use, model)
    yield from rescaled(use, said, sample)
    if coder.d_in == coder.d_out:
        norms: Mapping[Any, str] = {
            "layer": "each vector less its mean and over its standard deviation", "length": "each vector of length √d",
        }  # fmt: skip
        mend = "its own library normalises vectors, which these files do not say: see the architecture `normalised`"
        for norm, words in norms.items():
            yield Way(cause="norm", what=words, mend=mend, use=replace(use, norm=norm))
    yield from _rewired(use)


def elsewhere(use: Use, model: Model) -> Iterator[Way]:
    """Other pairs of sites of the coder's widths: of its own kind in all layers, of other kinds near by."""
    coder, reads, target = use.coder, use.reads, use.predicts
    there = [s for s in model.sites() if abs(s.layer - reads.layer) <= NEARBY or s.kind == reads.kind]
    there = [s for s in there if s == _place(s) != _place(reads)]
    pairs = [(a, a) if reads == target else (a, Site(target.kind, target.layer + a.layer - reads.layer)) for a in there]
    sites = set(model.sites())
    for a, b in pairs:
        if b in sites and (model.d(a), model.d(b)) == (coder.d_in, coder.d_out):
            where = str(a) if a == b else f"{a} to {b}"
            yield Way(cause="site", what=f"at {where}", mend=f"say --site {a}", use=replace(use, reads=a, predicts=b), far=True)


def _place(site: Site) -> Site:
    """A site by one name: what enters a block is what left the one before it."""
    return Site("resid_post", site.layer - 1) if site.kind == "resid_pre" and site.layer else site


def rows_otherwise(use: Use, other: Tokens) -> Way:
    bos, words = ("never", "without") if other.packing.bos is None else ("always", "with")
    return Way(cause="bos", what=f"rows {words} BOS", mend=f"say --bos {bos}", use=replace(use, other_rows=True))


def _rewired(use: Use) -> Iterator[Way]:
    """With square matrices the other way round, and b_dec taken off the input or not."""
    coder = use.coder
    inner = getattr(coder, "inner", coder)
    for name in ("W_enc", "W_dec", "W_skip"):
        owner = inner if isinstance(getattr(inner, name, None), torch.nn.Parameter) else coder
        matrix = getattr(owner, name, None)
        if isinstance(matrix, torch.nn.Parameter) and matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1]:
            twin = coder.clone().eval()
            turned = getattr(twin, "inner", twin) if owner is inner and owner is not coder else twin
            getattr(turned, name).copy_(matrix.T)
            mend = f"{name} is square, so nothing tells which way round it lies in the file: turn it there, and import it again"
            yield Way(cause="orientation", what=f"{name} transposed", mend=mend, use=replace(use, coder=twin))
    b_dec = getattr(inner, "b_dec", None)
    if coder.d_in == coder.d_out and isinstance(b_dec, Tensor) and hasattr(inner, "centred") and bool(b_dec.any()):
        shift, words = (b_dec, "b_dec not taken off the input") if inner.centred else (-b_dec, "b_dec taken off the input")
        mend = "its file says otherwise, or was read in the wrong format: say --format"
        yield Way(cause="centring", what=words, mend=mend, use=replace(use, shift=shift))


def rescaled(use: Use, said: Said, sample: Callable[[Site], Float[Tensor, "n d"]]) -> Iterator[Way]:
    """The factor at which a coder fits best, where that is not near the one that it has."""
    x, y = sample(use.reads), sample(use.predicts)

    def misfit(scale: float) -> float:
        tally = Tally(y.shape[1])
        tally.add(y, *replace(use, scale=scale).through(x))
        return tally.fit().misfit(said)

    best = min(SCALES, key=misfit)
    best = min((best * 2.0 ** (i / 6) for i in range(-4, 5)), key=misfit)
    if not 1 / ALIKE < best / use.scale < ALIKE:
        yield Way(
            cause="scale", what=f"activations times {best:.3g}{_known_scale(best, x)}", use=replace(use, scale=best),
            mend=f"import it again with --scale {best:.4g}, times what was said before",
        )  # fmt: skip


def _known_scale(scale: float, x: Float[Tensor, "n d"]) -> str:
    """What a factor probably is."""
    length, rms, root = float(x.norm(dim=-1).mean()), float(x.square().sum(-1).mean().sqrt()), sqrt(x.shape[-1])
    known = {
        "√d over their mean length": root / length, "their mean length over √d": length / root,
        "1 over their root mean square length": 1 / rms, "their root mean square length": rms,
    }  # fmt: skip
    words, value = min(known.items(), key=lambda one: abs(log2(scale / one[1])))
    return f", about {words} ({value:.3g})" if 1 / ALIKE < scale / value < ALIKE else ""
