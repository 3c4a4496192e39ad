"""compare: coders side by side: paired differences, values at a matched L0, spread over seeds, Pareto fronts, normalised scores.

Two coders are compared on the same units. Which those are depends on what a record keeps, the finest first:

- `details["blocks"]`: sums over blocks of documents, where the eval's file has `formulas()` of them (core);
- `details["units"]`: full name of a score → its units, nested as the mean was formed ({dataset: {class: …}}), at the leaves numbers,
  or a string of 0 and 1;
- the record's finer scores: those of the same name with a dataset, a class … more in `where`, whose mean it is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from assay import registry, statistics
from assay.errors import BadInput, UnknownName
from assay.evals.base import Metric
from assay.randomness import numpy_generator
from assay.results import Record, Score, sparsities
from assay.statistics import Interval, Statistic, Sums, Tree

LEVELS = ("dataset", "class")
"""Dimensions of `where` that a mean is formed over, outermost first; then whichever else an eval has."""
CLOSE = 1e-6
NEAR = 0.02  # share of L0 by which a sweep may miss the L0 that is asked for
TWINS = "permuted_decoder"  # of several architectures, so they are no sweep


@dataclass(frozen=True)
class Units:
    """What a score is a function of: sums over units, which are the same where `names` are equal."""

    formula: Statistic
    sums: Sums
    names: tuple[Any, ...]

    @property
    def n(self) -> int:
        """How many units there are."""
        return len(next(iter(self.sums.values())))

    @classmethod
    def of(cls, tree: Tree) -> Units:
        """Those of a mean of means."""
        return cls(lambda s: s["unit"] / s["weight"], statistics.tree_sums(tree), tuple(statistics.paths(tree)))


@dataclass(frozen=True)
class Paired(Interval):
    """A difference on the same units, with the two-sided p of a permutation test (None with fewer than six units)."""

    p: float | None


# ---- units ---------------------------------------------------------------------------------------------------------------------


def units(record: Record, spec: str) -> dict[str, Units]:
    """What a score is formed from, by kind ("blocks", "units", "scores"), the finest first; empty where nothing finer is kept."""
    whole, formula, found = record.value(spec), _formulas(record.eval).get(spec), {}
    if whole is None:
        return {}
    blocks, kept = record.details.get("blocks"), record.details.get("units", {}).get(spec)
    if formula is not None and blocks:
        with suppress(KeyError):  # a sum that is not kept
            sums = {k: np.asarray(v, dtype=np.float64) for k, v in blocks.items()}
            formula({k: column.sum() for k, column in sums.items()})
            found["blocks"] = Units(formula, sums, (len(next(iter(sums.values()))),))
    for kind, tree in (("units", _leaves(kept) if kept else None), ("scores", _finer(record, record.score(spec)))):
        if tree is not None and abs(statistics.tree_mean(tree) - whole) < CLOSE:  # else it is no mean of these
            found[kind] = Units.of(tree)
    return found


def shared(records: Sequence[Record], spec: str) -> list[Units]:
    """The finest units of a score that all of the records have alike, one for each; empty where there are none."""
    if len({r.setting for r in records}) != 1:
        raise BadInput("These records were made with several settings; compare one model, text and configuration at a time.")
    each = [units(r, spec) for r in records]
    for kind in each[0]:
        kept = [found[kind] for found in each if kind in found]
        if len(kept) == len(records) and len({k.names for k in kept}) == 1:
            return kept
    return []


def _formulas(eval_name: str) -> dict[str, Statistic]:
    if eval_name not in registry.EVALS:
        return {}
    home = sys.modules[registry.EVALS.load(eval_name).__module__]
    found = home.formulas() if hasattr(home, "formulas") else []
    return {Score(metric=metric, value=None, where=where).spec: formula for metric, formula, where in found}


def _leaves(kept: Any) -> Tree:
    if isinstance(kept, Mapping):
        return {name: _leaves(inner) for name, inner in kept.items()}
    return np.array([float(v) for v in kept])


def _finer(record: Record, whole: Score | None) -> Tree | None:
    """The tree of scores that are `whole` at one dimension more, each in turn with its own, if it has any."""
    if whole is None:
        return None
    more = [
        (set(s.where) - set(whole.where), s)
        for s in record.scores
        if s.metric == whole.metric and whole.where.items() < s.where.items()
    ]
    names = {name for extra, _ in more if len(extra) == 1 for name in extra}
    if not names:
        return None
    by = next((level for level in LEVELS if level in names), min(names))
    parts = {s.where[by]: s for extra, s in more if extra == {by} and s.value is not None}
    found: dict[str, Tree] = {}
    for name, s in parts.items():
        inner = _finer(record, s)
        found[name] = np.array([s.value]) if inner is None else inner
    return found or None


def combined(records: Sequence[Record], spec: str, of: Callable[[np.ndarray], np.ndarray]) -> Interval | None:
    """`of` the records' values of one score [..., records], all under the same drawings of units; None where these differ."""
    if not (kept := shared(records, spec)):
        return None
    n = kept[0].n
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(of(np.array([k.formula({name: column.sum() for name, column in k.sums.items()}) for k in kept])))
        if n < 2:
            return Interval(value, None, None, n)
        drawn = [k.formula(statistics.resampled(k.sums, numpy_generator("compare", records[0].setting))) for k in kept]
        replicates = of(np.stack(drawn, axis=-1))
    return statistics.percentile(value, value + statistics.expansion(n) * (replicates - value), n)


# ---- comparisons ---------------------------------------------------------------------------------------------------------------


