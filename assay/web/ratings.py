"""ratings: blind rating of latents. Until a sheet is unblinded, no answer here tells a coder, a latent, a density or the seed."""

from __future__ import annotations

import weakref
from dataclasses import asdict
from functools import lru_cache
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from assay import rating
from assay.errors import BadInput
from assay.models.pieces import Pieces, named
from assay.rating import Line, Ratings
from assay.rating.book import NAMES
from assay.rating.outcome import Difference, Mean
from assay.rating.sheet import MOST
from assay.web.shelf import Shelf, Shelved

router = APIRouter(tags=["ratings"])
Sheet = Annotated[str, Path(pattern="^[0-9a-f]{12}$")]
Number = Annotated[int, Path(ge=1, le=MOST)]
_BOOKS: weakref.WeakKeyDictionary[Shelf, Ratings] = weakref.WeakKeyDictionary()


class SheetLine(BaseModel):
    """A sheet, as everybody may see it."""

    id: str
    title: str
    at: str
    """When it was made, ISO 8601."""
    items: int
    raters: dict[str, int]
    """Items that each rater has rated on both scales."""
    complete: bool
    """Whether everybody who began has rated every item: then anybody may unblind it."""
    unblinded: str | None
    """When it was, if it was."""


class RubricScale(BaseModel):
    """What is judged, from 1 to 5."""

    name: str
    question: str
    steps: list[str]
    """What 1, 2, 3, 4 and 5 mean."""


class RatingRoom(BaseModel):
    """All sheets, the newest first."""

    sheets: list[SheetLine]


class SheetPage(BaseModel):
    """One sheet and its rubric."""

    sheet: SheetLine
    scales: list[RubricScale]


class NewSheet(BaseModel):
    """What a sheet is to be made of."""

    model_config = ConfigDict(extra="forbid")
    title: str = Field("", max_length=200)
    coders: list[str] = Field(min_length=1, max_length=20)
    latents: int = Field(25, ge=1, le=MOST)
    """Of each coder."""
    seed: int = Field(0, ge=0, le=2**53)


class MadeSheet(BaseModel):
    """A new sheet. The key is told this once."""

    id: str
    key: str
    """Unblinds or deletes the sheet at any time."""


class Shown(BaseModel):
    """A text that a latent is active in."""

    pieces: list[str]
    values: list[float]
    """Activations as shares of the latent's maximum."""
    special: list[bool]
    peak: int


class ShownGroup(BaseModel):
    """Texts of one kind."""

    title: str
    examples: list[Shown]


class ItemPage(BaseModel):
    """What everybody is shown of an item."""

    number: int
    of: int
    groups: list[ShownGroup]


class Rated(BaseModel):
    """What one rater said: item → scale → value."""

    ratings: dict[int, dict[str, int]]


class Judgement(BaseModel):
    """One judgement; it takes the place of what the rater said before."""

    model_config = ConfigDict(extra="forbid")
    rater: str = Field(min_length=1, max_length=NAMES)
    scale: str
    value: int = Field(ge=1, le=5)


class MakersKey(BaseModel):
    """The key that the sheet's maker was given; None for everybody else."""

    model_config = ConfigDict(extra="forbid")
    key: str | None = Field(None, max_length=100)


class ItemLine(BaseModel):
    """An item, unblinded."""

    item: int
    coder: str
    latent: int
    pair: int
    ratings: dict[str, dict[str, int]]
    """Scale → rater → value."""


class RatingResults(BaseModel):
    """What an unblinded sheet says."""

    sheet: SheetLine
    level: float
    """Of the intervals."""
    seed: int
    raters: list[str]
    means: list[Mean]
    differences: list[Difference]
    agreement: dict[str, float | None]
    """Of each scale, the mean distance between two raters of one item."""
    items: list[ItemLine]


@router.get("/ratings.json")
def rating_sheets(shelf: Shelved) -> RatingRoom:
    """All sheets."""
    return RatingRoom(sheets=[_line(one) for one in _book(shelf).sheets()])


@router.post("/ratings.json")
def make_sheet(shelf: Shelved, new: NewSheet) -> MadeSheet:
    """Draw a sheet from coders that were harvested on one text."""
    if len(set(new.coders)) < len(new.coders):
        raise BadInput(f"Name each coder once; got {', '.join(new.coders)}.")
    config = rating.SheetConfig(title=new.title, latents=new.latents, seed=new.seed)
    id, key = _book(shelf).add(rating.make({name: shelf.features(name) for name in new.coders}, config))
    return MadeSheet(id=id, key=key)


