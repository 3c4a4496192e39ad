"""Figures as PNG and SVG, drawn by matplotlib. Equal figures give equal bytes."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay.figures.base import COLOURS, GREY, Axis, Figure, Line, Point, written
from assay.statistics import Interval
from assay.store import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawn

SHAPES = "osD^vPX*"
STYLE: dict[Any, Any] = {
    "text.parse_math": False, "font.size": 9, "font.sans-serif": ["DejaVu Sans"], "axes.grid": True,
    "axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False, "grid.alpha": 0.25, "grid.linewidth": 0.5,
    "legend.frameon": False, "legend.fontsize": 8,
}  # fmt: skip
ACROSS = 3  # panels side by side
MANY = 60  # points along a line from which on they are no longer marked
TALL = 18  # entries of a legend in one column
Shown = Sequence[tuple[Point, Interval, Interval]]


def save(figure: Figure, path: Path) -> None:
    """Draw a figure and write it as .png or .svg."""
    write(draw(figure), path)


def write(drawn: Drawn, path: Path) -> None:
    """Write what matplotlib has drawn as .png or .svg, whole or not at all; the same drawing gives the same bytes."""
    import matplotlib

    kind = path.suffix.lstrip(".").lower()
    out = io.BytesIO()
    stamp: dict[str, Any] = {"Date": None} if kind == "svg" else {"Software": None}
    with matplotlib.rc_context({"svg.hashsalt": "assay"}):
        drawn.savefig(out, format=kind, dpi=150, metadata=stamp)
    write_atomic(path, out.getvalue())


def draw(figure: Figure) -> Drawn:
    """All panels, the matrix before them where there is one, the legend to the right, notes below."""
    import matplotlib
    from matplotlib.figure import Figure as Drawn

    with matplotlib.rc_context(STYLE):
        count = len(figure.panels) + (figure.matrix is not None)
        columns = min(count, ACROSS)
        rows = ceil(count / columns)
        large = 0.0 if figure.matrix is None else max(0.0, 0.62 * len(figure.matrix.keys) - 2.5)  # inches more than a panel has
        size = 4.3 * columns + large + 2.2 * (1 + (len(figure.lines) > TALL)), 3.5 * rows + large / 2 + 0.9
        drawn = Drawn(figsize=size, layout="constrained")
        ratios = [1 + large / 4.3, *[1] * (columns - 1)]
        places = list(drawn.subplots(rows, columns, squeeze=False, width_ratios=ratios).flat)
        for spare in places[count:]:
            spare.remove()
        if figure.matrix is not None:
            _matrix(places.pop(0), figure)
        for axes, (x, y) in zip(places, figure.panels):
            _panel(axes, figure, x, y)
        drawn.suptitle(figure.title, fontsize=11)
        _legend(drawn, figure)
        wide = int(18 * drawn.get_figwidth())
        drawn.supxlabel("\n".join(textwrap.wrap(" ".join(figure.notes), wide)), fontsize=7, color=GREY, ha="left", x=0.01)
    return drawn


def _legend(drawn: Drawn, figure: Figure) -> None:
    """Every label once, of whatever panel has it: lines in the figure's order, then marks."""
    found: dict[str, Any] = {}
    for axes in drawn.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    labels = [line.label for line in figure.lines if line.label in found]
    labels += [label for label in found if label not in labels]
    if labels:
        drawn.legend([found[label] for label in labels], labels, loc="outside right center", ncols=1 + (len(labels) > TALL))


def _panel(axes: Axes, figure: Figure, x: str, y: str) -> None:
    across, up = figure.axes[x], figure.axes[y]
    shown = figure.shown(x, y)
    for i, line in enumerate(figure.lines):
        if points := [f for f in shown if f[0].line == i]:
            _line(axes, line, points)
    if figure.front and (best := figure.best(x, y)):
        axes.plot(
            [at.value for _, at, _ in best], [v.value for *_, v in best], color="black", linewidth=0.8, linestyle=":", zorder=4,
            label="Pareto front",
        )  # fmt: skip
        axes.scatter(
            [at.value for _, at, _ in best], [v.value for *_, v in best], s=90, facecolors="none", edgecolors="black", linewidths=0.8
        )  # fmt: skip
    if up.reference:
        _level(axes, *up.reference)
    _scale(axes, "x", across, [at.value for _, at, _ in shown])
    _scale(axes, "y", up, [v.value for *_, v in shown])
    axes.set_title(f"{y.partition('/')[0] + ', ' if '/' in y else ''}{_count(shown)}", fontsize=8, color=GREY, loc="right")


def _count(shown: Shown) -> str:
    """How many points, and how many units their intervals rest on."""
    real = [f for f in shown if not f[0].interpolated]
    units = sorted({v.n for *_, v in real if v.n and v.low is not None})
    between = f"{units[0]}" if len(units) == 1 else f"{units[0]} to {units[-1]}" if units else ""
    return f"{len(real)} points" + (f", intervals from {between} units" if units else "")


