"""passages: text around a latent: documents at any width, and places where something stands and the latent is silent.

With a live model that is the one of the harvest, activations are computed on the spot. Else they are known inside the examples only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query
from pydantic import BaseModel

from assay.errors import BadInput
from assay.features import Example, Features, search
from assay.models.pieces import Pieces
from assay.randomness import numpy_generator
from assay.web.latents import Id, LatentExample, Strip, strip, unlike
from assay.web.shelf import Shelf, Shelved

router = APIRouter(tags=["latent"])
AROUND = (24, 12)
"""Tokens shown before and after a place that was searched for."""
WIDEST = 2048
"""Tokens that are sent at once."""
SHOWN = 24
"""Places of a search that are shown; with a live model also those that are tried."""
PATIENCE = 3.0
"""Seconds that a page waits for the live model while it does something else."""
Position = Annotated[int, Query(ge=0, lt=2**62)]


class DocumentText(Strip):
    """A document, or a stretch of it."""

    whole: bool
    """Whether all of the document is here."""
    special: list[bool]
    """Tokens that do not count: between documents, at the start of rows."""
    live: bool
    """Activations were computed now, on all of it. Otherwise they are known inside the examples only."""
    note: str | None
    """Why the live model was not asked, where there is one."""


class SilentPlaces(BaseModel):
    """Where something stands in the text and the latent says nothing of it."""

    query: str
    matches: int
    """Places in the text."""
    tokens: list[str]
    """Some of the tokens that were looked for."""
    checked: int
    """Places at which the latent's activation is known."""
    silent: int
    """Of those, how many it is silent at."""
    live: bool
    note: str | None
    places: list[LatentExample]
    """Silent ones first known, then those where nobody knows."""


@router.get("/coders/{coder}/latents/{latent}/document.json")
def document(shelf: Shelved, coder: str, latent: Id, position: Position) -> DocumentText:
    """The whole document around a position; of a long one what lies nearest."""
    features = shelf.features(coder)
    start, stop = features.document(position)
    first = max(start, min(position - WIDEST // 2, stop - WIDEST))
    return _text(shelf, features, latent, first, min(stop, first + WIDEST), whole=stop - start <= WIDEST)


@router.get("/coders/{coder}/latents/{latent}/window.json")
def window(shelf: Shelved, coder: str, latent: Id, start: Position, stop: Position) -> DocumentText:
    """A stretch of the text, whatever documents it crosses."""
    features = shelf.features(coder)
    if not start < stop <= features.text.tokens.size or stop - start > WIDEST:
        raise BadInput(
            f"Positions {start} to {stop} were asked for; expected 1 to {WIDEST} of the text's {features.text.tokens.size}."
        )
    whole = features.document(start)[0] >= start and features.document(stop - 1)[1] <= stop
    return _text(shelf, features, latent, start, stop, whole=whole)


@router.get("/coders/{coder}/latents/{latent}/silent.json")
def silent(
    shelf: Shelved,
    coder: str,
    latent: Id,
    query: Annotated[str, Query(min_length=1, max_length=200)],
    regex: bool = False,
    seed: Annotated[int, Query(ge=0, lt=2**31)] = 0,
) -> SilentPlaces:
    """Places where a phrase stands, or a token that a regular expression (RE2) fits, and the latent is silent."""
    features, pieces = shelf.features(coder), shelf.pieces(coder)
    examples, text = features.examples(latent), features.text
    wanted = search.tokens_like(pieces, query) if regex else search.phrases(pieces, query)
    at, sizes = search.find(text, wanted)
    order, rows = numpy_generator("silent", coder, latent, query, seed).permutation(len(at)), at // text.tokens.shape[1]
    with _live(shelf, features) as (model, note):
        if model is None:
            value, seen = search.told(examples, at, sizes), {}
            order = order[np.argsort(np.isnan(value[order]), kind="stable")]
        else:
            order = order[np.sort(np.unique(rows[order], return_index=True)[1])][:SHOWN]
            seen = _watched(shelf, features, model, latent, rows[order])
            value = np.full(len(at), np.nan, np.float32)
            value[order] = [_values(features, examples, seen, int(at[i]), int(at[i] + sizes[i])).max() for i in order]
    is_known = np.isfinite(value[order])
    kept = order[~(value[order] > 0)][:SHOWN].tolist()
    return SilentPlaces(
        query=query, matches=len(at), tokens=["".join(pieces.row(ids)) for ids in wanted[:SHOWN]], checked=int(is_known.sum()),
        silent=int((value[order] == 0).sum()), live=model is not None, note=note,
        places=[_place(features, pieces, examples, seen, int(at[i])) for i in kept],
    )  # fmt: skip


Seen = dict[int, np.ndarray]
"""Activations of rows that were computed now."""


@contextmanager
def _live(shelf: Shelf, features: Features) -> Iterator[tuple[Any, str | None]]:
    """(the live model, to be used within; why it is not to be had). A page does not wait long for it."""
    reason = unlike(shelf, features)
    if reason is None and not shelf.model_lock.acquire(timeout=PATIENCE):
        reason = "The live model is busy with something else. Try again later."
    if reason is not None:
        yield None, reason or None
        return
    try:
        yield shelf.model, None
    finally:
        shelf.model_lock.release()


def _watched(shelf: Shelf, features: Features, model: Any, latent: int, rows: np.ndarray) -> Seen:
    from assay.features import live

    return dict(zip(rows.tolist(), live.watch(features, shelf.coder(features.coder), model, latent, rows), strict=True))


def _values(features: Features, examples: Sequence[Example], seen: Seen, start: int, stop: int) -> np.ndarray:
    """Activations of a stretch: those computed now, else those that the examples show."""
    context = features.text.tokens.shape[1]
    rows = range(int(start) // context, (int(stop) - 1) // context + 1)
    if not all(row in seen for row in rows):
        return search.known(examples, int(start), int(stop))
    return np.concatenate([seen[row] for row in rows])[start - rows[0] * context :][: stop - start]


def _text(shelf: Shelf, features: Features, latent: int, start: int, stop: int, *, whole: bool) -> DocumentText:
    """A stretch of the text, with activations as far as they are to be had."""
    examples, context = features.examples(latent), features.text.tokens.shape[1]
    with _live(shelf, features) as (model, note):
        rows = np.arange(start // context, (stop - 1) // context + 1)
        seen = _watched(shelf, features, model, latent, rows) if model is not None else {}
    values = _values(features, examples, seen, start, stop)
    mask = features.text.mask.reshape(-1)[start:stop]
    return DocumentText(
        **strip(features, shelf.pieces(features.coder), start, stop, values), whole=whole, special=(~mask).tolist(),
        live=model is not None, note=note,
    )  # fmt: skip


def _place(features: Features, pieces: Pieces, examples: Sequence[Example], seen: Seen, position: int) -> LatentExample:
    """A place that was searched for."""
    start, stop = search.around(features.text, position, *AROUND)
    values = _values(features, examples, seen, start, stop)
    found = strip(features, pieces, start, stop, values)
    return LatentExample(**found, group="found", interval=None, position=position, weight=None)
