"""All scores of a store in columns, for a reader who chooses what to plot: coders, settings, quantities, and who measured what how.

Nothing is left out and nothing is put together here. Which settings may stand in one plot is the reader's choice; for each eval, model,
site and maker one of them is marked to begin with.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from math import isfinite
from typing import Any

from assay import compare, registry
from assay.compare import declared
from assay.errors import BadInput, UnknownName
from assay.figures.base import COLOURS, Axis, colour, label
from assay.figures.scores import FACTS, Scored, by_eval, described, headlines, interval, key_of, scores, steps
from assay.results import Record, Score
from assay.statistics import Interval
from assay.store import digest

LAYER = Axis(key="layer", label="layer", doc="Layer of the model whose activations a coder reads.")
DIGITS = 7  # of a number that is sent; `assay results export` has all


@dataclass(frozen=True, kw_only=True)
class ScoredCoder:
    """Whose scores there are."""

    name: str
    hash: str
    """Of its weights: the same name may have had others."""
    architecture: str
    baseline: bool
    colour: int | None
    """Place in the palette, the same in every figure; None for baselines."""
    model: str | None
    site: str | None
    layer: int | None
    d_sae: int | None
    tokens: int | None
    """What it learnt from."""
    seed: int | None
    origin: str | None
    """Which other library made its scores, if one did."""
    release: str | None
    """What it was published in."""
    stored: bool
    """Whether it has a page of its own."""
    l0: Interval | None
    """As `core` measured it last, else as another eval did."""
    sweep: str | None
    """The same for coders that differ, as far as their records say, in sparsity and seed alone; None where no line runs."""
    course: str | None
    """The same for coders that differ in the tokens learnt from and the seed alone."""


@dataclass(frozen=True, kw_only=True)
class ScoredSetting:
    """How scores were made. Those of one setting are comparable."""

    hex: str
    eval: str
    version: int
    config: dict[str, Any]
    inputs: dict[str, str]
    model: str | None
    site: str | None
    origin: str | None
    coders: int
    made: str
    """When its newest record was made."""
    chosen: bool
    """Shown, unless the reader chooses another of this eval, model, site and maker: newest version, then most coders, then newest."""


@dataclass(frozen=True, kw_only=True)
class Quantity(Axis):
    """A metric in all its rows. Lists are as long as the eval's `coders`; empty where all are None."""

    value: list[float | None] = field(default_factory=list)
    low: list[float | None] = field(default_factory=list)
    high: list[float | None] = field(default_factory=list)
    n: list[int | None] = field(default_factory=list)
    levels: dict[str, Interval] = field(default_factory=dict)
    """What the same probes reach on the model's own activations, by setting."""