def against(record: Record, reference: Record, spec: str) -> Paired | None:
    """record − reference in one score, *paired* over their units; None where they have none in common."""
    gap = combined([record, reference], spec, lambda v: v[..., 0] - v[..., 1])
    if gap is None:
        return None
    a, b = shared([record, reference], spec)
    p = statistics.permutation(a.formula, a.sums, b.sums, numpy_generator("permutation", record.setting))
    return Paired(value=gap.value, low=gap.low, high=gap.high, n=gap.n, p=p)


def reference(records: Iterable[Record], coder: str) -> dict[str, Record]:
    """The records of a coder to compare others with, by setting. `UnknownName` where it has none."""
    records = list(records)
    found = {r.setting: r for r in records if r.coder == coder}
    if not found:
        raise UnknownName.among("coder with results", coder, {r.coder for r in records})
    return found


def sweeps(records: Iterable[Record]) -> dict[tuple[str, str, int | None], list[Record]]:
    """Records by setting, architecture and width: what differs within is sparsity (or the seed)."""
    found: dict[tuple[str, str, int | None], list[Record]] = {}
    for r in (r for r in records if r.about.get("architecture") != TWINS):
        found.setdefault((r.setting, str(r.about.get("architecture")), r.about.get("d_sae")), []).append(r)
    return dict(sorted(found.items(), key=lambda item: (item[0][0], item[0][1], item[0][2] or 0)))


def at_l0(sweep: Sequence[Record], l0: Mapping[str, float], at: float, spec: str) -> Interval | None:
    """A score at a matched L0, interpolated along one of `sweeps`; `l0` as `results.sparsities` gives it. None where it does not reach it."""
    there = [r for r in sweep if r.coder_hash in l0 and r.value(spec) is not None]
    places = [l0[r.coder_hash] for r in there]

    def value(v: np.ndarray) -> Any:
        return statistics.interpolate(places, v, at, tolerance=NEAR)

    here = value(np.array([r.value(spec) for r in there])) if there else None
    if here is None:
        return None
    found = combined(there, spec, value)
    return Interval(float(here), None, None, 0) if found is None else found


def seeds(records: Iterable[Record]) -> list[list[Record]]:
    """Groups of records of one setting whose coders differ in the seed alone, two or more.

    Coders that share a seed too differ in something that records do not say (learning rate, tokens …): such groups are left out.
    """
    found: dict[str, list[Record]] = {}
    for r in records:
        found.setdefault(repr((r.setting, {k: v for k, v in r.about.items() if k != "seed"})), []).append(r)
    return [g for g in found.values() if len(g) > 1 and len({r.about.get("seed") for r in g}) == len(g)]


def spread(group: Sequence[Record], spec: str) -> statistics.Spread | None:
    """Mean, standard deviation and coefficient of variation of a score over seeds; None where fewer than two have it."""
    values = [v for r in group if (v := r.value(spec)) is not None]
    return statistics.spread(values) if len(values) > 1 else None


# ---- what the metrics declare --------------------------------------------------------------------------------------------------


def declared(eval_name: str) -> Mapping[str, Metric]:
    """The metrics of an eval; of one that is not installed, none."""
    return registry.EVALS.load(eval_name).metrics if eval_name in registry.EVALS else {}


def normalised(score: Score, metric: Metric | None) -> Interval | None:
    """A score on the scale from its metric's floor (0) to its ceiling (1); None where one of these is not declared."""
    if metric is None or metric.floor is None or metric.ceiling is None or score.value is None:
        return None
    floor, span = metric.floor, metric.ceiling - metric.floor
    low, high = (None if v is None else (v - floor) / span for v in (score.low, score.high))
    return Interval((score.value - floor) / span, *((low, high) if span > 0 else (high, low)), score.n or 0)


def front(records: Iterable[Record], l0: Mapping[str, float], spec: str) -> set[str]:
    """Keys of the records on the Pareto front of a score against L0, setting by setting, in the direction its metric declares.

    Empty where no direction is declared.
    """
    found: set[str] = set()
    rows = [(r, s) for r in records if (s := r.score(spec)) and s.value is not None and r.coder_hash in l0]
    for setting in {r.setting for r, _ in rows}:
        here = [(r, s) for r, s in rows if r.setting == setting]
        metric = declared(here[0][0].eval).get(here[0][1].metric)
        if metric is not None and metric.better != "neither":
            cost, gain = [l0[r.coder_hash] for r, _ in here], [float(s.value or 0) for _, s in here]
            found |= {here[i][0].key for i in statistics.pareto(cost, gain, metric.better)}
    return found


def beside(
    records: Iterable[Record], everything: Iterable[Record], coder: str | None = None
) -> Callable[[Record, Score], dict[str, Any]]:
    """What `results.export` writes beside each score of `records`: L0, direction, normalised, on the front, and less `coder`, paired."""
    records, everything = list(records), list(everything)
    l0, fronts = sparsities(everything), {}
    references = {} if coder is None else reference(everything, coder)

    def found(record: Record, score: Score) -> dict[str, Any]:
        metric = declared(record.eval).get(score.metric)
        place = record.setting, score.spec
        if place not in fronts:
            fronts[place] = front([r for r in records if r.setting == record.setting], l0, score.spec)
        scale = normalised(score, metric)
        row: dict[str, Any] = {"l0": l0.get(record.coder_hash), "better": metric and metric.better}
        row |= {"normalised": scale and scale.value, "pareto": record.key in fronts[place] if fronts[place] else None}
        if coder is not None:
            other = references.get(record.setting)
            gap = None if other is None else against(record, other, score.spec)
            row |= {f"difference_{k}": gap and getattr(gap, k) for k in ("value", "low", "high", "p")}
        return row

    return found
