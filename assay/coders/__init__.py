"""Coders: one architecture a file. `registry.CODERS` lists them without importing; `new` builds one by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from assay import registry
from assay.errors import BadInput, UnknownName

if TYPE_CHECKING:
    from assay.coders.base import SparseCoder


def new(architecture: str, /, *, seed: int = 0, **settings: Any) -> SparseCoder[Any]:
    """A fresh coder: `new("topk", d_in=768, d_sae=12288, k=32)`. Unknown names and settings are refused with the nearest known."""
    cls = registry.CODERS.load(architecture)
    known = {s.name: s for s in registry.CODERS.settings(architecture)}
    for name in settings:
        if name not in known:
            raise UnknownName.among(f"setting of {architecture}", name, known)
    missing = [name for name, s in known.items() if s.required and name not in settings]
    if missing:
        raise BadInput(f"{architecture} also needs: {', '.join(missing)}.")
    return cls(cls.Config(**settings), seed=seed)
