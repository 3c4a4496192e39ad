"""compare: two coders on one site: which latents are the same, what is split, merged or unique, and their scores side by side."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Depends, Query

from assay import compare, matching, results
from assay.coders.base import SparseCoder
from assay.errors import AssayError, BadInput, Busy, MissingFile
from assay.features import Features
from assay.progress import Progress
from assay.results import Record
from assay.splice import coder_hash
from assay.store import entry_hash
from assay.web.background import Background, Job
from assay.web.compare_forms import (
    Compared,
    EvalScores,
    GroupLine,
    Half,
    Member,
    PairLine,
    Pairs,
    PairsPage,
    ScoreRow,
    SideBySide,
)
from assay.web.latents_table import LABELS, numbers
from assay.web.overview import lines
from assay.web.shelf import Shelf, Shelved

router = APIRouter(tags=["compare"])

BINS = 50
"""Bars of the distribution of cosines, from 0 to 1."""
SHOWN = 200
"""Splits, and merges, that are told at most; and MEMBERS of each."""
MEMBERS = 24
WAIT = 0.1
LONGEST = 60.0
Kind = Literal["all", "unique", "split", "merged", "single", "mutual", "otherwise"]
Sort = Literal["latent", "cosine", "paired", "correlation", "together", "density"]
_WORK: weakref.WeakKeyDictionary[Shelf, Background] = weakref.WeakKeyDictionary()


# ---- what is computed ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """A comparison as it is held."""

    matching: matching.Matching
    together: matching.Together | None
    reason: str | None
    width: int

    @property
    def swapped(self) -> Found:
        """Seen from the other side."""
        both = self.together and self.together.swapped
        return Found(self.matching.swapped, both, self.reason, self.width)


@dataclass(frozen=True)
class Two:
    """The two coders that a request names."""

    shelf: Shelf
    a: str
    b: str

    def features(self, name: str) -> Features | None:
        """A coder's harvest, if there is one."""
        try:
            return self.shelf.features(name)
        except MissingFile:
            return None

    def ask(self, wait: float) -> tuple[Job, Found | None]:
        """How far their comparison is, and what was found, seen from a."""
        keys = {name: self._key(name) for name in (self.a, self.b)}
        first, second = sorted((self.a, self.b), key=lambda name: (keys[name], name))  # matched once, in one order
        job = _work(self.shelf).ask(
            ("pairs", keys[first], keys[second]), lambda progress: _compared(self.shelf, first, second, progress), wait
        )
        return job, job.result.swapped if job.result is not None and first != self.a else job.result

    def _key(self, name: str) -> str:
        """What decides the comparison: weights, and which latents the harvest saw."""
        harvest = self.features(name)
        seen = None if harvest is None else entry_hash(harvest.path)
        return f"{entry_hash(self.shelf.store.find('coders', name))} {seen}"


def two(shelf: Shelved, a: str, b: str) -> Two:
    """Both are there, or `UnknownName`."""
    for name in (a, b):
        shelf.manifest(name)
    return Two(shelf, a, b)


Both = Annotated[Two, Depends(two)]


def _work(shelf: Shelf) -> Background:
    return _WORK.setdefault(shelf, Background())


def _compared(shelf: Shelf, a: str, b: str, progress: Progress) -> Found:
    chosen = Two(shelf, a, b)
    coders = [shelf.coder(name) for name in (a, b)]
    harvests = [chosen.features(name) for name in (a, b)]
    alive = [None if f is None else _alive(name, f, coder) for name, f, coder in zip((a, b), harvests, coders, strict=True)]
    u, v = (matching.decoder(coder) for coder in coders)
    found = matching.match(u, v, (alive[0], alive[1]), progress=progress)
    texts = {str(f.manifest["inputs"]["tokens"]) for f in harvests if f is not None}
    abouts = {name: shelf.manifest(name)["about"] for name in (a, b)}
    try:
        path = matching.gathered(shelf.store, abouts, next(iter(texts)) if len(texts) == 1 else None)
        pieces = matching.vectors(path, abouts[a], abouts[b])
        together, reason = matching.together(coders[0], coders[1], pieces, found, progress), None
    except AssayError as error:  # the store has no vectors that fit, or they are damaged: directions are compared all the same
        together, reason = None, str(error)
    return Found(found, together, reason, u.shape[1])


def _alive(name: str, harvest: Features, coder: SparseCoder[Any]) -> np.ndarray:
    """[d_sae]: was the latent ever active?"""
    if harvest.coder_hash != coder_hash(coder):
        raise BadInput(f"{name} was harvested with other weights than it has now. Harvest it again: assay harvest {name}")
    return harvest.columns["count"] > 0


# ---- answers -------------------------------------------------------------------------------------------------------------------


@router.get("/compare.json")
def pairs(
    both: Both,
    at: Annotated[float, Query(ge=0, le=1)] = matching.NOVEL,
    wait: Annotated[float, Query(ge=0, le=LONGEST)] = WAIT,
) -> Compared:
    """Latents of two coders matched: distributions, splits, merges, what is unique."""
    job, found = both.ask(wait)
    return Compared(done=job.done, total=job.total, doing=job.unit, found=found and _pairs(both, found, at))


