"""lists: what the user says of latents: labels, ratings, lists. All that is written goes to the store's notes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Path, Response
from pydantic import BaseModel, ConfigDict, Field

from assay.errors import BadInput, MissingFile
from assay.features import Features
from assay.notes import LONGEST, STARS, Entry, Label, List, ListFile, Notes, Rating
from assay.web import latents_table
from assay.web.latents import Id
from assay.web.shelf import Shelf, Shelved

router = APIRouter(tags=["notes"])
ENTRIES = 10_000
"""Of a list that is taken from a file, at most."""
NEWEST = 500
"""Labels, and ratings, that are shown of all."""
Number = Annotated[int, Path(ge=1, lt=2**63)]
Text = Annotated[str, Field(max_length=LONGEST)]


class Body(BaseModel):
    """What may be sent: nothing else."""

    model_config = ConfigDict(extra="forbid", strict=True)


class NewLabel(Body):
    """A label for a latent."""

    text: Text
    author: Text = ""


class NewRating(Body):
    """A rating of a latent; neither stars nor flag takes it away."""

    stars: Annotated[int, Field(ge=1, le=STARS)] | None = None
    flag: Text = ""
    author: Text = ""


class NewList(Body):
    """A list's name and description."""

    name: Text
    about: Text = ""


class NewEntry(Body):
    """A latent for a list."""

    coder: Text
    latent: Annotated[int, Field(ge=0, lt=2**31)]
    note: Text = ""


class ChangedEntry(Body):
    """A new note or place; what is null stays."""

    note: Text | None = None
    place: Annotated[int, Field(ge=0, lt=2**31)] | None = None


class ListFileEntry(Body):
    """An entry of a list's file."""

    coder: Text
    coder_hash: Text = ""
    latent: Annotated[int, Field(ge=0, lt=2**31)]
    note: Text = ""


class ListFileBody(Body):
    """A list's file, as it was downloaded."""

    kind: str
    schema_: Annotated[int, Field(alias="schema")] = 1
    name: Text
    about: Text = ""
    entries: Annotated[list[ListFileEntry], Field(max_length=ENTRIES)] = []


class NotesPage(BaseModel):
    """What was said."""

    lists: list[List]
    n_labels: int
    n_ratings: int
    labels: list[Label]
    """The newest first, at most 500."""
    ratings: list[Rating]
    """Likewise."""


class ListedLatent(BaseModel):
    """An entry of a list, and what is known of its latent."""

    entry: Entry
    there: bool
    """Whether the store has this latent, harvested."""
    earlier: bool
    """The entry is about an earlier coder of this name."""
    token: str | None
    """The token that most of its top examples peak on."""
    density: float | None
    max: float | None
    labels: list[str]


class ListPage(BaseModel):
    """A list."""

    list: List
    entries: list[ListedLatent]


@router.get("/lists.json")
def notes(shelf: Shelved) -> NotesPage:
    """All lists, and the newest labels and ratings."""
    found = Notes(shelf.store)
    n_labels, n_ratings = found.counts()
    labels, ratings = found.labels(last=NEWEST)[::-1], found.ratings(last=NEWEST)[::-1]
    return NotesPage(lists=found.lists(), n_labels=n_labels, n_ratings=n_ratings, labels=labels, ratings=ratings)


@router.post("/lists.json")
def new_list(shelf: Shelved, body: NewList) -> List:
    """Make an empty list."""
    return Notes(shelf.store).new_list(body.name, body.about)


@router.post("/lists/file.json")
def take_list(shelf: Shelved, body: ListFileBody) -> List:
    """Make a list from a file."""
    return Notes(shelf.store).take(body.model_dump(by_alias=True))


@router.get("/lists/{number}.json")
def list_page(shelf: Shelved, number: Number) -> ListPage:
    """A list."""
    found = Notes(shelf.store)
    one, entries = found.contents(number)
    harvests = {coder: _harvest(shelf, coder) for coder in {e.coder for e in entries}}
    names: dict[tuple[str, int], list[str]] = {}
    for coder in harvests:
        for label in found.labels(coder, [e.latent for e in entries if e.coder == coder]):
            names.setdefault((coder, label.latent), []).append(label.text)
    listed = (_listed(shelf, e, harvests[e.coder], names.get((e.coder, e.latent), [])) for e in entries)
    return ListPage(list=one, entries=[*listed])


@router.put("/lists/{number}.json")
def change_list(shelf: Shelved, number: Number, body: NewList) -> List:
    """Give a list another name and description."""
    return Notes(shelf.store).change_list(number, name=body.name, about=body.about)


@router.delete("/lists/{number}.json", status_code=204)
def remove_list(shelf: Shelved, number: Number) -> None:
    """Delete a list."""
    Notes(shelf.store).remove_list(number)


