"""Which cheap scores go along with which dear ones: rank correlations over coders, and one of the pairs drawn.

Spearman's ρ with the interval of Bonett & Wright (2000, Psychometrika 65:23-28): Fisher's z with the variance (1 + ρ²/2) / (n − 3).
Coders of one sweep are no independent draws, so the intervals are if anything too narrow.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from assay.errors import BadInput
from assay.figures.base import Figure, Matrix, Point
from assay.figures.scores import Gathered, Scored, gathered, lines, order, scores
from assay.results import Record
from assay.statistics import LEVEL, Interval

FEWEST = 5  # coders that a correlation takes
PROXIES = ("l0", "core/loss_recovered[ablation=mean]", "core/fvu", "core/frac_alive")
"""What is cheap to measure, and shown where nothing else is asked for."""


def correlation(
    records: Iterable[Record], metrics: Sequence[str] | None = None, *, everything: Iterable[Record] | None = None,
    baselines: bool = False,
) -> Figure:  # fmt: skip
    """Every metric with every other, over coders of one setting, and the first two as a scatter.

    `metrics`: full names; left out: L0, loss recovered, FVU and the share of alive latents, then the headline metric of each other
    eval in all its forms. `baselines`: count them too; any metric that tells them from trained coders then goes along with any other.
    """
    g = gathered(records, metrics, everything)
    coders = [c for c in order(g.coders) if baselines or not c.baseline]
    keys = _asked(g) if metrics is None else list(dict.fromkeys(g.asked))
    keys = [k for k in keys if len({c.values[k].value for c in coders if k in c.values}) > 1]
    if len(coders) < FEWEST or len(keys) < 2:
        raise BadInput(
            f"A correlation needs at least {FEWEST} coders and two metrics in which they differ; there are {len(coders)} coders"
            f"{'' if baselines else ', baselines not counted'}, and {len(keys)} such metrics."
        )
    groups: dict[str, list[Scored]] = {}
    for c in coders:
        groups.setdefault(c.architecture, []).append(c)
    points = [
        Point(name=c.record.coder, line=i, order=c.values["l0"].value if "l0" in c.values else 0.0, values=c.values)
        for i, group in enumerate(groups.values())
        for c in group
    ]
    kind = "Baselines are counted." if baselines else "Baselines are not counted."
    notes = [
        *g.notes,
        f"Over {len(coders)} coders. {kind} Coders of one sweep are not independent: intervals may be too narrow.",
    ]
    legend = [replace(line, joined=False) for line in lines(groups)]
    table = matrix(coders, keys)
    pair = (keys[0], keys[1]) if metrics is not None else _pair(keys)
    return Figure(title=g.title, axes=g.axes, lines=legend, points=points, panels=[pair], notes=notes, matrix=table)


def _asked(g: Gathered) -> list[str]:
    """Proxies that are there, then what each other eval's headline is called, in all its forms."""
    there = scores(g.records)
    heads = {(k.partition("/")[0], there[k].metric) for k in g.asked if k in there and not k.startswith("core/")}
    others = [k for k, s in there.items() if (k.partition("/")[0], s.metric) in heads and s.where.get("on") != "activations"]
    return [k for k in PROXIES if k in g.axes] + others


def _pair(keys: Sequence[str]) -> tuple[str, str]:
    """Loss recovered, else the first there is, and the first that is no proxy, else the last."""
    x = PROXIES[1] if PROXIES[1] in keys else keys[0]
    others = [k for k in keys if k not in PROXIES] or [k for k in keys if k != x][-1:]
    return x, others[0]


def matrix(coders: Sequence[Scored], keys: Sequence[str]) -> Matrix:
    """Rank correlation of each pair over the coders that have both."""
    cells: dict[tuple[str, str], Interval | None] = {}
    for i, a in enumerate(keys):
        for b in keys[: i + 1]:
            both = [(c.values[a].value, c.values[b].value) for c in coders if a in c.values and b in c.values]
            cells[a, b] = cells[b, a] = spearman(*np.array(both).reshape(-1, 2).T)
    return Matrix(keys=tuple(keys), cells=cells)


def spearman(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> Interval | None:
    """Spearman's ρ with its interval (none at ±1); None with fewer than five pairs, or where one side does not vary."""
    from scipy import stats

    n = len(a)
    if n < FEWEST or len(set(a)) < 2 or len(set(b)) < 2:
        return None
    rho = float(np.clip(np.corrcoef(stats.rankdata(a), stats.rankdata(b))[0, 1], -1, 1))
    if abs(rho) > 1 - 1e-12:
        return Interval(rho, None, None, n)
    half = float(stats.norm.ppf((1 + LEVEL) / 2)) * ((1 + rho**2 / 2) / (n - 3)) ** 0.5
    low, high = (float(np.tanh(np.arctanh(rho) + side * half)) for side in (-1, 1))
    return Interval(rho, low, high, n)
