"""coders: a coder's page: what it is, how it was trained, what it scores beside the baselines, and what was harvested of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from fastapi import APIRouter
from pydantic import BaseModel

from assay import codec, compare, registry, results
from assay.errors import MissingFile
from assay.features import Features
from assay.figures.base import Axis
from assay.figures.scores import HEADLINES
from assay.figures.training import Trained, curves
from assay.results import Record, Score
from assay.web.latents_table import AMONG
from assay.web.overview import CoderLine, lines
from assay.web.shelf import Shelf, Shelved

router = APIRouter(tags=["coders"])
NAMED = 200
"""Dead and dense latents that are named at most."""
BINS = 4
"""Bars of the density histogram for each power of ten."""


class Setting(BaseModel):
    """A setting and what it means."""

    name: str
    value: Any
    doc: str | None
    changed: bool
    """Whether it is not the default."""


class Rival(BaseModel):
    """What a baseline scores under the same setting."""

    coder: str
    architecture: str
    l0: float | None
    value: float
    low: float | None
    high: float | None


class ScoreLine(BaseModel):
    """A number of an eval, with its 95 % confidence interval."""

    spec: str
    """Its full name, as the results explorer has it."""
    headline: bool
    """Whether it is among the first to look at."""
    value: float | None
    low: float | None
    high: float | None
    n: int | None
    """Independent units that the interval rests on."""
    reason: str | None
    """Why there is no value."""
    doc: str | None
    better: Literal["higher", "lower", "neither"] | None
    baselines: list[Rival]
    """Of each kind of baseline the one whose L0 is nearest."""


class Scored(BaseModel):
    """What an eval says of this coder under one setting."""

    eval: str
    version: int
    setting: str
    config: dict[str, Any]
    made: str
    scores: list[ScoreLine]
    finer: int
    """Scores by dataset, which are not listed here."""


class Column(BaseModel):
    """A number that every latent has."""

    name: str
    doc: str
    log: bool
    """Whether it is best seen on a logarithmic axis."""
    whole: bool
    """Whether it only takes whole numbers."""
    low: float | None
    high: float | None


class Harvested(BaseModel):
    """What was harvested of the coder's latents."""

    entry: str
    d_sae: int
    n_tokens: int
    corpus: str | None
    """The text that was read."""
    made: str
    columns: list[Column]
    density_edges: list[float]
    """Ends of the bars, as log10 of the share of tokens on which a latent is active."""
    density_counts: list[int]
    dead: int
    """Latents that were never active."""
    dense: int
    """Latents that were active on more than a tenth of the tokens."""
    dead_latents: list[int]
    """The first of them."""
    dense_latents: list[int]
    """The first of them, most active first."""


class CoderPage(BaseModel):
    """All that is known of a coder, its latents aside."""

    about: CoderLine
    summary: str | None
    """What the architecture is."""
    settings: list[Setting]
    """Of the architecture."""
    training: list[Setting]
    text: dict[str, Any] | None
    """What the text was that it was trained on, and how it was cut."""
    provenance: dict[str, Any]
    """The rest of its manifest: inputs by hash, files with sha256, who made it when, with which versions."""
    trained: bool
    """Whether there are training curves."""
    evals: list[Scored]
    latents: Harvested | None
    advice: str | None
    """Where nothing was harvested: what to run."""
    filters: list[str]
    """Filters of the table beside ranges and tokens: what the user's notes have."""


class Training(BaseModel):
    """Rows of a training; of long ones some 300, with the highest and lowest of each column."""

    columns: list[Axis]
    tokens: list[float]
    values: dict[str, list[float | None]]
    """By column."""


DOCS: dict[str, tuple[str, bool]] = {
    "latent": ("number of the latent", False), "count": ("tokens on which it is active", True),
    "density": ("share of the tokens on which it is active", True), "mean": ("mean activation where it is active", True),
    "max": ("largest activation", True), "dead": ("1: never active", False), "dense": ("1: active on more than a tenth of the tokens", False),
    "decoder_norm": ("length of its decoder row", False), "encoder_norm": ("length of its encoder column", False),
    "cosine": ("cosine of its encoder column and its decoder row", False), "nearest": ("latent with the most similar decoder row", False),
    "nearest_cosine": ("cosine of its decoder row and the nearest one's", False), "top_token": ("id of the token that most top examples peak on", False),
    "purity": ("share of the top examples that peak on that token", False), "x": ("first principal component of the decoder rows", False),
    "y": ("second principal component of the decoder rows", False), "umap_x": ("first UMAP coordinate", False), "umap_y": ("second UMAP coordinate", False),
}  # fmt: skip
"""What each column of a harvest is, and whether its axis is logarithmic."""
UNLISTED = ("architecture", "config", "train", "text", "kind")
"""Parts of a manifest's `about` that have a place of their own on the page."""


