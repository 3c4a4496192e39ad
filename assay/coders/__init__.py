"""Coders: one architecture a file. `registry.CODERS` lists them without importing; `new` builds one by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from assay import registry
from assay.errors import BadInput, UnknownName

if TYPE_CHECKING:
    from assay.coders.base import SparseCoder


EXACT = ("k", "target_l0", "settings")
"""Settings that a wanted L0 decides, unless they are given."""


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
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}  # JSON knows no tuples
    return cls(cls.Config(**settings), seed=seed)


def with_l0(architecture: str, settings: Mapping[str, Any], l0: float | int) -> dict[str, Any]:
    """`settings` for a mean L0 where the architecture fixes it by one: k of the top-k family, target_l0. Others need a controller."""
    named = {s.name for s in registry.CODERS.settings(architecture)}
    if {"of", "settings"} <= named:
        from assay.coders.composed import parsed

        of = settings.get("of") or next(s.default for s in registry.CODERS.settings(architecture) if s.name == "of")
        parts = parsed(str(settings.get("settings", "")))
        more = {k: v for k, v in with_l0(str(of), parts, l0).items() if k not in parts}
        said = [f"{k}={'none' if v is None else v}" for k, v in (parts | more).items()]
        return {**settings, "settings": ",".join(said)}
    if settings.get("penalty") == "target_l0":
        return {"target_l0": l0, **settings}
    if "k" not in named or "k" in settings:
        return dict(settings)
    if l0 != round(l0):
        raise BadInput(f"{architecture} keeps a whole number of latents a token; an L0 of {l0} cannot be had.")
    return {**settings, "k": round(l0)}
