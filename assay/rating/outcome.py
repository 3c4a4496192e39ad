"""Outcome: what an unblinded sheet says: means of each coder, and paired differences between coders."""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from assay.randomness import numpy_generator
from assay.rating.book import Ratings, Result
from assay.rating.sheet import SCALES

LEVEL = 0.9
"""Of intervals, as published; the interval excludes 0 about where a one-sided test falls below .05."""
RESAMPLES = 9999


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A coder's mean on one scale, over its items; an item counts with the mean of its raters."""

    coder: str
    scale: str
    n: int
    """Items that somebody rated."""
    mean: float | None
    low: float | None
    high: float | None
    """BCa bootstrap over items, 90 %; None where there is too little to tell."""
    counts: tuple[int, ...]
    """How often 1, 2, 3, 4 and 5 were said."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """a − b on one scale, over pairs of items that the same raters rated."""

    a: str
    b: str
    scale: str
    n: int
    mean: float | None
    low: float | None
    high: float | None
    """BCa bootstrap over pairs, 90 %."""
    p: float | None
    """Wilcoxon–Pratt, two-sided."""
    p_greater: float | None
    """Wilcoxon–Pratt, one-sided: small where a is rated higher."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Everything an unblinded sheet says."""

    raters: tuple[str, ...]
    means: list[Mean]
    differences: list[Difference]
    agreement: dict[str, float | None]
    """Of each scale, the mean absolute difference of two raters of one item; None where no item has two."""
    items: list[Result]


def outcome(ratings: Ratings, id: str) -> Outcome:
    """What a sheet says. Refused while it is blind."""
    items = ratings.results(id)
    coders = sorted({i.coder for i in items})
    means = [mean_of(items, coder, scale) for scale in SCALES for coder in coders]
    differences = [difference(items, a, b, scale) for scale in SCALES for a, b in combinations(coders, 2)]
    raters = sorted({rater for i in items for said in i.ratings.values() for rater in said})
    agreement = {scale: _disagreement(items, scale) for scale in SCALES}
    return Outcome(raters=tuple(raters), means=means, differences=differences, agreement=agreement, items=items)


def mean_of(items: Sequence[Result], coder: str, scale: str) -> Mean:
    """A coder's mean on one scale."""
    said = [list(i.ratings[scale].values()) for i in items if i.coder == coder and scale in i.ratings]
    values = np.array([np.mean(each) for each in said])
    counts = np.bincount([v for each in said for v in each], minlength=len(SCALES[scale].steps) + 1)[1:]
    low, high = bca(values, "mean", coder, scale)
    mean = float(values.mean()) if len(values) else None
    return Mean(coder=coder, scale=scale, n=len(values), mean=mean, low=low, high=high, counts=tuple(map(int, counts)))


def difference(items: Sequence[Result], a: str, b: str, scale: str) -> Difference:
    """a − b on one scale: of each pair, the mean over the raters of both."""
    said = {(i.coder, i.pair): i.ratings.get(scale, {}) for i in items}
    values = []
    for pair in sorted({i.pair for i in items if i.coder == a}):
        x, y = said[a, pair], said.get((b, pair), {})
        if both := sorted(x.keys() & y.keys()):
            values.append(np.mean([x[rater] - y[rater] for rater in both]))
    gaps = np.array(values)
    low, high = bca(gaps, "difference", a, b, scale)
    p, p_greater = (pratt(gaps, side) for side in ("two-sided", "greater"))
    mean = float(gaps.mean()) if len(gaps) else None
    return Difference(a=a, b=b, scale=scale, n=len(gaps), mean=mean, low=low, high=high, p=p, p_greater=p_greater)


def pratt(gaps: np.ndarray, alternative: str = "two-sided") -> float | None:
    """p of Wilcoxon's signed-rank test, zeros ranked and then left out (Pratt 1959). None without pairs, 1 where none differs."""
    from scipy import stats

    if not len(gaps):
        return None
    if not gaps.any():
        return 1.0
    found: Any = stats.wilcoxon(gaps, zero_method="pratt", alternative=alternative)
    return float(found.pvalue)


def bca(values: np.ndarray, *name: str) -> tuple[float | None, float | None]:
    """Ends of the mean's BCa bootstrap interval (Efron 1987). None with fewer than two values, or where all are the same."""
    from scipy import stats

    if len(values) < 2 or np.ptp(values) == 0:
        return None, None
    how = {
        "n_resamples": RESAMPLES,
        "confidence_level": LEVEL,
        "random_state": numpy_generator("rating", *name),
    }  # scipy 1.14 has no `rng`
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # then the ends are not finite
        found = stats.bootstrap((values,), np.mean, method="BCa", **how).confidence_interval
    low, high = float(found.low), float(found.high)
    return (low, high) if np.isfinite([low, high]).all() else (None, None)


def table(items: Sequence[Result]) -> str:
    """All ratings as CSV: a line a rating."""
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(["item", "coder", "latent", "pair", "scale", "rater", "value"])
    for i in items:
        for scale, said in i.ratings.items():
            out.writerows([i.item, i.coder, i.latent, i.pair, scale, rater, value] for rater, value in said.items())
    return text.getvalue()


def _disagreement(items: Sequence[Result], scale: str) -> float | None:
    gaps = [abs(x - y) for i in items for x, y in combinations(i.ratings.get(scale, {}).values(), 2)]
    return float(np.mean(gaps)) if gaps else None
