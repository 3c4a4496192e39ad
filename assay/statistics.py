"""Statistics: intervals by resampling documents, paired differences, values at a matched L0, Pareto fronts.

Tokens of one document are not independent, so whole documents are resampled (cluster bootstrap, Efron & Tibshirani 1993). Every
estimate is a function of *sums over documents*: a resample is one matrix product, and ratios stay ratios of sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from assay.errors import BadInput

Sums = Mapping[str, np.ndarray]
"""Named sums, one number a unit (document): each [units]. Resampled: each [resamples]. In all: each []."""
Statistic = Callable[[Sums], np.ndarray]
"""From sums to the value, vectorised: `lambda s: s["error"] / s["variance"]`."""

RESAMPLES = 1000
LEVEL = 0.95
BLOCK = 2_000_000  # resampled indices held at once


@dataclass(frozen=True)
class Interval:
    """An estimate with a 95 % confidence interval, None where there is too little to tell."""

    value: float
    low: float | None
    high: float | None
    n: int
    """Independent units (documents, examples) it rests on."""


def counts(n: int, rng: np.random.Generator, resamples: int = RESAMPLES) -> Iterator[np.ndarray]:
    """How often each of n units is drawn, with replacement: float64 pieces [b, n] whose b add up to `resamples`."""
    step = max(1, BLOCK // max(n, 1))
    for start in range(0, resamples, step):
        b = min(step, resamples - start)
        drawn = rng.integers(0, n, size=(b, n)) + np.arange(b)[:, None] * n
        yield np.bincount(drawn.ravel(), minlength=b * n).reshape(b, n).astype(np.float64)


def resampled(sums: Sums, rng: np.random.Generator, resamples: int = RESAMPLES) -> dict[str, np.ndarray]:
    """The sums over `resamples` drawings of units, every name under the same drawings: each [resamples]."""
    table = np.stack([np.asarray(column, dtype=np.float64) for column in sums.values()], axis=1)
    return dict(zip(sums, np.concatenate([drawn @ table for drawn in counts(len(table), rng, resamples)]).T, strict=True))


def estimate(statistic: Statistic, sums: Sums, drawn: Sums) -> Interval:
    """The statistic of all units, with the interval that `drawn = resampled(sums, …)` gives it."""
    n = len(next(iter(sums.values())))
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(statistic({name: column.sum(dtype=np.float64) for name, column in sums.items()}))
        replicates = np.asarray(statistic(drawn))
    return percentile(value, replicates if n > 1 else np.full(1, np.nan), n)


def percentile(value: float, replicates: np.ndarray, n: int) -> Interval:
    """Interval from the central 95 % of bootstrap replicates; it always contains the value."""
    if not np.isfinite(value) or not np.isfinite(replicates).all():
        return Interval(value, None, None, n)
    low, high = np.quantile(replicates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, min(float(low), value), max(float(high), value), n)


def bootstrap(statistic: Statistic, sums: Sums, rng: np.random.Generator, resamples: int = RESAMPLES) -> Interval:
    """`statistic` of summed `sums`, with an interval from resampling whole units."""
    return estimate(statistic, sums, resampled(sums, rng, resamples))


def mean(values: np.ndarray, rng: np.random.Generator, resamples: int = RESAMPLES) -> Interval:
    """Mean of one value a unit."""
    return bootstrap(lambda s: s["value"] / s["n"], {"value": values, "n": np.ones(len(values))}, rng, resamples)


def difference(statistic: Statistic, a: Sums, b: Sums, rng: np.random.Generator, resamples: int = RESAMPLES) -> Interval:
    """statistic(a) − statistic(b), *paired*: unit i of both is the same document, and both see the same drawings."""
    if len({len(column) for column in (*a.values(), *b.values())}) != 1:
        raise BadInput("A paired difference needs the same documents on both sides. Evaluate both coders on the same text.")
    both = {("a", k): v for k, v in a.items()} | {("b", k): v for k, v in b.items()}

    def side(s: Mapping, of: str) -> dict[str, np.ndarray]:
        return {k: v for (which, k), v in s.items() if which == of}

    return bootstrap(lambda s: statistic(side(s, "a")) - statistic(side(s, "b")), both, rng, resamples)  # type: ignore[arg-type]


def jackknife(value: float, without: np.ndarray) -> Interval:
    """Interval from leaving out each of g blocks of documents: `without` [g] is the statistic without each block.

    For counts of distinct things (how many latents ever fire) resampling with replacement is biased: it always sees fewer.
    """
    from scipy import stats  # slow to import, and only this function needs it

    g = len(without)
    if g < 2 or not np.isfinite(value) or not np.isfinite(without).all():
        return Interval(value, None, None, g)
    error = np.sqrt((g - 1) / g * np.square(without - without.mean()).sum())
    half = float(stats.t.ppf((1 + LEVEL) / 2, g - 1) * error)
    return Interval(value, value - half, value + half, g)


def matched(l0: Sequence[float], at: float, *, tolerance: float = 0.1) -> np.ndarray | None:
    """Weights [points] that interpolate a sweep to the L0 `at`, linear in log L0: value at `at` = weights @ values.

    None outside the sweep (with `tolerance`, as a share of L0): nothing honest can be said there. Points of L0 0 have no
    logarithm and get no weight.
    """
    x = np.asarray(l0, dtype=np.float64)
    order = [int(i) for i in np.argsort(x, kind="stable") if x[i] > 0]
    if not order or at <= 0 or not x[order[0]] / (1 + tolerance) <= at <= x[order[-1]] * (1 + tolerance):
        return None
    weights = np.zeros(len(x))
    place = float(np.interp(np.log(at), np.log(x[order]), np.arange(len(order))))
    left = int(place)
    weights[order[left]] = 1 - (place - left)
    if place > left:
        weights[order[left + 1]] = place - left
    return weights


def pareto(cost: Sequence[float], gain: Sequence[float]) -> list[int]:
    """Indices, by cost, of the points that no other beats: none has at most their cost and at least their gain, one strictly."""
    front: list[int] = []
    for i in sorted(range(len(cost)), key=lambda i: (cost[i], -gain[i])):
        if not front or gain[i] > gain[front[-1]]:
            front.append(i)
    return front