@router.get("/coders/{coder}.json")
def coder(shelf: Shelved, coder: str) -> CoderPage:
    """A coder: configuration, provenance, evals beside baselines, and a summary of its latents."""
    manifest = shelf.manifest(coder)
    about = manifest["about"]
    architecture = str(about.get("architecture"))
    known = architecture in registry.CODERS
    latents, advice = harvested(shelf, coder)
    rest = {k: v for k, v in about.items() if k not in UNLISTED}
    return CoderPage(
        about=next(line for line in lines(shelf) if line.name == coder),
        summary=registry.CODERS.summary(architecture) if known else None,
        settings=settings(about.get("config") or {}, registry.CODERS.settings(architecture) if known else []),
        training=settings(about.get("train") or {}, _train_settings()), text=about.get("text"),
        provenance={"inputs": manifest["inputs"], "about": rest, "files": manifest["files"], "made": manifest["made"]},
        trained=_rows_file(shelf, coder).exists(), evals=scored(shelf, coder), latents=latents, advice=advice, filters=sorted(AMONG),
    )  # fmt: skip


@router.get("/coders/{coder}/training.json")
def training(shelf: Shelved, coder: str) -> Training:
    """The curves of its training: loss and its terms, FVU, L0, dead latents, learning rate and whatever else was recorded."""
    manifest = shelf.manifest(coder)
    if not _rows_file(shelf, coder).exists():
        raise MissingFile(f"{coder} has no training curves: it was imported or made without training.")
    found = Trained(shelf.store, coder, "", manifest)
    names = dict.fromkeys(
        k for row in found.rows() for k, v in row.items() if k not in ("step", "tokens") and isinstance(v, float)
    )
    figure = curves([found], list(names))
    values = {k: [_number(p.values[k].value) if k in p.values else None for p in figure.points] for k in names}
    return Training(columns=[figure.axes[k] for k in names], tokens=[p.order for p in figure.points], values=values)


# ---- settings ------------------------------------------------------------------------------------------------------------------


def settings(values: Mapping[str, Any], known: Sequence[registry.Setting]) -> list[Setting]:
    """Each setting with its explanation."""
    by_name = {s.name: s for s in known}
    return [
        Setting(
            name=name, value=value, doc=by_name[name].doc if name in by_name else None,
            changed=name not in by_name or codec.to_data(by_name[name].default) != value,
        )
        for name, value in values.items()
    ]  # fmt: skip


def _train_settings() -> list[registry.Setting]:
    return registry.settings(Path(registry.__file__).parent / "training" / "config.py", "TrainConfig")


def _rows_file(shelf: Shelf, coder: str) -> Path:
    return shelf.store.path("coders", coder) / "train.jsonl"


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(f"{value:.6g}")


# ---- evals ---------------------------------------------------------------------------------------------------------------------


def scored(shelf: Shelf, coder: str) -> list[Scored]:
    """What each eval says of a coder, newest versions only; `core` comes first."""
    records = results.latest(shelf.records())
    l0 = results.sparsities(records)
    mine = sorted((r for r in records if r.coder == coder), key=lambda r: (r.eval != "core", r.eval, r.made.at))
    return [
        _scored(r, [o for o in records if o.setting == r.setting and o.about.get("baseline") and o.coder != coder], l0)
        for r in mine
    ]