@router.get("/compare/latents.json")
def paired_latents(
    both: Both,
    at: Annotated[float, Query(ge=0, le=1)] = matching.NOVEL,
    kind: Kind = "all",
    low: Annotated[float | None, Query(ge=-1, le=1)] = None,
    high: Annotated[float | None, Query(ge=-1, le=1)] = None,
    sort: Sort = "cosine",
    descending: bool = True,
    offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> PairsPage:
    """Latents of a with their counterparts in b. `kind`: see `PairLine.kinds`; `otherwise`: another latent of b fires more alike than the
    nearest. `low`, `high`: bounds of the cosine."""
    _, found = both.ask(LONGEST)
    if found is None:
        raise Busy("The two coders are still being compared. Ask again.")
    own, masks = found.matching.a, _masks(found, at)
    keep = own.compared if kind == "all" else masks[kind]
    keep = keep & (own.cosine >= (-1 if low is None else low)) & (own.cosine <= (1 if high is None else high))
    ids = np.flatnonzero(keep)
    values = _sortable(both, found, sort)[ids].astype(np.float64)
    ids = ids[np.lexsort((ids, -values if descending else values, np.isnan(values)))]
    return PairsPage(total=len(ids), offset=offset, latents=_lines(both, found, masks, ids[offset : offset + limit]))


@router.get("/compare/scores.json")
def side_by_side(both: Both, wait: Annotated[float, Query(ge=0, le=LONGEST)] = WAIT) -> SideBySide:
    """Scores of two coders under the same settings, with paired differences."""
    records = results.latest(both.shelf.records())
    mine, theirs = ({r.setting: r for r in records if r.coder == name} for name in (both.a, both.b))
    shared = [(mine[s], theirs[s]) for s in mine if s in theirs]
    key = ("scores", *((r.key, o.key) for r, o in shared))
    job = _work(both.shelf).ask(key, lambda progress: _scores(shared, progress), wait)
    return SideBySide(evals=job.result)


def _pairs(both: Two, found: Found, at: float) -> Pairs:
    """What a page is told, seen from a."""
    splits, merges = matching.splits(found.matching, at), matching.merges(found.matching, at)
    return Pairs(
        a=_half(both, both.a, found, at), b=_half(both, both.b, found.swapped, at), at=at, width=found.width,
        vectors=0 if found.together is None else found.together.vectors, reason=found.reason, n_splits=len(splits), n_merges=len(merges),
        splits=_groups(splits, _Names(both, both.a), _Names(both, both.b)),
        merges=_groups(merges, _Names(both, both.b), _Names(both, both.a)),
    )  # fmt: skip


def _half(both: Two, name: str, found: Found, at: float) -> Half:
    own, harvest = found.matching.a, both.features(name)
    here, masks = own.compared, matching.kinds(found.matching, at)
    n, edges = int(here.sum()), np.linspace(0, 1, BINS + 1)
    bins = {
        of: np.histogram(np.clip(values, 0, 1), edges)[0]
        for of, values in ({"own": own.cosine[here]} | dict(own.chance)).items()
    }
    random, permuted = (own.chance.get(of, np.empty(0)) for of in ("random", "permuted"))
    both_fire = None if found.together is None else found.together.a.with_nearest
    return Half(
        coder=next(one for one in lines(both.shelf) if one.name == name), harvested=harvest is not None, compared=n, dead=len(here) - n, mmcs=_mean(own.cosine),
        mmcs_random=_mean(random), mmcs_permuted=_mean(permuted), one_to_one=_number(float(np.nansum(own.paired)) / n) if n else None,
        correlation=None if both_fire is None else _mean(both_fire), shared=int((own.cosine >= at).sum()),
        shared_random=_mean(random >= at), mutual=int(matching.mutual(found.matching).sum()), counts=bins["own"].tolist(),
        random=_shares(bins.get("random")), permuted=_shares(bins.get("permuted")),
        **{kind: int(mask.sum()) for kind, mask in masks.items()},
    )  # fmt: skip


class _Names:
    """What latents of one coder are called."""

    def __init__(self, both: Two, name: str):
        self._shelf, self._coder, harvest = both.shelf, name, both.features(name)
        self._tokens = None if harvest is None else harvest.columns["top_token"]
        self._pieces = None if harvest is None else both.shelf.pieces(name)

    def token(self, latent: int) -> str | None:
        """The token that most of its top examples peak on; None of one that was never active, or where nothing was harvested."""
        if self._tokens is None or self._pieces is None or latent < 0 or not np.isfinite(token := self._tokens[latent]):
            return None
        return self._pieces.one(int(token))

    def labels(self, ids: np.ndarray) -> dict[int, str]:
        """What the user called them."""
        found: dict[int, str] = {}
        for given in LABELS:
            found |= given(self._shelf, self._coder, ids.tolist())
        return found


def _groups(groups: list[matching.Group], ones: _Names, many: _Names) -> list[GroupLine]:
    return [
        GroupLine(
            latent=g.one, token=ones.token(g.one), n=len(g.many),
            members=[
                Member(latent=int(i), token=many.token(int(i)), cosine=float(f"{c:.6g}"))
                for i, c in zip(g.many[:MEMBERS], g.cosines[:MEMBERS], strict=True)
            ],
        )
        for g in groups[:SHOWN]
    ]  # fmt: skip


def _masks(found: Found, at: float) -> dict[str, np.ndarray]:
    """What the table can be cut down to."""
    masks = matching.kinds(found.matching, at) | {"mutual": matching.mutual(found.matching)}
    both = found.together
    none = np.zeros(len(found.matching.a.nearest), np.bool_)
    return masks | {"otherwise": none if both is None else (both.a.nearest >= 0) & (both.a.nearest != found.matching.a.nearest)}


def _sortable(both: Two, found: Found, sort: Sort) -> np.ndarray:
    own = found.matching.a
    if sort == "density":
        harvest = both.features(both.a)
        return np.full(len(own.nearest), np.nan) if harvest is None else harvest.columns["density"]
    if sort in ("correlation", "together"):
        fires = found.together
        return (
            np.full(len(own.nearest), np.nan)
            if fires is None
            else fires.a.with_nearest
            if sort == "correlation"
            else fires.a.correlation
        )
    return {"latent": np.arange(len(own.nearest)), "cosine": own.cosine, "paired": own.paired}[sort]


def _lines(both: Two, found: Found, masks: dict[str, np.ndarray], ids: np.ndarray) -> list[PairLine]:
    own, fires = found.matching.a, found.together and found.together.a
    mine, theirs = _Names(both, both.a), _Names(both, both.b)
    labels, nearest = mine.labels(ids), own.nearest[ids]
    near_labels = theirs.labels(nearest)
    nothing = np.full(len(ids), np.nan)
    columns = {"density": _sortable(both, found, "density")[ids], "cosine": own.cosine[ids], "paired": own.paired[ids]}
    columns["correlation"] = nothing if fires is None else fires.with_nearest[ids]
    columns["together_correlation"] = nothing if fires is None else fires.correlation[ids]
    rows = {name: numbers(values) for name, values in columns.items()}
    together = np.full(len(ids), -1) if fires is None else fires.nearest[ids]
    return [
        PairLine(
            latent=i, token=mine.token(i), label=labels.get(i), kinds=[k for k in ("unique", "split", "merged", "single", "mutual") if masks[k][i]],
            nearest=near, nearest_token=theirs.token(near), nearest_label=near_labels.get(near),
            partner=partner if partner >= 0 else None, partner_token=theirs.token(partner),
            together=other if other >= 0 else None, together_token=theirs.token(other), cosine=rows["cosine"][row] or 0.0, **{name: values[row] for name, values in rows.items() if name != "cosine"},
        )
        for row, (i, near, partner, other) in enumerate(
            zip(ids.tolist(), nearest.tolist(), own.partner[ids].tolist(), together.tolist(), strict=True)
        )
    ]  # fmt: skip


def _scores(shared: list[tuple[Record, Record]], progress: Progress) -> list[EvalScores]:
    found = []
    for done, (a, b) in enumerate(sorted(shared, key=lambda pair: (pair[0].eval != "core", pair[0].eval))):
        specs = [s.spec for s in a.scores if not {"dataset", "class"} & set(s.where) and b.score(s.spec) is not None]
        rows = []
        for spec in specs:
            progress(done, len(shared), "evals compared")
            rows.append(_score(a, b, spec))
        found.append(EvalScores(eval=a.eval, setting=a.setting, rows=rows))
    return found


def _score(a: Record, b: Record, spec: str) -> ScoreRow:
    x, y = a.score(spec), b.score(spec)
    assert x is not None and y is not None
    gap, metric = compare.against(a, b, spec), compare.declared(a.eval).get(x.metric)
    sides = {
        f"{side}{end}": _number(v)
        for side, s in (("a", x), ("b", y))
        for end, v in (("", s.value), ("_low", s.low), ("_high", s.high))
    }
    paired = {name: gap and _number(getattr(gap, name)) for name in ("low", "high", "p")}
    return ScoreRow(
        spec=spec, doc=metric and metric.doc, better=metric and metric.better, difference=gap and _number(gap.value),
        n=gap and gap.n, **sides, **paired,
    )  # fmt: skip


def _number(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(f"{value:.6g}")


def _mean(values: np.ndarray) -> float | None:
    some = values[~np.isnan(values)] if values.dtype.kind == "f" else values
    return _number(float(some.mean())) if len(some) else None


def _shares(counts: np.ndarray | None) -> list[float]:
    return [] if counts is None or not counts.sum() else np.round(counts / counts.sum(), 6).tolist()
