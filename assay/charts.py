"""charts: small SVG pictures for a web page. They take the page's colours, light or dark, and equal data give equal bytes.

The page must define the CSS variables --ink, --grid and --s0 … --s5.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Series = tuple[Sequence[float], Sequence[float]]
"""Where on the axis, and how high."""
Mark = tuple[float, str]
"""A value with a name, drawn as a dashed line."""

# Stand-ins that matplotlib draws with and the finished SVG has variables in the place of.
INK, GRID = "#0a0b0c", "#0a0b0d"
COLOURS = tuple(f"#0a0b1{i}" for i in range(6))
VARIABLES = {INK: "var(--ink)", GRID: "var(--grid)"} | {c: f"var(--s{i})" for i, c in enumerate(COLOURS)}
STYLE = {
    "svg.fonttype": "none", "text.parse_math": False, "font.size": 9, "font.sans-serif": ["DejaVu Sans"], "axes.edgecolor": INK,
    "axes.labelcolor": INK,    "axes.facecolor": "none", "text.color": INK, "xtick.color": INK, "ytick.color": INK, "grid.color": GRID,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True, "grid.linewidth": 0.6,
    "legend.frameon": False, "legend.fontsize": 8, "axes.linewidth": 0.6,
}  # fmt: skip
POINTS = 300
FINE = 20.0  # a series that spans more than this factor is drawn on a logarithmic axis


def lines(
    title: str, series: Mapping[str, Series], *, y: str, x: str = "vectors seen",
    mark: Mark | None = None, log: bool | None = None, zero: bool = True,
) -> str:  # fmt: skip
    """Curves over `x`. `log`: a logarithmic axis; left out, where all is positive and spans more than a factor of 20.

    `zero`: let a linear axis begin at 0.
    """
    from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullFormatter

    def draw(axes: Axes) -> None:
        values = np.concatenate([np.asarray(v, dtype=float) for _, v in series.values()])
        span = values.max() / values.min() if values.min() > 0 else 0
        for i, (name, points) in enumerate(series.items()):
            width = 2.6 if not i and len(series) > 1 else 1.4  # the first shows even where another lies upon it
            axes.plot(*thin(*points), color=COLOURS[i % len(COLOURS)], label=name, linewidth=width)
        if mark:
            axes.axhline(mark[0], color=INK, linestyle="--", linewidth=1, label=mark[1])
        if span > FINE if log is None else log and span:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if span < 500 else (1,)))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.3g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        elif zero and values.min() >= 0:
            axes.set_ylim(bottom=0)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set(xlabel=x, ylabel=y)
        if len(series) > 1 or mark:
            axes.legend()

    return picture(title, draw)


def histogram(title: str, values: Sequence[float] | np.ndarray, *, x: str, y: str = "latents", mark: Mark | None = None) -> str:
    """How many of `values` lie where, in 40 bins."""

    def draw(axes: Axes) -> None:
        axes.stairs(*np.histogram(values, bins=40), fill=True, color=COLOURS[0])
        if mark:
            axes.axvline(mark[0], color=INK, linestyle="--", linewidth=1, label=mark[1])
            axes.legend()
        axes.set(xlabel=x, ylabel=y)

    return picture(title, draw)


def steps(title: str, counts: Sequence[int], ticks: Mapping[float, str], *, x: str, y: str = "latents") -> str:
    """A histogram whose bins are counted already; bin i spans i to i + 1, `ticks` say what stands there."""

    def draw(axes: Axes) -> None:
        axes.stairs(counts, fill=True, color=COLOURS[0])
        axes.set_xticks(list(ticks), list(ticks.values()))
        axes.set(xlabel=x, ylabel=y)

    return picture(title, draw)


def strip(
    title: str, columns: np.ndarray, ends: tuple[float, float], ticks: Mapping[float, str], *, y: str, x: str = "vectors seen"
) -> str:
    """Histograms over time, [times, bins]: the darker a cell, the larger its share of the column."""
    from matplotlib.ticker import EngFormatter

    def draw(axes: Axes) -> None:
        cells = np.array([part.sum(0) for part in np.array_split(columns, min(len(columns), 120))], dtype=float).T
        shares = cells / np.maximum(cells.sum(0), 1)
        shade = np.zeros((*shares.shape, 4))
        shade[..., :3] = (0.16, 0.5, 0.78)
        shade[..., 3] = (shares / max(shares.max(), 1e-12)) ** 0.5  # the root lets small shares be seen
        axes.imshow(shade, aspect="auto", origin="lower", extent=(*ends, 0, len(shares)), interpolation="none")
        axes.set_yticks(list(ticks), list(ticks.values()))
        axes.grid(False)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set(xlabel=x, ylabel=y)

    return picture(title, draw)


def thin(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most about `POINTS` points: of each stretch the lowest and the highest, so that no spike is lost."""
    across, up = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if len(up) > POINTS:
        parts = np.array_split(np.arange(len(up)), POINTS // 2)
        keep = sorted({0, len(up) - 1} | {int(p[f(up[p])]) for p in parts for f in (np.argmin, np.argmax)})
        across, up = across[keep], up[keep]
    return across, up


def picture(title: str, draw: Any) -> str:
    """The SVG element of what `draw(axes)` draws; `title` names it for screen readers."""
    import matplotlib
    from matplotlib.figure import Figure

    style: dict[Any, Any] = STYLE | {"svg.hashsalt": title}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(4.7, 2.9), layout="constrained", facecolor="none")
        draw(figure.subplots())
        return _inline(figure, title)


def _inline(figure: Figure, title: str) -> str:
    """An SVG file made fit to stand in a page: no prologue, no metadata, no names that clash, the page's colours."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>\s*|<defs>\s*<style.*?</defs>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*">', "<g>", text)
    text = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d)\d+", r"\1", path[0]), text)
    size = re.search(r'viewBox="[^"]*"', text)
    assert size, "matplotlib gives every SVG a viewBox"
    head = f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" {size[0]} role="img" aria-label="{html.escape(title)}">'
    text = head + text[text.index(">") + 1 :]
    return re.sub("|".join(VARIABLES), lambda colour: VARIABLES[colour[0]], text).strip()