@router.get("/lists/{number}/file.json")
def list_file(shelf: Shelved, number: Number, response: Response) -> ListFile:
    """A list as a file."""
    response.headers["Content-Disposition"] = f'attachment; filename="list-{number}.json"'
    return Notes(shelf.store).file(number)


@router.post("/lists/{number}/entries.json")
def add_entry(shelf: Shelved, number: Number, body: NewEntry) -> Entry:
    """Put a latent at the end of a list."""
    hash_ = _checked(shelf, body.coder, body.latent)
    return Notes(shelf.store).add(number, body.coder, body.latent, body.note, coder_hash=hash_)


@router.put("/lists/entries/{entry}.json")
def change_entry(shelf: Shelved, entry: Number, body: ChangedEntry) -> Entry:
    """Change an entry's note, or move it within its list."""
    return Notes(shelf.store).change(entry, note=body.note, place=body.place)


@router.delete("/lists/entries/{entry}.json", status_code=204)
def remove_entry(shelf: Shelved, entry: Number) -> None:
    """Take an entry out of its list."""
    Notes(shelf.store).remove(entry)


@router.post("/coders/{coder}/latents/{latent}/labels.json")
def add_label(shelf: Shelved, coder: str, latent: Id, body: NewLabel) -> Label:
    """Give a latent a label."""
    hash_ = _checked(shelf, coder, latent)
    return Notes(shelf.store).label(coder, latent, body.text, author=body.author, coder_hash=hash_)


@router.delete("/labels/{label}.json", status_code=204)
def remove_label(shelf: Shelved, label: Number) -> None:
    """Take a label away."""
    Notes(shelf.store).unlabel(label)


@router.put("/coders/{coder}/latents/{latent}/rating.json")
def rate(shelf: Shelved, coder: str, latent: Id, body: NewRating) -> Rating | None:
    """Rate a latent, instead of what this author said before; null where that was taken away."""
    hash_ = _checked(shelf, coder, latent)
    return Notes(shelf.store).rate(coder, latent, body.stars, body.flag, author=body.author, coder_hash=hash_)


def _checked(shelf: Shelf, coder: str, latent: int) -> str:
    """The hash of a coder that has this latent; empty where it was not harvested."""
    config = shelf.manifest(coder)["about"].get("config") or {}
    if latent >= config.get("d_sae", 2**31):
        raise BadInput(f"{coder} has latents 0 to {config['d_sae'] - 1}, got {latent}.")
    try:
        return shelf.features(coder).coder_hash
    except MissingFile:
        return ""


def _harvest(shelf: Shelf, coder: str) -> Features | None:
    """What was harvested of a coder, if it is in the store and was."""
    try:
        return shelf.features(coder) if shelf.store.has("coders", coder) else None
    except (MissingFile, BadInput):  # BadInput: the name cannot be one here
        return None


def _listed(shelf: Shelf, entry: Entry, features: Features | None, labels: list[str]) -> ListedLatent:
    if features is None or entry.latent >= features.d_sae:
        return ListedLatent(entry=entry, there=False, earlier=False, token=None, density=None, max=None, labels=labels)
    top_token, density, highest = (float(features.columns[name][entry.latent]) for name in ("top_token", "density", "max"))
    return ListedLatent(
        entry=entry, there=True, earlier=bool(entry.coder_hash) and entry.coder_hash != features.coder_hash,
        token=shelf.pieces(entry.coder).one(int(top_token)) if math.isfinite(top_token) else None,
        density=density, max=highest if math.isfinite(highest) else None, labels=labels,
    )  # fmt: skip


def _among_labels(shelf: Shelf, coder: str, text: str) -> np.ndarray:
    """Latents whose label holds a text: a filter of the table."""
    return _ids(shelf, coder, [x.latent for x in Notes(shelf.store).labels(coder) if text.casefold() in x.text.casefold()])


def _among_list(shelf: Shelf, coder: str, name: str) -> np.ndarray:
    """A coder's latents in the list of that name: a filter of the table."""
    found = Notes(shelf.store)
    numbers = [one.id for one in found.lists() if one.name == name]
    entries = found.contents(numbers[0])[1] if numbers else []
    return _ids(shelf, coder, [e.latent for e in entries if e.coder == coder])


def _ids(shelf: Shelf, coder: str, latents: list[int]) -> np.ndarray:
    """Those that the coder of today has."""
    ids = np.unique(np.array(latents, np.int64))
    return ids[ids < shelf.features(coder).d_sae]


def _newest_labels(shelf: Shelf, coder: str, ids: Sequence[int]) -> dict[int, str]:
    """The last label that each latent was given."""
    return {label.latent: label.text for label in Notes(shelf.store).labels(coder, ids)}


latents_table.AMONG |= {"label": _among_labels, "list": _among_list}
latents_table.LABELS.append(_newest_labels)
