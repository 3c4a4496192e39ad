"""Figures of results and trainings: metrics over L0, width or tokens, training curves, correlations; as PNG, SVG or a page that answers.

figures.save(figures.against_l0(records), "curves.png")
"""

from __future__ import annotations

from pathlib import Path

from assay.errors import UnknownName
from assay.figures.base import Figure
from assay.figures.correlations import correlation
from assay.figures.sweeps import against_l0, against_tokens, against_width
from assay.figures.training import curves

__all__ = ["against_l0", "against_tokens", "against_width", "correlation", "curves", "save"]


def save(figure: Figure, path: str | Path) -> None:
    """Write .png, .svg, or an interactive .html, whole or not at all; the same figure gives the same bytes."""
    path = Path(path)
    if kind_of(path) == "html":
        from assay.figures import page

        page.save(figure, path)
    else:
        from assay.figures import picture

        picture.save(figure, path)


def kind_of(path: Path) -> str:
    """png, svg or html; `UnknownName` for whatever else a file's name ends in."""
    kind = path.suffix.lstrip(".").lower()
    if kind not in ("png", "svg", "html"):
        raise UnknownName.among("kind of figure file", kind, ["png", "svg", "html"], more=f"Got {path.name!r}.")
    return kind