@dataclass(frozen=True, kw_only=True)
class ScoredEval:
    """All records of an eval, in columns."""

    name: str
    summary: str
    coders: list[int]
    """Whose record each row is."""
    settings: list[int]
    """Which setting each row was made with."""
    quantities: list[Quantity]
    finer: list[str]
    """Keys of scores of one dataset, class … : see `Explorer.column`."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """What to look at first of an eval."""

    eval: str
    label: str
    x: str
    y: str


@dataclass(frozen=True, kw_only=True)
class Explored:
    """Everything that results say."""

    facts: list[Axis]
    """Quantities that belong to coders, not to a record."""
    coders: list[ScoredCoder]
    settings: list[ScoredSetting]
    evals: list[ScoredEval]
    presets: list[Preset]
    home: tuple[str | None, str | None] | None
    """Model and site of most coders."""
    palette: list[str]


@dataclass(frozen=True, kw_only=True)
class AtL0:
    """What a sweep gives at an L0, interpolated."""

    sweep: str
    setting: str
    coders: int
    """In the sweep."""
    value: Interval


class Explorer:
    """Records as columns. `tokens`: what coders of these hashes learnt from; `stored`: names of coders that have pages."""

    def __init__(self, records: Iterable[Record], tokens: Mapping[str, int] | None = None, stored: Collection[str] = ()):
        self._tokens, self._stored = tokens or {}, frozenset(stored)
        found = [(r, r.setting) for r in sorted(records, key=lambda r: (r.eval != "core", r.eval))]
        last = {(hex_, r.coder): r.coder_hash for r, hex_ in sorted(found, key=lambda f: (f[0].made.at, f[0].key))}
        found = [(r, hex_) for r, hex_ in found if last[hex_, r.coder] == r.coder_hash]
        self._settings = [hex_ for _, hex_ in found]
        self.records = [r for r, _ in found]
        self._scores = [{key_of(r, s): s for s in r.scores if _there(s)} for r in self.records]
        self._hashes = list(dict.fromkeys(r.coder_hash for r in self.records))
        self._about = {r.coder_hash: r for r in reversed(self.records)}
        self.at_l0 = lru_cache(256)(self._at_l0)

    @cached_property
    def explored(self) -> Explored:
        """Everything, as columns."""
        known = {name: declared(name) for name in by_eval(self.records)}
        there = scores(self._examples(range(len(self.records))))
        settings = list(dict.fromkeys(self._settings))
        evals = [self._eval(name, [k for k in there if key_of_eval(k) == name], settings) for name in known]
        presets = [
            Preset(eval=key_of_eval(key), label=_labels(there, key), x="l0", y=key)
            for published in (False, True)
            for key in self._headlines(published, known)
        ]
        return Explored(
            facts=[*FACTS.values(), LAYER], coders=self._coders(), settings=self._described(settings), evals=evals,
            presets=sorted(dict.fromkeys(presets), key=lambda p: list(known).index(p.eval)), home=self._home(), palette=list(COLOURS),
        )  # fmt: skip

    def column(self, key: str) -> Quantity:
        """Any score, also one of a single dataset or class, as `explored` has the others."""
        name = key_of_eval(key)
        if not any(key in s for s in self._scores):
            raise UnknownName.among(
                "score", key, {k for s in self._scores for k in s if key_of_eval(k) == name} or by_eval(self.records)
            )
        return self._quantity(key, name, *self._rows(name))

    def _at_l0(self, key: str, at: float, settings: tuple[str, ...]) -> list[AtL0]:
        """A score at a matched L0 along each sweep of some settings; sweeps that do not reach it are left out."""
        if at <= 0:
            raise BadInput(f"Got an L0 of {at:g}; one above 0 was expected.")
        self.column(key)  # refuses what there is not
        l0, spec = {c.hash: c.l0.value for c in self.explored.coders if c.l0 is not None}, key.partition("/")[2] or key
        groups: dict[tuple[str, str], list[Record]] = {}
        coders = {c.hash: c for c in self.explored.coders}
        for r, hex_ in zip(self.records, self._settings, strict=True):
            sweep = coders[r.coder_hash].sweep
            if hex_ in settings and r.eval == key_of_eval(key) and sweep is not None:
                groups.setdefault((sweep, hex_), []).append(r)
        found = {place: (group, compare.at_l0(_near(group, l0, at), l0, at, spec)) for place, group in groups.items()}
        return [
            AtL0(sweep=sweep, setting=hex_, coders=len(group), value=v)
            for (sweep, hex_), (group, v) in found.items()
            if v is not None
        ]

    # ---- columns ---------------------------------------------------------------------------------------------------------------

    def _rows(self, name: str) -> tuple[list[Record], list[str], list[dict[str, Score]]]:
        rows = [i for i, r in enumerate(self.records) if r.eval == name]
        return [self.records[i] for i in rows], [self._settings[i] for i in rows], [self._scores[i] for i in rows]

    def _eval(self, name: str, keys: Sequence[str], settings: Sequence[str]) -> ScoredEval:
        records, hexes, own = self._rows(name)
        finer = [k for k in dict.fromkeys(k for s in own for k in s) if k not in keys]
        places, ids = {h: i for i, h in enumerate(self._hashes)}, {h: i for i, h in enumerate(settings)}
        return ScoredEval(
            name=name, summary=registry.EVALS.summary(name) if name in registry.EVALS else "",
            coders=[places[r.coder_hash] for r in records], settings=[ids[h] for h in hexes],
            quantities=[self._quantity(key, name, records, hexes, own) for key in keys], finer=finer,
        )  # fmt: skip

    def _quantity(self, key: str, name: str, records: Sequence[Record], hexes: Sequence[str], own: Sequence[Mapping[str, Score]]) -> Quantity:  # fmt: skip
        column = [s.get(key) for s in own]
        example = next(s for s in column if s is not None)
        values = [s.value for s in column if s is not None and s.value is not None]
        axis = described(key, example, declared(name).get(example.metric), values)
        columns = [[s and _short(getattr(s, part)) for s in column] for part in ("value", "low", "high")]
        value, low, high = (found if any(v is not None for v in found) else [] for found in columns)
        return Quantity(
            key=axis.key, label=axis.label, better=axis.better, unit=axis.unit, doc=axis.doc, log=axis.log, format=axis.format,
            value=value, low=low, high=high, n=[s and s.n for s in column], levels=_levels(key, hexes, own),
        )  # fmt: skip

    def _examples(self, rows: Iterable[int]) -> list[Record]:
        """A record of each eval with one of each score that any of these rows has: enough to tell which scores there are."""
        found: dict[str, dict[str, Score]] = {}
        first: dict[str, Record] = {}
        for i in rows:
            name = first.setdefault(self.records[i].eval, self.records[i]).eval
            found.setdefault(name, {}).update(self._scores[i])
        return [replace(r, scores=list(found[name].values())) for name, r in first.items()]

    def _headlines(self, published: bool, known: Mapping[str, Any]) -> list[str]:
        mine = [i for i, r in enumerate(self.records) if bool(r.about.get("origin")) == published]
        records = self._examples(mine)
        there = scores(records)
        each = [
            Scored(self.records[i], {k: interval(s) for k, s in self._scores[i].items() if k in there}) for i in mine
        ]  # fmt: skip
        return headlines(there, {name: known[name] for name in by_eval(records)}, each)

    # ---- coders and settings ---------------------------------------------------------------------------------------------------

    def _coders(self) -> list[ScoredCoder]:
        l0 = self._l0()
        trained = sorted({str(r.about.get("architecture")) for r in self._about.values() if not r.about.get("baseline")})
        return [self._coder(self._about[hash_], l0.get(hash_), trained) for hash_ in self._hashes]

    def _coder(self, r: Record, l0: Interval | None, trained: Sequence[str]) -> ScoredCoder:
        about, architecture = r.about, str(r.about.get("architecture"))
        tokens = self._tokens.get(r.coder_hash) or about.get("training_tokens")
        release = (r.details.get("origin") or {}).get("sae_lens_release_id") if about.get("origin") else None
        place = [about.get("model"), about.get("site"), about.get("origin"), release]
        sweep = [architecture, about.get("d_sae"), tokens, *place]
        course = [architecture, about.get("config"), *place]
        baseline = bool(about.get("baseline"))
        return ScoredCoder(
            name=r.coder, hash=r.coder_hash, architecture=architecture, baseline=baseline,
            colour=None if baseline else colour(architecture, trained), model=about.get("model"), site=about.get("site"),
            layer=layer(about.get("site")), d_sae=about.get("d_sae"), tokens=tokens, seed=about.get("seed"), origin=about.get("origin"),
            release=release, stored=r.coder in self._stored and not about.get("origin"), l0=l0,
            sweep=None if architecture == compare.TWINS else digest(sweep)[:12],
            course=digest(course)[:12] if tokens and about.get("config") else None,
        )  # fmt: skip

    def _l0(self) -> dict[str, Interval]:
        found: dict[str, Interval] = {}
        order = sorted(range(len(self.records)), key=lambda i: (self.records[i].eval == "core", self.records[i].made.at))
        for i in order:
            own = self._scores[i].get("l0") or self._scores[i].get(f"{self.records[i].eval}/l0")
            if own is not None:
                found[self.records[i].coder_hash] = interval(own)
        return found

    def _described(self, settings: Sequence[str]) -> list[ScoredSetting]:
        groups: dict[str, list[Record]] = {hex_: [] for hex_ in settings}
        for r, hex_ in zip(self.records, self._settings, strict=True):
            groups[hex_].append(r)
        best: dict[Any, tuple[Any, str]] = {}
        for hex_, group in groups.items():
            rank = (group[0].eval_version, len(group), max(r.made.at for r in group))
            best[_maker(group[0])] = max(best.get(_maker(group[0]), (rank, hex_)), (rank, hex_))
        return [
            ScoredSetting(
                hex=hex_, eval=g[0].eval, version=g[0].eval_version, config=g[0].config, inputs=g[0].inputs,
                model=g[0].about.get("model"), site=g[0].about.get("site"), origin=g[0].about.get("origin"), coders=len(g),
                made=max(r.made.at for r in g), chosen=best[_maker(g[0])][1] == hex_,
            )
            for hex_, g in groups.items()
        ]  # fmt: skip

    def _home(self) -> tuple[str | None, str | None] | None:
        about = [r.about for r in self._about.values()]
        own = [a for a in about if not a.get("origin")] or about
        places = [(a.get("model"), a.get("site")) for a in own]
        return max(places, key=places.count) if places else None


def key_of_eval(key: str) -> str:
    """The eval of a quantity's key."""
    return "core" if key == "l0" else key.partition("/")[0]


