"""Features: what `assay harvest` found of each latent of a coder over a text: numbers, examples, neighbours, logits.

    latents = assay.features("topk", store="demo-store")
    ids, found = latents.select("density", where=[Where("max", low=10)])
    latents.latent(ids[0]).top_logits, latents.examples(ids[0], "top")

Reading needs no torch. See docs/harvest.md for what each number is.
"""

from __future__ import annotations

import os
from pathlib import Path

from assay.features.reader import Example, Features, Latent, Where, Window, names, open
from assay.store import Store

__all__ = ["Example", "Features", "Latent", "Where", "Window", "names", "of", "open"]


def of(coder: str, text: str | None = None, *, store: str | Path | Store | None = None) -> Features:
    """What was harvested of a coder: the newest, or over one text. `store`: else `ASSAY_STORE`, else ./assay-store."""
    if not isinstance(store, Store):
        store = Store(store or os.environ.get("ASSAY_STORE") or "assay-store", create=False)
    return open(store, coder, text)
