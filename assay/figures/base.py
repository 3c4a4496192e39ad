"""What a figure shows, before anything is drawn: axes, lines, points with intervals. Pictures and pages are drawn from this alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import Literal

from assay.statistics import Interval, pareto

Format = Literal["plain", "width", "count"]
"""How a number is written: 0.934 · 16k for 16384 latents · 1.5M for 1,500,000 tokens."""
ARROWS = {"higher": "↑ higher is better", "lower": "↓ lower is better", "neither": ""}


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A quantity that can be drawn."""

    key: str
    """`core/fvu`, `sparse_probing/accuracy[k=1,on=latents]`, `l0`, `d_sae`, `tokens`."""
    label: str
    better: Literal["higher", "lower", "neither"] = "neither"
    unit: str = ""
    doc: str = ""
    log: bool = False
    """Whether it is drawn on a logarithmic axis, unless somebody wishes otherwise."""
    format: Format = "plain"
    reference: tuple[str, Interval] | None = None
    """A level that no coder has part in, and its name: what probes reach on the activations themselves."""

    @property
    def title(self) -> str:
        """What stands along the axis: label, unit, direction."""
        unit = f" ({self.unit})" if self.unit else ""
        return f"{self.label}{unit}" + (f"\n{ARROWS[self.better]}" if ARROWS[self.better] else "")


@dataclass(frozen=True, kw_only=True)
class Line:
    """An entry of the legend: coders that belong together."""

    label: str
    colour: int | None
    """Place in the palette; None is grey, for baselines."""
    marker: int
    joined: bool = True
    """Whether a line runs through its points; else they only look alike."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One coder, or one moment of its training."""

    name: str
    line: int
    order: float
    """Where it comes along its line."""
    values: Mapping[str, Interval]
    """By the keys of axes."""
    interpolated: bool = False
    """Not a coder: what its line gives at a chosen L0."""


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """Rank correlations over coders of every quantity with every other."""

    keys: tuple[str, ...]
    cells: Mapping[tuple[str, str], Interval | None]
    """None where too few coders have both, or one of them does not vary."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """All that is drawn, and whatever else a page lets its reader choose."""

    title: str
    axes: Mapping[str, Axis]
    lines: Sequence[Line]
    points: Sequence[Point]
    panels: Sequence[tuple[str, str]]
    """Pairs of keys: across, up."""
    notes: Sequence[str] = ()
    front: bool = False
    """Whether the Pareto front is drawn."""
    matrix: Matrix | None = None

    def shown(self, x: str, y: str) -> list[tuple[Point, Interval, Interval]]:
        """Points that have both quantities, line by line, in the order in which they are joined."""
        found = [(p, p.values[x], p.values[y]) for p in self.points if x in p.values and y in p.values]
        return sorted(found, key=lambda f: (f[0].line, f[0].interpolated, f[0].order))

    def best(self, x: str, y: str) -> list[tuple[Point, Interval, Interval]]:
        """The Pareto front: coders that no other beats in both; none where a quantity has no direction."""
        across, up = self.axes[x].better, self.axes[y].better
        if "neither" in (across, up):
            return []
        found = [f for f in self.shown(x, y) if not f[0].interpolated]
        cost = [at.value if across == "lower" else -at.value for _, at, _ in found]
        return [found[i] for i in pareto(cost, [value.value for *_, value in found], up)]  # type: ignore[arg-type]


# ---- looks ---------------------------------------------------------------------------------------------------------------------

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, told apart by the colour-blind too; their yellow, which white swallows, is left out."""
GREY = "#777777"
MARKERS = 8
KNOWN = ("topk", "batch_topk", "jumprelu", "relu", "gated", "matryoshka", "p_anneal")
"""Architectures whose colour is the same in every figure; others get the next free."""


def colour(architecture: str, among: Sequence[str]) -> int:
    """Place in the palette of a trained architecture."""
    if architecture in KNOWN:
        return KNOWN.index(architecture)
    others = sorted(set(among) - set(KNOWN))
    free = [i for i, name in enumerate(KNOWN) if name not in among]
    places = [*free, *range(len(KNOWN))]
    return places[others.index(architecture) % len(places)]


SHORT = {
    "kl": "KL divergence", "ce": "cross-entropy", "fvu": "fraction of variance unexplained", "l0": "L0", "l1": "L1", "l2": "L2",
    "auc": "AUC", "f1": "F1", "mcc": "MCC", "mmcs": "MMCS", "mse": "MSE", "scr": "SCR", "tpp": "TPP", "frac": "share",
    "sim": "similarity", "cos": "cosine",
}  # fmt: skip


def label(metric: str, where: Mapping[str, str]) -> str:
    """`accuracy[k=1,on=latents]` in words: accuracy (k 1, on latents)."""
    words = " ".join(SHORT.get(word, word) for word in metric.split("_"))
    inner = ", ".join(f"{k} {v}" for k, v in where.items())
    return f"{words} ({inner})" if inner else words


def written(value: float, format: Format) -> str:
    """A number as an axis writes it."""
    if format == "plain" or value <= 0:
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.6g}"
    step, suffixes = (1024, ("", "k", "M")) if format == "width" else (1000, ("", "k", "M", "B", "T"))
    power = min(int(log(value, step) + 1e-9), len(suffixes) - 1)
    return f"{value / step**power:.4g}{suffixes[power]}"