def layer(site: str | None) -> int | None:
    """The layer of a site; None of several sites, or of none."""
    found = re.findall(r"\.(\d+)(?![\d.])", site or "")
    return int(found[0]) if len(set(found)) == 1 else None


def _near(group: Sequence[Record], l0: Mapping[str, float], at: float) -> list[Record]:
    """The coders of a sweep that its value at an L0 depends on: those of the two places (seeds share one) on either side."""
    there = sorted((r for r in group if r.coder_hash in l0), key=lambda r: l0[r.coder_hash])
    places = steps([l0[r.coder_hash] for r in there])
    below = max((p for r, p in zip(there, places, strict=True) if l0[r.coder_hash] <= at), default=0.0)
    return [r for r, p in zip(there, places, strict=True) if below - 1 <= p <= below + 2]


def _levels(key: str, hexes: Sequence[str], own: Sequence[Mapping[str, Score]]) -> dict[str, Interval]:
    """By setting, where all its records say the same."""
    twin = key.replace("on=latents", "on=activations")
    found: dict[str, set[Interval]] = {}
    for hex_, each in zip(hexes, own, strict=True):
        if twin != key and twin in each:
            found.setdefault(hex_, set()).add(interval(each[twin]))
    return {hex_: levels.pop() for hex_, levels in found.items() if len(levels) == 1}


def _maker(r: Record) -> tuple[Any, ...]:
    return r.eval, r.about.get("model"), r.about.get("site"), r.about.get("origin")


def _there(s: Score) -> bool:
    return s.value is not None and isfinite(s.value)


def _short(value: float | None) -> float | None:
    return None if value is None or not isfinite(value) else float(f"{value:.{DIGITS}g}")


def _labels(there: Mapping[str, Score], key: str) -> str:
    return "L0" if key == "l0" else label(there[key].metric, there[key].where)
