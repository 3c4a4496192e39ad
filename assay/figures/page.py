"""Figures as one HTML file that answers: hover, legend, choice of axes. Needs no network; its script is `data/figure.js`."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from assay.figures.base import Figure
from assay.statistics import Interval
from assay.store import write_atomic

DATA = Path(__file__).parents[1] / "data"


def save(figure: Figure, path: Path) -> None:
    """Write the page, whole or not at all. Equal figures give equal bytes."""
    write_atomic(path, html(figure))


def html(figure: Figure) -> str:
    """The page as text."""
    import jinja2

    script = (DATA / "figure.js").read_text(encoding="utf-8")
    seal = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    template = (DATA / "figure.html.j2").read_text(encoding="utf-8")
    page = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(template)
    text = json.dumps(as_data(figure), ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return page.render(title=figure.title, notes=figure.notes, hash=seal, data=text, script=script) + "\n"


def as_data(figure: Figure) -> dict[str, Any]:
    """What the page's script reads: axes and lines by number, an interval as [value, low, high, n]."""
    places = {key: i for i, key in enumerate(figure.axes)}
    matrix = figure.matrix
    return {
        "axes": [
            {"key": a.key, "label": a.label, "better": a.better, "unit": a.unit, "doc": a.doc, "log": a.log, "format": a.format}
            | {"reference": None if a.reference is None else [a.reference[0], _numbers(a.reference[1])]}
            for a in figure.axes.values()
        ],
        "lines": [{"label": x.label, "colour": x.colour, "marker": x.marker, "joined": x.joined} for x in figure.lines],
        "points": [
            {"name": p.name, "line": p.line, "order": p.order, "interpolated": p.interpolated, "values": _values(p.values, places)}
            for p in figure.points
        ],
        "panels": [[places[x], places[y]] for x, y in figure.panels],
        "front": figure.front,
        "matrix": matrix and {
            "keys": [places[k] for k in matrix.keys],
            "cells": [[(c := matrix.cells[a, b]) and _numbers(c) for b in matrix.keys] for a in matrix.keys],
        },
    }  # fmt: skip


def _values(values: Mapping[str, Interval], places: Mapping[str, int]) -> dict[int, list[float | None]]:
    return {places[key]: _numbers(v) for key, v in values.items() if key in places}


def _numbers(v: Interval) -> list[float | None]:
    return [v.value, v.low, v.high, v.n]