@router.get("/ratings/{sheet}.json")
def rating_sheet(shelf: Shelved, sheet: Sheet) -> SheetPage:
    """One sheet and its rubric."""
    scales = [RubricScale(name=name, question=s.question, steps=list(s.steps)) for name, s in rating.SCALES.items()]
    return SheetPage(sheet=_line(_book(shelf).sheet(sheet)), scales=scales)


@router.get("/ratings/{sheet}/items/{item}.json")
def rating_item(shelf: Shelved, sheet: Sheet, item: Number) -> ItemPage:
    """What is shown of an item."""
    book = _book(shelf)
    line = book.sheet(sheet)
    pieces = _spelled(line.model)
    groups = [
        ShownGroup(
            title="Strongest" if group["interval"] is None else f"{10 * group['interval']} to {10 * (group['interval'] + 1)} % of the maximum",
            examples=[
                Shown(
                    pieces=pieces.row(e["ids"]), values=e["values"], peak=e["peak"],
                    special=[place in e["special"] for place in range(len(e["ids"]))],
                )
                for e in group["examples"]
            ],
        )
        for group in book.shown(sheet, item)
    ]  # fmt: skip
    return ItemPage(number=item, of=line.items, groups=groups)


@router.get("/ratings/{sheet}/mine.json")
def own_ratings(shelf: Shelved, sheet: Sheet, rater: Annotated[str, Query(min_length=1, max_length=NAMES)]) -> Rated:
    """What one rater said so far."""
    return Rated(ratings=_book(shelf).said(sheet, rater.strip()))


@router.put("/ratings/{sheet}/items/{item}.json")
def rate_item(shelf: Shelved, sheet: Sheet, item: Number, new: Judgement) -> Rated:
    """Rate an item on one scale; all that the rater said so far comes back."""
    book = _book(shelf)
    book.rate(sheet, item, new.rater, new.scale, new.value)
    return Rated(ratings=book.said(sheet, new.rater.strip()))


@router.post("/ratings/{sheet}/unblind.json")
def unblind_sheet(shelf: Shelved, sheet: Sheet, by: MakersKey) -> SheetLine:
    """Tell whose the items are: when all is rated anybody may, before that its maker. From then on nobody can rate."""
    book = _book(shelf)
    book.unblind(sheet, by.key)
    return _line(book.sheet(sheet))


@router.delete("/ratings/{sheet}.json", status_code=204)
def remove_sheet(shelf: Shelved, sheet: Sheet, by: MakersKey) -> None:
    """Delete a sheet and all that was said of it; only its maker can."""
    _book(shelf).remove(sheet, by.key or "")


@router.get("/ratings/{sheet}/results.json")
def rating_results(shelf: Shelved, sheet: Sheet) -> RatingResults:
    """What an unblinded sheet says; refused while it is blind."""
    book = _book(shelf)
    found = rating.outcome(book, sheet)
    return RatingResults(
        sheet=_line(book.sheet(sheet)), level=rating.LEVEL, seed=book.config(sheet).seed, raters=list(found.raters),
        means=found.means, differences=found.differences, agreement=found.agreement,
        items=[ItemLine(item=i.item, coder=i.coder, latent=i.latent, pair=i.pair, ratings=i.ratings) for i in found.items],
    )  # fmt: skip


@router.get("/ratings/{sheet}.csv", response_class=Response, responses={200: {"content": {"text/csv": {}}}})
def rating_table(shelf: Shelved, sheet: Sheet) -> Response:
    """All ratings of an unblinded sheet, a line a rating."""
    text = rating.table(_book(shelf).results(sheet))
    return Response(text, media_type="text/csv", headers={"Content-Disposition": f'attachment; filename="ratings-{sheet}.csv"'})


@lru_cache(8)
def _spelled(model: str) -> Pieces:
    """Strings of a model's tokens. Not by way of a coder: were it gone, the error would name it."""
    return named(model)


def _book(shelf: Shelf) -> Ratings:
    return _BOOKS.setdefault(shelf, Ratings(shelf.store))


def _line(line: Line) -> SheetLine:
    known = {name: value for name, value in asdict(line).items() if name != "model"}
    return SheetLine(**known, complete=line.complete)
