"""judging: what a coder should do, what it did, and what is wrong, if anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite, log2
from typing import Literal

import torch

from assay.shapes import Tensor

Cause = Literal["site", "bos", "scale", "norm", "orientation", "centring"]
L0_FACTOR = 1.5  # times what is said, or a part of it, that an L0 may be: text differs, and it is few tokens
FVU_SLACK = (1.25, 0.05)  # an FVU may be so many times what is said, and so much more
FVU_MOST = 0.8  # of a coder of which no FVU is said
CLEAR = 0.6  # of the misfit as given, that a trial may have left to be named
SOMEWHAT = 0.9  # the same of a trial that raises a doubt,
LITTLE = (0.02, 0.1)  # which is at least so much better: where no FVU is said, and where one is and agrees
SOONER = 0.75  # of the error of first tokens, that rows cut otherwise may have left for BOS to be named
ALIKE = 1.4  # scales within this factor of each other are one
FEW = 1e-3  # an L0 that counts as 0


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
    bias: float
    """γ = Σ|ŷ|² / Σ y·ŷ; below 1 is shrinkage."""
    vectors: int

    def misfit(self, said: Said) -> float:
        """How far it is from what is said: the error beyond it, and half of each doubling of L0."""
        error = self.fvu if said.fvu is None else max(0.0, self.fvu - said.fvu)
        return error + (0.5 * abs(log2(max(self.l0, FEW) / said.l0)) if said.l0 else 0.0)

    def agrees(self, said: Said) -> bool:
        """Whether it is what is said, as far as something is."""
        most = FVU_MOST if said.fvu is None else FVU_SLACK[0] * said.fvu + FVU_SLACK[1]
        near = not said.l0 or 1 / L0_FACTOR <= self.l0 / said.l0 <= L0_FACTOR
        return near and self.fvu <= most


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What the coder does when one thing is otherwise."""

    cause: Cause
    what: str
    """What is otherwise, in words."""
    mend: str
    """What to do if that is it."""
    fit: Fit


@dataclass(frozen=True, kw_only=True)
class Report:
    said: Said
    given: Fit
    """As it was given."""
    trials: list[Trial]
    """The best first."""
    cause: Trial | None
    """The trial that fits clearly better than what was given."""
    doubt: Trial | None = None
    """Another that fits somewhat better."""
    first: tuple[float, float] | None = None
    """Error of each row's first token over its square, as given and with BOS otherwise."""

    @property
    def verdict(self) -> Literal["passes", "plausible", "doubtful", "fails"]:
        """plausible: nothing is said of it, and nothing fits better. doubtful: something fits somewhat better."""
        if self.cause is not None or not self.given.agrees(self.said):
            return "fails"
        if self.doubt is not None:
            return "doubtful"
        return "plausible" if self.said.l0 is None and self.said.fvu is None else "passes"


def judged(said: Said, given: Fit, trials: Sequence[Trial], first: tuple[float, float] | None) -> Report:
    """What is wrong, if anything: the trial that fits clearly better, and of BOS what first tokens say."""
    certain, left = said.fvu is not None and given.agrees(said), given.misfit(said)
    trials = sorted(trials, key=lambda t: t.fit.misfit(said))
    rest = [t for t in trials if t.cause != "bos"]
    clear = [t for t in rest if t.fit.agrees(said) and t.fit.misfit(said) < CLEAR * left] if not certain else []
    cause = clear[0] if clear else None
    if first and first[1] < SOONER * first[0] and (cause is None or cause.cause != "site"):
        cause = next(t for t in trials if t.cause == "bos")
    better = [t for t in rest if t.fit.misfit(said) < min(SOMEWHAT * left, left - LITTLE[certain])]
    # an L0 that nobody knows may move at will with the scale of a coder that thresholds, and its error with it
    doubts = [
        t
        for t in better
        if t.cause != "scale" or said.l0 or abs(log2(max(t.fit.l0, FEW) / max(given.l0, FEW))) < log2(ALIKE) / 4
    ]
    return Report(said=said, given=given, trials=trials, cause=cause, doubt=doubts[0] if doubts else None, first=first)


class Tally:
    """Sums over vectors, in double precision."""

    def __init__(self, d: int):
        self.n, self.se, self.yy, self.xy, self.square, self.fired = 0, 0.0, 0.0, 0.0, 0.0, 0.0
        self.total = torch.zeros(d, dtype=torch.float64)

    def add(self, y: Tensor, y_hat: Tensor, l0: Tensor) -> None:
        y, y_hat = y.double().cpu(), y_hat.double().cpu()
        self.n += len(y)
        self.se += float((y - y_hat).square().sum())
        self.yy += float(y_hat.square().sum())
        self.xy += float((y * y_hat).sum())
        self.square += float(y.square().sum())
        self.total += y.sum(0)
        self.fired += float(l0.double().sum())

    def fit(self) -> Fit:
        variance = self.square - float(self.total.square().sum()) / self.n
        fvu = self.se / variance if variance > 0 and isfinite(self.se) else inf
        return Fit(l0=self.fired / self.n, fvu=fvu, bias=self.yy / self.xy if self.xy else inf, vectors=self.n)