def _scored(record: Record, others: Sequence[Record], l0: Mapping[str, float]) -> Scored:
    metrics = compare.declared(record.eval)
    whole = [s for s in record.scores if "dataset" not in s.where and "class" not in s.where]
    rivals, first = _nearest(record, others, l0), _headlines(record.eval, whole)

    def line(s: Score) -> ScoreLine:
        metric, there = metrics.get(s.metric), [(r, r.score(s.spec)) for r in rivals]
        beside = [_rival(r, score, l0) for r, score in there if score is not None and score.value is not None]
        return ScoreLine(
            spec=s.spec, headline=s.spec in first, value=_number(s.value), low=_number(s.low), high=_number(s.high), n=s.n, reason=s.reason,
            doc=metric and metric.doc, better=metric and metric.better, baselines=beside,
        )  # fmt: skip

    return Scored(
        eval=record.eval, version=record.eval_version, setting=record.setting, config=record.config, made=record.made.at,
        scores=[line(s) for s in whole], finer=len(record.scores) - len(whole),
    )  # fmt: skip


def _headlines(eval: str, scores: Sequence[Score]) -> set[str]:
    """Scores of an eval that are looked at first."""
    names = [s.spec for s in scores]
    found = {name for name in names if eval == "core" and name in results.CORE}
    for panel in HEADLINES.get(eval, ()):
        found |= set([name for like in panel for name in names if name.startswith(like)][:1])
    return found or {s.spec for s in scores[:8]}


def _rival(record: Record, score: Score, l0: Mapping[str, float]) -> Rival:
    return Rival(
        coder=record.coder, architecture=str(record.about.get("architecture")), l0=_number(l0.get(record.coder_hash)),
        value=float(f"{score.value:.6g}"), low=_number(score.low), high=_number(score.high),
    )  # fmt: skip


def _nearest(record: Record, others: Sequence[Record], l0: Mapping[str, float]) -> list[Record]:
    """Of each kind of baseline the record whose L0 is nearest; of equally near ones that which was made of this coder."""
    own = l0.get(record.coder_hash)

    def far(other: Record) -> tuple[float, bool]:
        there = l0.get(other.coder_hash)
        return (math.inf if not own or not there else abs(math.log(there / own)), not other.coder.endswith(f"-{record.coder}"))

    kinds: dict[str, list[Record]] = {}
    for other in others:
        kinds.setdefault(str(other.about.get("architecture")), []).append(other)
    return [min(found, key=far) for _, found in sorted(kinds.items())]


# ---- latents -------------------------------------------------------------------------------------------------------------------


def harvested(shelf: Shelf, coder: str) -> tuple[Harvested | None, str | None]:
    """(what was harvested, None), or (None, what to run)."""
    try:
        features = shelf.features(coder)
    except MissingFile as missing:
        return None, str(missing)
    found = features.columns
    dead, dense = np.asarray(found["dead"], np.bool_), np.asarray(found["dense"], np.bool_)
    edges, counts = densities(found["density"], features.n_tokens)
    return Harvested(
        entry=features.path.name, d_sae=features.d_sae, n_tokens=features.n_tokens, corpus=_corpus(features), made=features.manifest["made"]["at"],
        columns=[_column(name, values) for name, values in found.items()], density_edges=edges, density_counts=counts,
        dead=int(dead.sum()), dense=int(dense.sum()), dead_latents=np.flatnonzero(dead)[:NAMED].tolist(),
        dense_latents=[i for i in features.select("density")[0][:NAMED].tolist() if dense[i]],
    ), None  # fmt: skip


def densities(density: np.ndarray, n_tokens: int) -> tuple[list[float], list[int]]:
    """(edges, counts) of log10 of the densities that are not 0, from one token in all to every token."""
    lowest = math.floor(math.log10(1 / max(2, n_tokens)))
    edges = np.linspace(lowest, 0, -lowest * BINS + 1)
    alive = density[density > 0]
    counts, _ = np.histogram(np.log10(alive), edges)
    return edges.tolist(), counts.tolist()


def _column(name: str, values: np.ndarray) -> Column:
    doc, log = DOCS.get(name, (name, False))
    there = values[np.isfinite(values)].astype(np.float64)
    ends = (_number(float(there.min())), _number(float(there.max()))) if len(there) else (None, None)
    whole = values.dtype.kind in "iub" or name in ("nearest", "top_token")
    return Column(name=name, doc=doc, log=log, whole=whole, low=ends[0], high=ends[1])


def _corpus(features: Features) -> str | None:
    """Name of the text, as far as it is known."""
    text = features.about.get("text")
    if isinstance(text, Mapping) and text.get("corpus"):
        return str(text["corpus"])
    try:
        return features.text.packing.corpus
    except MissingFile:
        return None
