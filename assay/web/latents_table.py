"""latents_table: all latents of a coder, sorted and filtered a page at a time, and as points of a scatter.

A filter of ranges is written `density:1e-4:0.01,max:10:` (column, lowest, highest; either end may be empty). Columns of a harvest
are numpy arrays in memory, so any order and filter of 65,536 latents takes a few milliseconds; nothing is computed in advance.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel

from assay.errors import BadInput, Unavailable, UnknownName
from assay.features import Features, Where
from assay.models.pieces import Pieces
from assay.web.shelf import Shelf, Shelved

router = APIRouter(tags=["latents"])
LIMIT = 1000
"""Rows of a page at most."""
Among = Callable[[Shelf, str, str], np.ndarray]
"""(shelf, coder, what was asked for) → ids of the latents that are meant."""
AMONG: dict[str, Among] = {}
"""Filters by what the user wrote: `label` and `list`, put here by the notes."""
LABELS: list[Callable[[Shelf, str, Sequence[int]], dict[int, str]]] = []
"""Where labels come from: (shelf, coder, ids) → label of each that has one."""


class LatentLine(BaseModel):
    """A latent among others."""

    latent: int
    token: str | None
    """The token that most of its top examples peak on."""
    label: str | None
    """What the user called it."""
    values: dict[str, float | None]
    """Its scalar columns."""


class LatentsPage(BaseModel):
    """Some latents, in the order that was asked for."""

    total: int
    """How many fit the filters."""
    d_sae: int
    offset: int
    latents: list[LatentLine]


@dataclass(frozen=True)
class Filters:
    """Which latents are meant: those that fit all of these."""

    where: tuple[Where, ...] = ()
    token: str = ""
    promotes: str = ""
    label: str = ""
    list: str = ""


def filters(
    where: Annotated[str, Query(max_length=2000, description="Ranges: `density:1e-4:0.01,max:10:`")] = "",
    token: Annotated[
        str, Query(max_length=200, description='Text in the peak token; `" the"` in quotes is the whole token')
    ] = "",
    promotes: Annotated[str, Query(max_length=200, description="The same, of the tokens whose logits it raises most")] = "",
    label: Annotated[str, Query(max_length=200, description="Text in the user's label")] = "",
    list: Annotated[str, Query(max_length=200, description="A list of the user's")] = "",
) -> Filters:
    """The filters of a request."""
    return Filters(ranges(where), token, promotes, label, list)


Filtered = Annotated[Filters, Depends(filters)]


@router.get("/coders/{coder}/latents.json")
def latents(
    shelf: Shelved,
    coder: str,
    chosen: Filtered,
    sort: str = "density",
    descending: bool = True,
    offset: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1, le=LIMIT)] = 100,
) -> LatentsPage:
    """A page of all latents that fit the filters."""
    features = shelf.features(coder)
    ids = ordered(shelf, features, chosen, sort, descending)
    page = ids[offset : offset + limit]
    return LatentsPage(total=len(ids), d_sae=features.d_sae, offset=offset, latents=lines(shelf, features, page))


@router.get(
    "/coders/{coder}/scatter.bin", response_class=Response, responses={200: {"content": {"application/octet-stream": {}}}}
)
def scatter(shelf: Shelved, coder: str, x: str = "x", y: str = "y", colour: str = "density") -> Response:
    """Three columns of all latents, one after the other: little-endian float32, NaN where a latent has no value."""
    features = shelf.features(coder)
    columns = [column(features, name).astype("<f4") for name in (x, y, colour)]
    return _bytes(np.concatenate(columns).tobytes())


@router.get(
    "/coders/{coder}/matching.bin", response_class=Response, responses={200: {"content": {"application/octet-stream": {}}}}
)
def matching(shelf: Shelved, coder: str, chosen: Filtered) -> Response:
    """Which latents fit the filters: a bit for each, the first of a byte the highest."""
    features = shelf.features(coder)
    return _bytes(np.packbits(fitting(shelf, features, chosen)).tobytes())


def ranges(text: str) -> tuple[Where, ...]:
    """Conditions from `column:low:high,…`."""
    found = []
    for part in filter(None, text.split(",")):
        try:
            name, low, high = part.split(":")
            ends = [float(end) if end.strip() else None for end in (low, high)]
        except ValueError:
            raise BadInput(f"{part!r} is no range. Write column:lowest:highest, e.g. density:0.001:0.1 or max:10:") from None
        if any(end is not None and math.isnan(end) for end in ends):
            raise BadInput(f"{part!r} has an end that is not a number.")
        found.append(Where(name.strip(), *ends))
    return tuple(found)


def ordered(shelf: Shelf, features: Features, chosen: Filters, sort: str, descending: bool) -> np.ndarray:
    """Ids of all latents that fit, in order."""
    ids, _ = features.select(sort, descending, chosen.where, 0, features.d_sae)
    further = _further(shelf, features, chosen)
    return ids if further is None else ids[further[ids]]


def fitting(shelf: Shelf, features: Features, chosen: Filters) -> np.ndarray:
    """[d_sae]: does a latent fit?"""
    keep = np.zeros(features.d_sae, np.bool_)
    keep[ordered(shelf, features, chosen, "latent", False)] = True
    return keep


def lines(shelf: Shelf, features: Features, ids: np.ndarray) -> list[LatentLine]:
    """Rows of the table."""
    values = {name: numbers(values[ids]) for name, values in features.columns.items() if name != "latent"}
    tokens = values["top_token"]
    pieces = shelf.pieces(features.coder)
    labels: dict[int, str] = {}
    for given in LABELS:
        labels |= given(shelf, features.coder, ids.tolist())
    return [
        LatentLine(
            latent=latent, token=None if (token := tokens[row]) is None else pieces.one(int(token)), label=labels.get(latent),
            values={name: column[row] for name, column in values.items()},
        )
        for row, latent in enumerate(ids.tolist())
    ]  # fmt: skip


def numbers(values: np.ndarray) -> list[float | None]:
    """Values as JSON has them: six digits, null for what is missing."""
    if values.dtype.kind in "iub":
        return [int(v) for v in values]
    return [float(f"{v:.6g}") if math.isfinite(v) else None for v in values.tolist()]


def column(features: Features, name: str) -> np.ndarray:
    """A scalar column; `UnknownName` says which there are."""
    if name not in features.columns:
        raise UnknownName.among("column", name, features.columns)
    return features.columns[name]


def _further(shelf: Shelf, features: Features, chosen: Filters) -> np.ndarray | None:
    """[d_sae]: does a latent fit the filters that are no ranges? None where there are none."""
    keep: np.ndarray | None = None
    for text, tokens in ((chosen.token, _peaks), (chosen.promotes, _promoted)):
        if text:
            found = _saying(tokens(features), shelf.pieces(features.coder), text)
            keep = found if keep is None else keep & found
    for name, text in (("label", chosen.label), ("list", chosen.list)):
        if text:
            if name not in AMONG:
                raise Unavailable(f"There are no notes to filter by {name} with.")
            found = np.zeros(features.d_sae, np.bool_)
            found[AMONG[name](shelf, features.coder, text)] = True
            keep = found if keep is None else keep & found
    return keep


def _saying(tokens: np.ndarray, pieces: Pieces, text: str) -> np.ndarray:
    """[d_sae]: is the text in one of a latent's tokens [d_sae, n] (-1: none)?"""
    there = np.zeros(int(tokens.max(initial=-1)) + 2, np.bool_)
    there[tokens] = True  # the last is for those without
    ids = np.flatnonzero(there[:-1])
    hit = np.zeros_like(there)
    every = pieces.all
    hit[ids] = [_says(every[i] if i < len(every) else pieces.one(i), text) for i in ids.tolist()]
    return np.any(hit[tokens], axis=1)


