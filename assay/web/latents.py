"""latents: one latent: numbers, examples, logits, kin, what was said of it; its text at any width, and where it is silent."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Path
from pydantic import BaseModel

from assay.features import Example, Features, Latent, explanations, search
from assay.models.pieces import Pieces
from assay.notes import Label, List, Notes, Rating
from assay.web.shelf import Shelf, Shelved

router = APIRouter(tags=["latent"])
Kind = Literal["top", "interval", "random", "near_miss"]
Id = Annotated[int, Path(ge=0, lt=2**31)]


class LogitToken(BaseModel):
    """A token whose logit the latent moves."""

    id: int
    text: str
    value: float


class Kin(BaseModel):
    """Another latent that has something to do with this one."""

    latent: int
    value: float
    """Cosine, correlation, or share of tokens."""
    token: str | None
    """The token that most of its top examples peak on."""
    purity: float | None
    """The share that does."""
    density: float
    label: str | None
    """What the user called it."""


class Strip(BaseModel):
    """A stretch of text and the latent's activations on it."""

    start: int
    """Position of the first token in the text."""
    stop: int
    ids: list[int]
    pieces: list[str]
    """Text of each token, "" where it continues the character of the one before."""
    values: list[float | None]
    """Activations; null where they are not known."""


class LatentExample(Strip):
    """A place in the text that is an example of something."""

    group: str
    interval: int | None
    position: int
    """Of the peak, or of the token that was drawn."""
    weight: float | None
    """Active tokens that it stands for."""


class ExampleGroup(BaseModel):
    """Examples of one kind."""

    group: Kind
    interval: int | None
    low: float | None
    """Ends of the interval, as shares of the latent's maximum."""
    high: float | None
    share: float | None
    """Of its active tokens, how many lie in the interval."""
    examples: list[LatentExample]


class Numbers(BaseModel):
    """What was counted and measured."""

    count: int
    density: float
    mean: float | None
    max: float | None
    dead: bool
    dense: bool
    decoder_norm: float | None
    encoder_norm: float | None
    cosine: float | None
    top_token: str | None
    purity: float | None
    x: float | None
    y: float | None


class Bars(BaseModel):
    """A histogram; one edge more than counts."""

    edges: list[float]
    counts: list[int]


class Said(BaseModel):
    """An explanation that a method gave, with scores."""

    text: str
    method: str
    model: str
    at: str
    run: str
    scores: dict[str, float]
    earlier: bool
    """It was made of an earlier coder of this name."""


class LatentPage(BaseModel):
    """One latent."""

    coder: str
    coder_hash: str
    latent: int
    d_sae: int
    model: str | None
    site: str | None
    corpus: str
    text: str
    """Key of the token rows."""
    n_tokens: int
    words: bool
    """Whether the model's tokenizer is on this machine; without it tokens are shown as ids."""
    live: bool
    """Whether the live model can say what the latent does anywhere in the text."""
    numbers: Numbers
    histogram: Bars
    """Active tokens by activation; bins of equal ratios."""
    top_logits: list[LogitToken]
    bottom_logits: list[LogitToken]
    logit_histogram: Bars | None
    nearest: list[Kin]
    correlated: list[Kin]
    coactive: list[Kin]
    groups: list[ExampleGroup]
    explanations: list[Said]
    labels: list[Label]
    ratings: list[Rating]
    lists: list[List]


@router.get("/coders/{coder}/latents/random.json")
def random_latent(shelf: Shelved, coder: str) -> int:
    """Any latent that is not dead."""
    features = shelf.features(coder)
    alive = np.flatnonzero(~features.columns["dead"].astype(np.bool_))
    return int(random.choice(alive)) if len(alive) else 0


