"""overview: what the store holds."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from assay import provenance, registry
from assay.results import Record
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
    loss_recovered: float | None
    """Against mean ablation, as `core` measured it last."""
    fvu: float | None
    harvested: bool
    """Whether its latents can be looked at."""
    made: str
    """When, ISO 8601."""


class EvalLine(BaseModel):
    """An eval whose results the store holds."""

    name: str
    summary: str
    coders: int
    """Of this store, or somebody's own, that it scored."""
    published: int
    """Of other libraries' results that were imported."""


class Overview(BaseModel):
    """What the store holds, and what this server can do."""

    store: str
    version: str
    counts: dict[str, int]
    """Entries of each kind."""
    live: str | None
    """Name of the live model, if there is one."""
    evals: list[EvalLine]
    coders: list[CoderLine]


@router.get("/index.json")
def overview(shelf: Shelved) -> Overview:
    """What the store holds."""
    counts = {kind: len(shelf.store.names(kind)) for kind in KINDS} | {"results": len(shelf.records())}
    return Overview(
        store=shelf.store.root.resolve().name, version=provenance.package_version(), counts=counts,
        live=None if shelf.live is None else shelf.live.name, evals=_evals(shelf.records()), coders=lines(shelf),
    )  # fmt: skip


@router.get("/coders.json")
def coders(shelf: Shelved) -> list[CoderLine]:
    """All coders, baselines too."""
    return lines(shelf)


def lines(shelf: Shelf) -> list[CoderLine]:
    """A line for each coder."""
    records, coders, harvests = shelf.records(), shelf.stamps(), tuple(shelf.store.names("features"))
    return shelf.kept("coder lines", (records, coders, harvests), lambda: _lines(shelf, records, coders, harvests))


def _lines(
    shelf: Shelf, records: list[Record], coders: tuple[tuple[str, int], ...], harvests: tuple[str, ...]
) -> list[CoderLine]:  # fmt: skip
    core = {r.coder: r for r in sorted(records, key=lambda r: r.made.at) if r.eval == "core"}
    looked_at = {name.rpartition(".")[0] for name in harvests}
    return [line(name, shelf.manifest(name), core.get(name), name in looked_at) for name, _ in coders]


def _evals(records: list[Record]) -> list[EvalLine]:
    found: dict[str, tuple[set[str], set[str]]] = {}
    for r in records:
        found.setdefault(r.eval, (set(), set()))[bool(r.about.get("origin"))].add(r.coder)
    summaries = {name: registry.EVALS.summary(name) if name in registry.EVALS else "" for name in found}
    return [
        EvalLine(
            name=name, summary=summaries[name].partition(": ")[2] or summaries[name], coders=len(own), published=len(others)
        )
        for name, (own, others) in found.items()
    ]


def line(name: str, manifest: dict, core: Record | None, harvested: bool) -> CoderLine:
    """A coder's line, from its manifest."""
    about = manifest["about"]
    model = about.get("model") or {}
    return CoderLine(
        name=name, architecture=str(about.get("architecture")), baseline=about.get("kind") == "baseline",
        l0=core and core.value("l0"), loss_recovered=core and core.value("loss_recovered[ablation=mean]"), fvu=core and core.value("fvu"),
        model=model.get("name") if isinstance(model, dict) else str(model), site=about.get("site"),
        d_sae=(about.get("config") or {}).get("d_sae"), harvested=harvested, made=manifest["made"]["at"],
    )  # fmt: skip
