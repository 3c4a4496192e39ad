"""Shown: a harvest in the words of other pages: examples as strings beside activations, histograms in equal bars, what was said."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import numpy as np

from assay.errors import BadInput
from assay.features import Example, Features, Latent, explanations
from assay.features.explanations import Explanation
from assay.models.base import Site
from assay.models.pieces import Pieces
from assay.notes import Notes
from assay.store import Store

BARS = 50
"""Equal bars of a histogram of activations, from 0 to the maximum."""


def number(value: float | None, digits: int = 7) -> float | None:
    """As JSON has it: so many digits, null for what is missing. Five bring a float16 back, nine a float32."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.{digits}g}")


def numbers(values: np.ndarray, digits: int = 7) -> list[float | None]:
    return [number(v, digits) for v in values.tolist()]


def text(features: Features, pieces: Pieces, one: Example) -> tuple[list[str], list[float]]:
    """Tokens of an example's window, and the activation at each."""
    tokens = pieces.row(features.window(one.start, one.stop).ids)
    values = np.zeros(len(tokens))
    values[one.at] = one.values
    return tokens, [float(f"{v:.5g}") for v in values.tolist()]


def apportioned(counts: np.ndarray, edges: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Counts of bins as counts of other bins, whole numbers of the same sum. Within a bin they are taken to lie evenly."""
    upto = np.concatenate([[0], np.cumsum(counts)])
    found = np.interp(wanted, edges, upto)
    found[0], found[-1] = 0, upto[-1]
    return np.diff(np.rint(found)).astype(np.int64)


def bars(features: Features, row: Latent) -> tuple[list[int], np.ndarray]:
    """(active tokens in each of BARS equal bars up to the maximum, their edges); nothing of a dead latent."""
    used = np.flatnonzero(row.histogram)
    if row.max is None or not len(used):
        return [], np.zeros(0)
    last = int(used[-1]) + 1
    edges = features.edges[: last + 1].copy()
    edges[-1] = max(row.max, edges[-2])
    wanted = np.linspace(0, row.max, BARS + 1)
    return apportioned(row.histogram[:last], edges, wanted).tolist(), wanted


def centres(edges: np.ndarray) -> list[float | None]:
    """Middles of bars."""
    return numbers((edges[:-1] + edges[1:]) / 2)


def logits(pieces: Pieces, row: Latent) -> dict[str, list[Any]]:
    """The tokens that a latent raises and lowers most, as strings, with their values."""
    return {
        "pos_str": [pieces.one(i) for i in row.top_logits.tolist()], "pos_values": numbers(row.top_logit_values, 5),
        "neg_str": [pieces.one(i) for i in row.bottom_logits.tolist()], "neg_values": numbers(row.bottom_logit_values, 5),
    }  # fmt: skip


def said(store: Store, features: Features) -> dict[int, list[Explanation]]:
    """What was said of each latent of this very coder: explanations by methods, then people's labels (method: "")."""
    found: dict[int, list[Explanation]] = defaultdict(list)
    labels = (
        Explanation(latent=label.latent, text=label.text, method="", at=label.at, coder_hash=label.coder_hash)
        for label in Notes(store).labels(features.coder)
    )
    for one in [*explanations.read(store, features.coder), *labels]:
        if one.coder_hash in ("", features.coder_hash):
            found[one.latent].append(one)
    return found


def site(features: Features) -> Site:
    """Where the coder belongs; these formats sort by layer."""
    if not features.about.get("site"):
        raise BadInput(f"{features.coder} predicts several sites; only coders of one site can be written by layer.")
    return Site.parse(features.about["site"])
