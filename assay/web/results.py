"""results: every score of the store in columns, what sweeps give at an L0, and curves of trainings."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, TypeAdapter

from assay.errors import BadInput, UnknownName
from assay.figures import training
from assay.figures.base import COLOURS, Axis, colour
from assay.figures.explorer import AtL0, Explored, Explorer, Quantity
from assay.web.shelf import Shelf, Shelved

router = APIRouter(tags=["results"])
MOST = 24  # trainings in one plot
EXPLORED: TypeAdapter[Explored] = TypeAdapter(Explored)


class TrainingLine(BaseModel):
    """A coder that was trained in this store."""

    name: str
    architecture: str
    colour: int
    """Place in the palette."""
    d_sae: int | None
    model: str | None
    site: str | None
    tokens: int
    """What it learnt from."""
    vectors: str
    """The same for coders that learnt from the same vectors."""
    settings: dict[str, Any]
    """Its configuration."""


class Trainings(BaseModel):
    """All trainings that there are."""

    coders: list[TrainingLine]
    palette: list[str]


class Curve(BaseModel):
    """Rows of one training; of long ones some 300, with the highest and lowest of each column."""

    coder: str
    tokens: list[float]
    values: dict[str, list[float | None]]
    """By column."""


class Curves(BaseModel):
    """Columns of trainings, over tokens."""

    columns: list[Axis]
    """All that there are."""
    shown: list[str]
    """Those that `curves` holds."""
    curves: list[Curve]


@router.get("/results.json", response_model=Explored)
def results(shelf: Shelved) -> Response:
    """Every score that is not of a single dataset or class, with its interval; coders, settings, what to look at first."""
    return Response(_sent(shelf), media_type="application/json")


@router.get("/results/column.json")
def results_column(shelf: Shelved, key: Annotated[str, Query(max_length=500)]) -> Quantity:
    """One quantity, also one of a single dataset or class; rows as the eval has them in `/results.json`."""
    return explorer(shelf).column(key)


@router.get("/results/at_l0.json")
def results_at_l0(
    shelf: Shelved, key: Annotated[str, Query(max_length=500)], at: Annotated[float, Query(gt=0, le=1e9, allow_inf_nan=False)],
    settings: Annotated[str, Query(max_length=20_000)],
) -> list[AtL0]:  # fmt: skip
    """A quantity at a matched L0, interpolated along each sweep of some settings (their hex digits, separated by commas)."""
    return explorer(shelf).at_l0(key, at, tuple(dict.fromkeys(settings.split(","))))


@router.get("/training.json")
def trainings(shelf: Shelved) -> Trainings:
    """Coders that were trained in this store."""
    found = _trained(shelf)
    architectures = sorted({str(t.about["architecture"]) for t in found})
    return Trainings(coders=[_line(t, architectures) for t in found], palette=list(COLOURS))


@router.get("/training/curves.json")
def training_curves(
    shelf: Shelved, coders: Annotated[str, Query(max_length=20_000)], columns: Annotated[str | None, Query(max_length=2_000)] = None
) -> Curves:  # fmt: skip
    """Columns of train.jsonl of some coders (names, separated by commas) that learnt from the same vectors.

    `columns`: left out, FVU and L0, on held-out vectors where there are any, and dead latents.
    """
    found, names = {t.coder: t for t in _trained(shelf)}, list(dict.fromkeys(coders.split(",")))
    if len(names) > MOST:
        raise BadInput(f"Got {len(names)} coders; at most {MOST} are drawn at once.")
    for name in names:
        if name not in found:
            raise UnknownName.among("trained coder", name, found)
    figure = training.curves([found[name] for name in names], columns.split(",") if columns else None)
    shown = [y for _, y in figure.panels]
    curves = []
    for i, name in enumerate(names):
        points = [p for p in figure.points if p.line == i]
        values = {k: [p.values[k].value if k in p.values else None for p in points] for k in shown}
        curves.append(Curve(coder=name, tokens=[p.order for p in points], values=values))
    return Curves(columns=[a for k, a in figure.axes.items() if k != "tokens"], shown=shown, curves=curves)


# ---- kept between requests -----------------------------------------------------------------------------------------------------


def explorer(shelf: Shelf) -> Explorer:
    """The store's records as columns; made again when a record or a coder has changed."""
    records, coders = shelf.records(), shelf.stamps()
    return shelf.kept("explorer", (records, coders), lambda: _made(shelf, records))


def _made(shelf: Shelf, records: list) -> Explorer:
    tokens = {t.coder_hash: t.tokens for t in training.trained(shelf.store, records) if t.coder_hash}
    return Explorer(records, tokens, shelf.coders())


def _sent(shelf: Shelf) -> bytes:
    found = explorer(shelf)
    return shelf.kept("results.json", found, lambda: EXPLORED.dump_json(found.explored))


def _trained(shelf: Shelf) -> list[training.Trained]:
    return shelf.kept("trained", shelf.stamps(), lambda: training.trained(shelf.store))


def _line(t: training.Trained, architectures: list[str]) -> TrainingLine:
    about = t.about
    return TrainingLine(
        name=t.coder, architecture=str(about["architecture"]), colour=colour(str(about["architecture"]), architectures),
        d_sae=about["d_sae"], model=about["model"], site=about["site"], tokens=t.tokens, vectors=t.setting, settings=about["config"],
    )  # fmt: skip
