"""judging: what a coder should do, what it did, and what is wrong, if anything.

Of two errors one tells about BOS and the other about the rest. In many models the first token of a row is an attention sink, 100 times as
long as the others (Sun et al. 2024, https://arxiv.org/abs/2402.17762): one in 2,000 has more variance than all the rest, and whether it
is in the text depends on BOS. So sites, scales and matrices are judged by vectors of usual length, and BOS by all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite, log2
from typing import TYPE_CHECKING, Literal

import torch

from assay.shapes import Tensor

if TYPE_CHECKING:
    from assay.check.ways import Use

Cause = Literal["site", "bos", "scale", "norm", "orientation", "centring"]
L0_FACTOR = 1.5  # times what is said, or a part of it, that an L0 may be: text differs, and it is few tokens
FVU_SLACK = (1.25, 0.05)  # an FVU may be so many times what is said, and so much more
FVU_MOST = 0.8  # of a coder of which no FVU is said
CLEAR = 0.6  # of a misfit, that a trial may have left to be named
SOMEWHAT = 0.9  # the same of a trial that raises a doubt, or is preferred to a simpler one,
LITTLE = (0.02, 0.05)  # which is at least so much better: where no FVU is said, and where one is and agrees: as FVU_SLACK
SOONER = 0.75  # of the error of first tokens, that rows cut otherwise may have left for BOS to be doubted
ALIKE = 1.4  # scales within this factor of each other are one
FEW = 1e-3  # an L0 that counts as 0
LONG = 10.0  # times the median length: tokens of text differ by a few times, attention sinks by 50 and more (Sun et al. 2024)


@dataclass(frozen=True, kw_only=True)
class Said:
    """What the coder should do."""

    l0: float | None = None
    fvu: float | None = None
    source: str = ""
    """Who says it."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What a coder did."""

    l0: float
    fvu: float
    """Σ|y − ŷ|² / Σ|y − mean|²."""
    usual: float
    """The same of vectors that are no longer than ten of their median length."""
    bias: float
    """γ = Σ|ŷ|² / Σ y·ŷ; below 1 is shrinkage."""
    vectors: int

    def misfit(self, said: Said, *, whole: bool = False) -> float:
        """How far it is from what is said: the error beyond it, of all vectors or of usual ones, and half of each doubling of L0."""
        fvu = self.fvu if whole else self.usual
        error = fvu if said.fvu is None else max(0.0, fvu - said.fvu)
        return error + (0.5 * abs(log2(max(self.l0, FEW) / said.l0)) if said.l0 else 0.0)

    def agrees(self, said: Said, *, whole: bool = True) -> bool:
        """Whether it is what is said, as far as something is. Not `whole`: if need be by vectors of usual length alone."""
        most = FVU_MOST if said.fvu is None else FVU_SLACK[0] * said.fvu + FVU_SLACK[1]
        near = not said.l0 or 1 / L0_FACTOR <= self.l0 / said.l0 <= L0_FACTOR
        return near and (self.fvu if whole else min(self.fvu, self.usual)) <= most


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What the coder does when one thing is otherwise."""

    cause: Cause
    what: str
    """What is otherwise, in words."""
    mend: str
    """What to do if that is it."""
    fit: Fit
    use: Use
    far: bool = False
    """Whether it is at another site."""


@dataclass(frozen=True, kw_only=True)
class Report:
    said: Said
    given: Fit
    """As it was given."""
    trials: list[Trial]
    """The best first."""
    causes: list[Trial]
    """What is wrong, the largest first, if anything is clearly: the fit of each is with those before it mended."""
    doubt: Trial | None = None
    """Another that fits somewhat better, or that first tokens speak for."""
    first: tuple[float, float] | None = None
    """Error of each row's first token over its square, and with BOS otherwise: with all else as it fits best."""

    @property
    def cause(self) -> Trial | None:
        return self.causes[0] if self.causes else None

    @property
    def verdict(self) -> Literal["passes", "plausible", "doubtful", "fails"]:
        """plausible: nothing is said of it, and nothing fits better. doubtful: something fits somewhat better."""
        if self.causes or not self.given.agrees(self.said):
            return "fails"
        if self.doubt is not None:
            return "doubtful"
        return "plausible" if self.said.l0 is None and self.said.fvu is None else "passes"