@router.get("/coders/{coder}/latents/{latent}.json")
def latent(shelf: Shelved, coder: str, latent: Id) -> LatentPage:
    """One latent: all that is known without running anything."""
    features, pieces, notes = shelf.features(coder), shelf.pieces(coder), Notes(shelf.store)
    row, examples = features.latent(latent), features.examples(latent)
    labels = notes.labels(coder, [latent, *row.neighbours, *row.correlated, *row.coactive])
    names = {label.latent: label.text for label in labels}
    return LatentPage(
        coder=coder, coder_hash=features.coder_hash, latent=latent, d_sae=features.d_sae, n_tokens=features.n_tokens,
        model=_name(features.about.get("model")), site=features.about.get("site"), corpus=features.text.packing.corpus,
        text=features.text.fingerprint, words=len(pieces) > 0, live=unlike(shelf, features) is None,
        numbers=Numbers(
            top_token=None if row.top_token is None else pieces.one(row.top_token),
            **{name: getattr(row, name) for name in Numbers.model_fields if name != "top_token"},
        ),
        histogram=_cropped(features.edges, row.histogram),
        top_logits=_tokens(pieces, row.top_logits, row.top_logit_values),
        bottom_logits=_tokens(pieces, row.bottom_logits, row.bottom_logit_values),
        logit_histogram=_logits(row),
        nearest=_kin(features, pieces, names, row.neighbours, row.neighbour_cosines),
        correlated=_kin(features, pieces, names, row.correlated, row.correlations),
        coactive=_kin(features, pieces, names, row.coactive, row.coactive_shares),
        groups=list(_groups(features, pieces, row, examples)),
        explanations=[
            Said(**{name: getattr(e, name) for name in Said.model_fields if name != "earlier"},
                 earlier=bool(e.coder_hash) and e.coder_hash != features.coder_hash)
            for e in explanations.read(shelf.store, coder, latent)
        ],
        labels=[label for label in labels if label.latent == latent], ratings=notes.ratings(coder, latent),
        lists=notes.lists_with(coder, latent),
    )  # fmt: skip


def unlike(shelf: Shelf, features: Features) -> str | None:
    """Why no live model says what latents do; None where one does."""
    if shelf.live is None:
        return ""
    from assay.features import live

    return live.why_not(features, shelf.live)


def strip(features: Features, pieces: Pieces, start: int, stop: int, values: np.ndarray) -> dict[str, Any]:
    """What a Strip says."""
    ids = features.text.tokens.reshape(-1)[start:stop]
    return {"start": start, "stop": stop, "ids": ids.tolist(), "pieces": pieces.row(ids), "values": numbers(values)}


def _groups(features: Features, pieces: Pieces, row: Latent, examples: Sequence[Example]) -> Iterator[ExampleGroup]:
    """Examples by kind, intervals from the strongest."""
    edges = row.interval_edges / row.max if row.max and len(row.interval_edges) else np.zeros(0)
    total = row.interval_counts.sum()
    intervals: list[tuple[Kind, int | None]] = [("interval", j) for j in reversed(range(len(row.interval_counts)))]
    kinds: list[tuple[Kind, int | None]] = [("top", None), *intervals, ("random", None), ("near_miss", None)]
    for group, j in kinds:
        mine = [e for e in examples if e.group == group and e.interval == j]
        if not mine and (j is None or not row.interval_counts[j]):
            continue
        yield ExampleGroup(
            group=group, interval=j, low=None if j is None else number(edges[j]), high=None if j is None else number(edges[j + 1]),
            share=None if j is None or not total else number(row.interval_counts[j] / total),
            examples=[_example(features, pieces, e) for e in mine],
        )  # fmt: skip


def _example(features: Features, pieces: Pieces, one: Example) -> LatentExample:
    found = strip(features, pieces, one.start, one.stop, search.known([one], one.start, one.stop))
    weight = None if one.weight is None else number(one.weight)
    return LatentExample(**found, group=one.group, interval=one.interval, position=one.position, weight=weight)


def _kin(features: Features, pieces: Pieces, labels: dict[int, str], ids: np.ndarray, values: np.ndarray) -> list[Kin]:
    tokens, purity, density = (features.columns[name] for name in ("top_token", "purity", "density"))
    return [
        Kin(
            latent=i, value=number(value), token=pieces.one(int(tokens[i])) if np.isfinite(tokens[i]) else None,
            purity=number(float(purity[i])), density=float(density[i]), label=labels.get(i),
        )
        for i, value in zip(ids.tolist(), values.tolist())
    ]  # fmt: skip


def _tokens(pieces: Pieces, ids: np.ndarray, values: np.ndarray) -> list[LogitToken]:
    return [LogitToken(id=i, text=pieces.one(i), value=number(v)) for i, v in zip(ids.tolist(), values.tolist())]


def _logits(row: Latent) -> Bars | None:
    if len(row.logit_range) != 2:
        return None
    low, high = row.logit_range.tolist()
    return Bars(edges=numbers(np.linspace(low, high, len(row.logit_histogram) + 1)), counts=row.logit_histogram.tolist())


def _cropped(edges: np.ndarray, counts: np.ndarray) -> Bars:
    """A histogram without the empty bins at its ends."""
    used = np.flatnonzero(counts)
    low, high = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 0)
    return Bars(edges=numbers(edges[low : high + 1]), counts=counts[low:high].tolist())


def numbers(values: np.ndarray) -> list[Any]:
    return [number(v) for v in values.tolist()]


def number(value: float) -> Any:
    """As JSON has it: five digits, null for what is missing."""
    return float(f"{value:.5g}") if math.isfinite(value) else None


def _name(model: Any) -> str | None:
    return model.get("name") if isinstance(model, dict) else model