def _says(found: str, text: str) -> bool:
    if len(text) > 2 and text[0] == text[-1] == '"':
        return found == text[1:-1]
    return text.casefold() in found.casefold()


def _peaks(features: Features) -> np.ndarray:
    tokens = features.columns["top_token"]
    return np.where(np.isfinite(tokens), tokens, -1).astype(np.int32)[:, None]


_PROMOTED: weakref.WeakKeyDictionary[Features, np.ndarray] = weakref.WeakKeyDictionary()
_READING = threading.Lock()


def _promoted(features: Features) -> np.ndarray:
    """Tokens whose logits each latent raises most [d_sae, 10], read once."""
    from pyarrow import parquet

    with _READING:
        if features not in _PROMOTED:
            lists = parquet.read_table(features.path / "features.parquet", columns=["top_logits"])[
                "top_logits"
            ].combine_chunks()
            lengths: Any = lists.value_lengths().fill_null(0).to_numpy()
            flat = lists.flatten().to_numpy()
            found = np.full((features.d_sae, max(1, int(lengths.max(initial=0)))), -1, np.int32)
            found[np.arange(found.shape[1]) < lengths[:, None]] = flat
            _PROMOTED[features] = found
        return _PROMOTED[features]


def _bytes(content: bytes) -> Response:
    return Response(content, media_type="application/octet-stream")