def _line(axes: Axes, line: Line, points: Shown) -> None:
    """A line through the means of points of one order, its band, and the points with their intervals."""
    colour = GREY if line.colour is None else COLOURS[line.colour]
    real = [f for f in points if not f[0].interpolated]
    dense = len(real) > MANY
    if line.joined:
        knots = [[f for f in real if f[0].order == order] for order in sorted({f[0].order for f in real})]
        x = [_mean([at.value for _, at, _ in k]) for k in knots]
        low, mid, high = ([_mean([pick(v) for *_, v in k]) for k in knots] for pick in (_low, lambda v: v.value, _high))
        axes.plot(x, mid, color=colour, linestyle="--" if line.colour is None else "-", linewidth=1.2, zorder=2)
        axes.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0, zorder=1)
    face = "white" if line.colour is None else colour
    marker = "none" if dense else SHAPES[line.marker]
    values = [v for *_, v in real]
    whiskers = [[v.value - _low(v) for v in values], [_high(v) - v.value for v in values]]
    axes.errorbar(
        [at.value for _, at, _ in real], [v.value for v in values], yerr=None if dense else whiskers, fmt="none", ecolor=colour,
        elinewidth=0.8, zorder=2,
    )  # fmt: skip
    axes.plot(
        [at.value for _, at, _ in real], [v.value for v in values], label=line.label, color=colour, marker=marker, markersize=4.5,
        markerfacecolor=face, linestyle="-" if dense else "none", linewidth=1.2, zorder=3,
    )  # fmt: skip
    for point, at, v in (f for f in points if f[0].interpolated):
        axes.errorbar(
            at.value, v.value, yerr=[[v.value - _low(v)], [_high(v) - v.value]], color=colour, marker="D", markersize=6.5,
            markerfacecolor="none", markeredgewidth=1.1, elinewidth=1.1, capsize=2.5, zorder=5,
        )  # fmt: skip
        axes.plot([], [], color=GREY, marker="D", markersize=6.5, markerfacecolor="none", linestyle="none", label=point.name)


def _level(axes: Axes, name: str, level: Interval) -> None:
    axes.axhline(level.value, color="black", linestyle=(0, (1, 2)), linewidth=1, label=name, zorder=1)
    if level.low is not None and level.high is not None:
        axes.axhspan(level.low, level.high, color="black", alpha=0.06, linewidth=0, zorder=0)


def _scale(axes: Axes, which: str, of: Axis, values: Sequence[float]) -> None:
    """The axis' title, whether it is logarithmic (only where all values are above 0), and how its numbers are written."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_label_text(of.title if which == "y" else of.title.partition("\n")[0])
    if of.log and values and min(values) > 0:
        (axes.set_xscale if which == "x" else axes.set_yscale)("log")
        low, high = axis.get_view_interval()
        if of.format == "width" and len(set(values)) <= 8:
            axis.set_major_locator(FixedLocator(sorted(set(values))))
        else:
            many = high / low > 500
            ticks = [t for t in LogLocator(subs=(1,) if many else (1, 2, 5)).tick_values(low, high) if low <= t <= high]
            axis.set_major_locator(FixedLocator(ticks) if len(ticks) > 2 else MaxNLocator(5))
        axis.set_minor_locator(NullLocator())
        axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(FuncFormatter(lambda v, _: written(v, of.format)))


def _matrix(axes: Axes, figure: Figure) -> None:
    """Rank correlations as colours and numbers with their intervals, each pair once."""
    assert figure.matrix is not None
    keys, cells = figure.matrix.keys, figure.matrix.cells
    up, across = keys[1:], keys[:-1]
    found = {(i, j): cells[a, b] for i, a in enumerate(up) for j, b in enumerate(across) if j <= i}
    shades = [
        [float("nan") if (c := found.get((i, j))) is None else c.value for j in range(len(across))] for i in range(len(up))
    ]
    axes.imshow(shades, cmap="PuOr_r", vmin=-1, vmax=1, aspect="auto")
    for (i, j), c in found.items():
        if c is not None:
            between = "" if c.low is None or c.high is None else f"\n({c.low:.2f} to\n{c.high:.2f})"
            ink = "white" if abs(c.value) > 0.6 else "black"
            axes.text(j, i, f"{c.value:.2f}{between}", ha="center", va="center", fontsize=6.5, color=ink, linespacing=1.1)
    names = {k: "\n".join(textwrap.wrap(figure.axes[k].label, 22)) for k in keys}
    axes.set_xticks(range(len(across)), [names[k] for k in across], rotation=40, ha="right", rotation_mode="anchor", fontsize=7)
    axes.set_yticks(range(len(up)), [names[k] for k in up], fontsize=7)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    sizes = sorted({c.n for c in found.values() if c is not None})
    told = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}" if sizes else "0"
    axes.set_title(f"Spearman's rank correlation, n = {told} coders", fontsize=8, color=GREY, loc="right")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _low(v: Interval) -> float:
    return v.value if v.low is None else v.low


def _high(v: Interval) -> float:
    return v.value if v.high is None else v.high
