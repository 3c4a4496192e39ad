"""Statistics: intervals by resampling documents, tasks or classes, paired differences, spread over seeds, matched L0, Pareto fronts.

Tokens of one document are not independent, so whole documents are resampled (cluster bootstrap, Efron & Tibshirani 1993). Every
estimate is a function of *sums over documents*: a resample is one matrix product, and ratios stay ratios of sums. Means over
datasets of means over classes are trees, resampled at the outermost level that has enough parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from assay.errors import BadInput

Sums = Mapping[str, np.ndarray]
"""Named sums, one number a unit (document): each [units]. Resampled: each [resamples]. In all: each []."""
Statistic = Callable[[Sums], np.ndarray]
"""From sums to the value, vectorised: `lambda s: s["error"] / s["variance"]`."""

Tree: TypeAlias = "Mapping[str, Tree] | np.ndarray"
"""A mean of means: named parts, each of parts again, or one number a unit. Every part of a level weighs the same."""

RESAMPLES = 1000
PERMUTATIONS = 1999
FEWEST = 6  # units that an exchange of labels needs to reach p < 0.05, which is 2 in 2⁶
LEVEL = 0.95
NORMAL = 1.959964  # of the normal distribution within ± this many standard errors: LEVEL
BLOCK = 2_000_000  # resampled indices held at once
SAME = 1.02  # factor between two L0s that count as one


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


def jackknife(value: float, without: np.ndarray, within: tuple[float, float] = (-np.inf, np.inf)) -> Interval:
    """Interval from leaving out each of g blocks of documents: `without` [g] is the statistic without each block.

    For counts of distinct things (how many latents ever fire) resampling with replacement is biased: it always sees fewer.
    """
    from scipy import stats  # slow to import

    g = len(without)
    if g < 2 or not np.isfinite(value) or not np.isfinite(without).all():
        return Interval(value, None, None, g)
    error = np.sqrt((g - 1) / g * np.square(without - without.mean()).sum())
    return _about(value, float(stats.t.ppf((1 + LEVEL) / 2, g - 1) * error), within, g)


def normal(value: float, replicates: np.ndarray, n: int, within: tuple[float, float] = (-np.inf, np.inf)) -> Interval:
    """Interval of the spread of bootstrap replicates about `value`: for statistics whose replicates are off to one side."""
    if n < 2 or not np.isfinite(value) or not np.isfinite(replicates).all():
        return Interval(value, None, None, n)
    return _about(value, NORMAL * float(replicates.std()), within, n)


def _about(value: float, half: float, within: tuple[float, float], n: int) -> Interval:
    return Interval(value, max(value - half, within[0]), min(value + half, within[1]), n)


def permutation(statistic: Statistic, a: Sums, b: Sums, rng: np.random.Generator) -> float | None:
    """Two-sided p of "a and b are alike": how often exchanging them unit by unit moves statistic(a) − statistic(b) as far.

    None where there are too few units for p < 0.05, whatever they say.
    """
    from scipy import stats

    names = list(a)
    table = np.concatenate([np.stack([np.asarray(s[k], dtype=np.float64) for k in names], axis=1) for s in (a, b)])
    n = len(table) // 2
    if n < FEWEST:
        return None

    def gap(i: np.ndarray, j: np.ndarray, axis: int) -> np.ndarray:
        first, second = (statistic(dict(zip(names, np.moveaxis(table[k].sum(axis - 1), -1, 0), strict=True))) for k in (i, j))
        return np.asarray(first - second)

    sides = np.arange(n), np.arange(n, 2 * n)
    how = {"n_resamples": PERMUTATIONS, "batch": 500, "random_state": rng}  # scipy 1.14 has no `rng`
    found = stats.permutation_test(sides, gap, permutation_type="samples", vectorized=True, **how)
    return float(found.pvalue) if np.isfinite(found.statistic) else None


# ---- trees: means over datasets of means over classes of … ---------------------------------------------------------------------


def parts(tree: Tree) -> list[Tree]:
    """What a tree is the mean of."""
    return list(tree.values()) if isinstance(tree, Mapping) else [np.asarray([v], dtype=np.float64) for v in tree]


def paths(tree: Tree) -> Iterator[tuple[str, ...]]:
    """The names that lead to each unit."""
    for name, part in tree.items() if isinstance(tree, Mapping) else ((str(i), None) for i in range(len(tree))):
        yield from [(name,)] if part is None else ((name, *path) for path in paths(part))


def tree_mean(tree: Tree) -> float:
    """Mean over the parts of their means."""
    return float(np.mean([tree_mean(part) for part in tree.values()] if isinstance(tree, Mapping) else tree))


def tree_sums(tree: Tree) -> dict[str, np.ndarray]:
    """The mean as a ratio of sums, unit / weight, over the parts of the outermost level that has at least six (else the innermost)."""
    level: list[tuple[float, Tree]] = [(1.0, tree)]
    while len(level) < FEWEST and any(isinstance(t, Mapping) or len(t) > 1 for _, t in level):
        level = [(weight / len(inner), part) for weight, t in level for inner in [parts(t)] for part in inner]
    weights = np.array([weight for weight, _ in level])
    return {"unit": weights * [tree_mean(part) for _, part in level], "weight": weights}


def expansion(n: int) -> float:
    """By how much a percentile interval from n units is too narrow (Hesterberg 2015, arXiv 1411.5279); 1.44 for six, 1 for many."""
    from scipy import stats

    return float((n / (n - 1)) ** 0.5 * stats.t.ppf((1 + LEVEL) / 2, n - 1) / stats.norm.ppf((1 + LEVEL) / 2))


# ---- seeds, sweeps, fronts -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spread:
    """One number over several training seeds, taken as normally distributed."""

    mean: Interval
    """With Student's interval."""
    sd: Interval
    """Standard deviation (n − 1), with the interval of χ²."""
    cv: Interval
    """Coefficient of variation, sd / |mean|, with the interval of Vangel (1996); no upper end where the mean may be zero."""


