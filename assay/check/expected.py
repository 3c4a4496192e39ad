"""expected: what a coder should do, by what was published with it, measured here, or written in its configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from assay.check.judging import Said
from assay.coders.base import SparseCoder
from assay.results import Record

EXPLAINED = (
    "explained_variance",
    "explained_variance_saebench_0_6",
    "explained_variance_legacy",
    "frac_variance_explained@dictionary_learning",
)
"""1 − FVU under the names that libraries have for it, the nearest to ours first."""


def expected(coder: SparseCoder[Any], published: Sequence[Record], ours: Sequence[Record]) -> Said:
    """From `core` records; where there are none, L0 from the coder's own k."""
    for source, records in (("published", published), ("measured here", ours)):
        core = sorted((r for r in records if r.eval == "core"), key=lambda r: r.made.at, reverse=True)
        l0 = next((v for r in core if (v := r.value("l0")) is not None), None)
        fvu = next((v for r in core if (v := _fvu(r)) is not None), None)
        if l0 is not None or fvu is not None:
            return Said(l0=l0, fvu=fvu, source=source)
    k = coder.wanted_l0
    return Said() if k is None else Said(l0=k, source="its k")


def _fvu(record: Record) -> float | None:
    """An FVU between 0 and 1, from whatever says it."""
    found = [record.value("fvu"), *(None if (v := record.value(name)) is None else 1 - v for name in EXPLAINED)]
    return next((v for v in found if v is not None and 0 <= v < 1), None)
