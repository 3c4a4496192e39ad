"""overview: what the store holds."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from assay import provenance
from assay.store import KINDS
from assay.web.shelf import Shelf, Shelved

router = APIRouter(tags=["overview"])


class CoderLine(BaseModel):
    """A coder among others."""

    name: str
    architecture: str
    baseline: bool
    model: str | None
    site: str | None
    d_sae: int | None
    l0: float | None
    """As `core` measured it last."""
    harvested: bool
    """Whether its latents can be looked at."""
    made: str
    """When, ISO 8601."""


class Overview(BaseModel):
    """What the store holds, and what this server can do."""

    store: str
    version: str
    counts: dict[str, int]
    """Entries of each kind."""
    live: str | None
    """Name of the live model, if there is one."""
    coders: list[CoderLine]


@router.get("/index.json")
def overview(shelf: Shelved) -> Overview:
    """What the store holds."""
    counts = {kind: len(shelf.store.names(kind)) for kind in KINDS} | {"results": len(shelf.records())}
    live = None if shelf.live is None else shelf.live.name
    return Overview(
        store=shelf.store.root.name, version=provenance.package_version(), counts=counts, live=live, coders=lines(shelf)
    )


@router.get("/coders.json")
def coders(shelf: Shelved) -> list[CoderLine]:
    """All coders, baselines too."""
    return lines(shelf)


def lines(shelf: Shelf) -> list[CoderLine]:
    """A line for each coder."""
    l0 = {r.coder: r.value("l0") for r in sorted(shelf.records(), key=lambda r: r.made.at) if r.eval == "core"}
    looked_at = {name.rpartition(".")[0] for name in shelf.store.names("features")}
    return [line(name, shelf.manifest(name), l0.get(name), name in looked_at) for name in shelf.coders()]


def line(name: str, manifest: dict, l0: float | None, harvested: bool) -> CoderLine:
    """A coder's line, from its manifest."""
    about = manifest["about"]
    model = about.get("model") or {}
    return CoderLine(
        name=name, architecture=str(about.get("architecture")), baseline=about.get("kind") == "baseline",
        model=model.get("name") if isinstance(model, dict) else str(model), site=about.get("site"),
        d_sae=(about.get("config") or {}).get("d_sae"), l0=l0, harvested=harvested, made=manifest["made"]["at"],
    )  # fmt: skip