def spread(values: Sequence[float]) -> Spread:
    """Mean, standard deviation and coefficient of variation over seeds; no intervals from one value."""
    from scipy import stats

    x = np.asarray(values, dtype=np.float64)
    n, mean = len(x), float(x.mean())
    if n < 2:
        return Spread(Interval(mean, None, None, n), *[Interval(float("nan"), None, None, n)] * 2)
    sd = float(x.std(ddof=1))
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * sd / n**0.5
    u = [float(v) for v in stats.chi2.ppf([(1 + LEVEL) / 2, (1 - LEVEL) / 2], n - 1)]
    cv = sd / abs(mean) if mean else float("inf")
    inner = [((v + 2) / n - 1) * cv**2 + v / (n - 1) for v in u]
    low, high = (cv / v**0.5 if v > 0 and np.isfinite(cv) else None for v in inner)
    sd_low, sd_high = (sd * ((n - 1) / v) ** 0.5 for v in u)
    return Spread(Interval(mean, mean - half, mean + half, n), Interval(sd, sd_low, sd_high, n), Interval(cv, low, high, n))


def interpolate(l0: Sequence[float], values: np.ndarray, at: float, *, tolerance: float = 0.1) -> np.ndarray | None:
    """A sweep's `values` [..., points] at the L0 `at`: [...], by the monotone cubic (PCHIP) in log L0; two points give a line.

    None outside the sweep: nothing honest can be said there; up to `tolerance` (a share of L0) beyond an end its value is kept.
    Points of L0 0 have no logarithm and are left out; those nearer than 2 % to the next (seeds) are averaged first.
    """
    from scipy.interpolate import PchipInterpolator

    x = np.asarray(l0, dtype=np.float64)
    order = [int(i) for i in np.argsort(x, kind="stable") if x[i] > 0]
    if not order or at <= 0 or not x[order[0]] / (1 + tolerance) <= at <= x[order[-1]] * (1 + tolerance):
        return None
    log, sorted_ = np.log(x[order]), np.asarray(values, dtype=np.float64)[..., order]
    group = np.cumsum(np.r_[0, np.diff(log) > np.log(SAME)])
    share = (group[:, None] == np.arange(group[-1] + 1)) / np.bincount(group)  # [points, distinct points]
    places, knots = log @ share, sorted_ @ share
    if len(places) == 1:
        return knots[..., 0]
    return np.asarray(PchipInterpolator(places, knots, axis=-1)(np.clip(np.log(at), places[0], places[-1])))


def pareto(cost: Sequence[float], gain: Sequence[float], better: Literal["higher", "lower"] = "higher") -> list[int]:
    """Indices, by cost, of the points that no other beats: none has at most their cost and is at least as good, one strictly."""
    sign = 1 if better == "higher" else -1
    front: list[int] = []
    for i in sorted(range(len(cost)), key=lambda i: (cost[i], -sign * gain[i])):
        if not front or sign * gain[i] > sign * gain[front[-1]]:
            front.append(i)
    return front
