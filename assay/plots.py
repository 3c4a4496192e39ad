"""plots: loss recovered and fraction of variance unexplained against L0, a line an architecture, with 95 % intervals."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay.errors import BadInput, UnknownName
from assay.results import Record, latest
from assay.store import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
"""Okabe and Ito's palette, told apart by the colour-blind too."""
MARKERS = "osD^vPX*"
PANELS = {"loss_recovered[ablation=mean]": "loss recovered (mean ablation)", "fvu": "fraction of variance unexplained"}


def against_l0(records: Iterable[Record], metrics: Sequence[str] | None = None) -> Figure:
    """A panel for each metric (full names as in `Score.spec`) over L0 on a logarithmic axis; baselines are dashed.

    Records must be of one setting: same model, text and configuration.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter, ScalarFormatter

    names = list(PANELS if metrics is None else metrics)
    rows = [r for r in latest(records) if r.eval == "core" and (r.value("l0") or 0) > 0]
    if not rows:
        raise BadInput("There are no core results to plot. Run `assay eval core` first.")
    if len({r.setting for r in rows}) > 1:
        raise BadInput("These results were made with several models, texts or settings; plot one of them at a time.")
    for name in names:
        if not any(r.score(name) for r in rows):
            raise UnknownName.among("metric", name, {s.spec for r in rows for s in r.scores})
    figure = Figure(figsize=(4.8 * len(names) + 1.8, 4.2), layout="constrained")
    trained = sorted({str(r.about["architecture"]) for r in rows}, key=lambda a: (_baseline(rows, a), a))
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for i, architecture in enumerate(trained):
            _line(axes, [r for r in rows if r.about["architecture"] == architecture], name, i)
        axes.set(xscale="log", xlabel="L0 (latents a token)", ylabel=PANELS.get(name, name))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))
        axes.grid(alpha=0.25, which="both", linewidth=0.5)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize="small", frameon=False)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write .png or .svg, whole or not at all; the same figure gives the same bytes."""
    import matplotlib

    kind = path.suffix.lstrip(".").lower()
    if kind not in ("png", "svg"):
        raise UnknownName.among("picture format", kind, ["png", "svg"], more=f"Got {path.name!r}.")
    out = io.BytesIO()
    stamp: dict[str, Any] = {"Date": None} if kind == "svg" else {"Software": None}
    with matplotlib.rc_context({"svg.hashsalt": "assay"}):
        figure.savefig(out, format=kind, dpi=150, metadata=stamp)
    write_atomic(path, out.getvalue())


def _baseline(rows: Sequence[Record], architecture: str) -> bool:
    return any(r.about.get("baseline") for r in rows if r.about["architecture"] == architecture)


def _line(axes: Axes, rows: Sequence[Record], name: str, i: int) -> None:
    points = []
    for r in sorted(rows, key=lambda r: r.value("l0") or 0):
        s = r.score(name)
        if s is not None and s.value is not None:
            low, high = (s.value if end is None else end for end in (s.low, s.high))
            points.append((r.value("l0"), s.value, s.value - low, high - s.value))
    if not points:
        return
    x, y, below, above = zip(*points, strict=True)
    dashed = bool(rows[0].about.get("baseline"))
    sweep = rows[0].about["architecture"] != "permuted_decoder"  # twins of several architectures are no sweep
    axes.errorbar(
        x, y, yerr=[below, above], label=str(rows[0].about["architecture"]) + (" (baseline)" if dashed else ""),
        color=COLOURS[i % len(COLOURS)], marker=MARKERS[i % len(MARKERS)], linestyle=("--" if dashed else "-") if sweep else "none",
        markersize=5, linewidth=1.3, capsize=2.5, alpha=0.75 if dashed else 1.0,
    )  # fmt: skip
