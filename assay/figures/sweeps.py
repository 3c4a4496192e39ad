"""Scores of trained coders and baselines against L0, width, or tokens learnt from: a line an architecture, with intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median_low
from typing import Any

from assay import compare
from assay.compare import NEAR
from assay.errors import BadInput
from assay.figures.base import Figure, Point, written
from assay.figures.scores import Gathered, Scored, gathered, lines, order, steps
from assay.results import Record
from assay.statistics import Interval

Metrics = Sequence[str] | None
Everything = Iterable[Record] | None
NO_L0 = "No L0 is known of these coders. Run `assay eval core` with them first."


def against_l0(
    records: Iterable[Record], metrics: Metrics = None, *, everything: Everything = None, tokens: Mapping[str, int] | None = None,
    at: float | None = None, front: bool = False,
) -> Figure:  # fmt: skip
    """Metrics (full names as in `Score.spec`; left out: a headline of each eval) over L0, a panel each.

    `at`: also what each line gives at this L0, interpolated. `front`: mark what no other coder beats. `everything`: records that
    L0 is looked up in. `tokens`: what coders learnt from, by hash. `BadInput` where records are of several settings.
    """
    g = gathered(records, metrics, everything, tokens)
    coders = [c for c in order(g.coders) if "l0" in c.values and c.values["l0"].value > 0]
    if not coders:
        raise BadInput(NO_L0)
    groups = _by_architecture(coders)
    several = len({c.width for c in coders if not c.baseline}) > 1
    legend = lines(groups, by_width=several)
    points: list[Point] = []
    for i, group in enumerate(groups.values()):
        places = steps([c.values["l0"].value for c in group])
        points += [Point(name=c.record.coder, line=i, order=p, values=c.values) for c, p in zip(group, places, strict=True)]
        if at is not None and legend[i].joined and (found := _at(group, g, at)):
            points.append(Point(name=f"L0 {at:g}, interpolated", line=i, order=0, values=found, interpolated=True))
    notes = [*g.notes, *_left_out(g, coders, "that have no L0 above 0")]
    notes += (
        [] if at is None else [f"Diamonds: interpolated along each line to L0 {at:g}; none where a line does not reach it."]
    )
    panels = _panels(g, "l0")
    return Figure(title=g.title, axes=g.axes, lines=legend, points=points, panels=panels, notes=notes, front=front)


def against_width(
    records: Iterable[Record], metrics: Metrics = None, *, everything: Everything = None, at: float | None = None
) -> Figure:
    """Metrics over the number of latents at one L0, interpolated along the sweep of each architecture and width.

    `at`: the L0; left out, one that most sweeps reach.
    """
    g = gathered(records, metrics, everything)
    there = [c for c in order(g.coders) if {"l0", "d_sae"} <= set(c.values) and c.architecture != compare.TWINS]
    panels, sweeps = _panels(g, "d_sae", "l0"), _by_architecture(there, widths=True)
    if not sweeps:
        raise BadInput(NO_L0)
    at = _reached([sweep for sweep in sweeps.values() if not sweep[0].baseline]) if at is None else at
    found = {name: values for name, sweep in sweeps.items() if (values := _at(sweep, g, at))}
    if not found:
        raise BadInput(f"No sweep reaches L0 {at:g}. `assay results table` shows the L0 of each coder; choose another --at-l0.")
    groups: dict[str, list[Scored]] = {}
    for name in found:
        groups.setdefault(sweeps[name][0].architecture, []).extend(sweeps[name])
    places = list(groups)
    points = [
        Point(
            name=f"{name}, from {len(sweeps[name])} coders", line=places.index(sweeps[name][0].architecture),
            order=sweeps[name][0].width, values=values | {"d_sae": sweeps[name][0].values["d_sae"]},
        )
        for name, values in found.items()
    ]  # fmt: skip
    notes = [
        *g.notes,
        f"At L0 {at:g}, interpolated along the sweep of each architecture and width; n counts the coders of its sweeps.",
    ]
    if missing := [name for name in sweeps if name not in found]:
        notes.append(f"Left out, since they do not reach that L0: {', '.join(missing)}.")
    axes = {key: axis for key, axis in g.axes.items() if any(key in p.values for p in points)}
    panels = [(x, y) for x, y in panels if y in axes]
    return Figure(title=f"{g.title}, L0 {at:g}", axes=axes, lines=lines(groups), points=points, panels=panels, notes=notes)


def against_tokens(
    records: Iterable[Record], metrics: Metrics = None, *, everything: Everything = None, tokens: Mapping[str, int]
) -> Figure:
    """Metrics over the tokens that coders learnt from, a line for all that differ in nothing else (nor in the seed)."""
    g = gathered(records, metrics, everything, tokens)
    coders = [c for c in order(g.coders) if "tokens" in c.values]
    if not coders:
        raise BadInput(
            "Nothing says how many tokens these coders learnt from: they are not in the store as `assay train` left them."
        )
    groups = _by_settings(coders)
    legend = lines(groups)
    points = [
        Point(name=c.record.coder, line=i, order=c.values["tokens"].value, values=c.values)
        for i, group in enumerate(groups.values())
        for c in group
    ]
    notes = [*g.notes, *_left_out(g, coders, "of which nothing says what they learnt from")]
    panels = _panels(g, "tokens")
    return Figure(title=g.title, axes=g.axes, lines=legend, points=points, panels=panels, notes=notes)


def _panels(g: Gathered, x: str, *constant: str) -> list[tuple[str, str]]:
    """A panel over `x` for each metric that is asked for, but not for itself or what is the same all over the figure."""
    found = [(x, key) for key in g.asked if key not in (x, *constant)]
    if not found:
        raise BadInput(f"There is nothing to draw over {g.axes[x].label if x in g.axes else x}: name another metric.")
    return found


def _left_out(g: Gathered, kept: Sequence[Scored], why: str) -> list[str]:
    missing = len(g.coders) - len(kept)
    return [f"Left out: {missing} coder{'s' * (missing > 1)} {why}."] if missing else []


def _by_architecture(coders: Sequence[Scored], *, widths: bool = False) -> dict[str, list[Scored]]:
    """Coders that differ in sparsity (or the seed); architectures of several widths, or all with `widths`, width by width."""
    found: dict[str, list[Scored]] = {}
    for c in coders:
        several = widths or len({o.width for o in coders if o.architecture == c.architecture}) > 1
        name = (
            f"{c.architecture} {written(c.width, 'width')}" if several and c.architecture != compare.TWINS else c.architecture
        )
        found.setdefault(name, []).append(c)
    return found


def _by_settings(coders: Sequence[Scored]) -> dict[str, list[Scored]]:
    """Coders of one configuration, named by the architecture and by what sets them apart from others of it."""
    settings = {c.record.coder_hash: dict(c.record.about.get("config") or {}) for c in coders}
    found: dict[str, list[Scored]] = {}
    for c in coders:
        alike: list[dict[str, Any]] = [settings[o.record.coder_hash] for o in coders if o.architecture == c.architecture]
        own = {k: v for k, v in settings[c.record.coder_hash].items() if any(o.get(k) != v for o in alike)}
        found.setdefault(" ".join([c.architecture, *(f"{k}={v}" for k, v in own.items())]), []).append(c)
    return found


def _at(group: Sequence[Scored], g: Gathered, at: float) -> dict[str, Interval]:
    """What a sweep gives at an L0 in each metric that is asked for, and that L0; empty where it does not reach it."""
    l0 = {c.record.coder_hash: c.values["l0"].value for c in group}
    found: dict[str, Interval] = {}
    for key in g.asked:
        name, _, spec = key.partition("/")
        sweep = [r for r in g.records if r.eval == name and r.coder_hash in l0]
        if sweep and (value := compare.at_l0(sweep, l0, at, spec)):
            found[key] = value
    return found | {"l0": Interval(at, None, None, 0)} if found else {}


def _reached(sweeps: Sequence[Sequence[Scored]]) -> float:
    """An L0, of some coder, that most sweeps reach; the middle one of several as good."""
    if not sweeps:
        raise BadInput("There are only baselines here. A figure of widths needs trained coders of several.")
    each = [[c.values["l0"].value for c in sweep] for sweep in sweeps]
    ends = [(min(s) / (1 + NEAR), max(s) * (1 + NEAR)) for s in each]
    reach = {v: sum(low <= v <= high for low, high in ends) for s in each for v in s if v > 0}
    return round(median_low([v for v in sorted(reach) if reach[v] == max(reach.values())]), 1)