def certain(said: Said, given: Fit) -> bool:
    """Whether an FVU is said of it, and all figures are as said: then nothing is clearly wrong."""
    return said.fvu is not None and given.agrees(said)


def clearest(said: Said, given: Fit, trials: Sequence[Trial]) -> Trial | None:
    """The trial that explains the misfit of what was given, if one clearly does: of those about as good, the simplest."""
    if certain(said, given):
        return None
    less = [t for t in _better(said, given, trials) if _clear(said, given, t.fit) or _clear(said, given, t.fit, whole=True)]
    return _simplest(said, less)


def dubious(said: Said, given: Fit, trials: Sequence[Trial]) -> Trial | None:
    """The trial that fits somewhat better than what was given, if one does."""
    # an L0 that nobody knows may move at will with the scale of a coder that thresholds, and its error with it
    still = log2(ALIKE) / 4
    less = [
        t
        for t in _better(said, given, trials)
        if t.cause != "scale" or said.l0 or abs(log2(max(t.fit.l0, FEW) / max(given.l0, FEW))) < still
    ]
    return _simplest(said, less)


def bos_is_wrong(said: Said, given: Fit, turned: Fit) -> bool:
    """Whether rows cut otherwise explain the misfit: of all vectors, for it is the first ones that tell.

    Only a misfit that vectors of usual length do not have: with sinks in the text the variance grows, and FVU falls of any coder.
    """
    return (
        given.misfit(said) < CLEAR * given.misfit(said, whole=True)
        and not certain(said, given)
        and turned.agrees(said)
        and _clear(said, given, turned, whole=True)
    )


def bos_is_doubted(first: tuple[float, float] | None) -> bool:
    """Whether first tokens fare clearly better in rows cut otherwise. There are few: that by itself proves nothing."""
    return first is not None and first[1] < min(SOONER * first[0], first[0] - FVU_SLACK[1])


def _better(said: Said, given: Fit, trials: Sequence[Trial]) -> list[Trial]:
    left, little = given.misfit(said), LITTLE[certain(said, given)]
    return [t for t in trials if t.fit.misfit(said) < min(SOMEWHAT * left, left - little)]


def _clear(said: Said, given: Fit, fit: Fit, *, whole: bool = False) -> bool:
    return fit.misfit(said, whole=whole) < CLEAR * given.misfit(said, whole=whole)


def _simplest(said: Said, trials: Sequence[Trial]) -> Trial | None:
    """The best, or at the same site one that the best is not somewhat better than."""
    ranked = sorted(trials, key=lambda t: t.fit.misfit(said))
    alike = [t for t in ranked if SOMEWHAT * t.fit.misfit(said) <= ranked[0].fit.misfit(said)]
    return min(alike, key=lambda t: t.far, default=None)


class Tally:
    """Sums over vectors, in double precision: of all, and of those of usual length."""

    def __init__(self, d: int):
        self.n, self.fired, self.yy, self.xy = 0, 0.0, 0.0, 0.0
        self.all, self.usual = Sums(d), Sums(d)

    def add(self, y: Tensor, y_hat: Tensor, l0: Tensor) -> None:
        y, y_hat = y.double().cpu(), y_hat.double().cpu()
        length = y.norm(dim=-1)
        usual = length <= LONG * length.median()
        self.all.add(y, y_hat)
        self.usual.add(y[usual], y_hat[usual])
        self.n += len(y)
        self.yy += float(y_hat.square().sum())
        self.xy += float((y * y_hat).sum())
        self.fired += float(l0.double().sum())

    def fit(self) -> Fit:
        bias = self.yy / self.xy if self.xy else inf
        return Fit(l0=self.fired / self.n, fvu=self.all.fvu(), usual=self.usual.fvu(), bias=bias, vectors=self.n)


class Sums:
    """What an FVU is made of."""

    def __init__(self, d: int):
        self.n, self.error, self.square, self.total = 0, 0.0, 0.0, torch.zeros(d, dtype=torch.float64)

    def add(self, y: Tensor, y_hat: Tensor) -> None:
        self.n += len(y)
        self.error += float((y - y_hat).square().sum())
        self.square += float(y.square().sum())
        self.total += y.sum(0)

    def fvu(self) -> float:
        variance = self.square - float(self.total.square().sum()) / max(1, self.n)
        return self.error / variance if variance > 0 and isfinite(self.error) else inf
