"""From records to what a figure is made of: which may stand together, what each coder scored, which metric is an eval's headline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from assay.compare import LEVELS, TWINS, declared
from assay.errors import BadInput, UnknownName
from assay.evals.base import Metric
from assay.figures.base import MARKERS, Axis, Line, colour, label
from assay.results import LISTED, Record, Score, latest, sparsities
from assay.statistics import SAME, Interval

L0 = Axis(
    key="l0", label="L0", unit="active latents a token", better="lower", log=True, doc="Latents that are not zero, a token."
)
WIDTH = Axis(key="d_sae", label="width", unit="latents", log=True, format="width", doc="Latents that a coder has.")
TOKENS = Axis(
    key="tokens", label="tokens learnt from", log=True, format="count", doc="Vectors seen in training, repeats counted."
)  # fmt: skip
FACTS = {axis.key: axis for axis in (L0, WIDTH, TOKENS)}
HEADLINES: Mapping[str, Sequence[Sequence[str]]] = {
    "core": (("loss_recovered[ablation=mean]", "loss_recovered"), ("fvu", "explained_variance")),
    "sparse_probing": (("accuracy[k=1,on=latents]",),), "absorption": (("absorption_fraction",),),
    "scr": (("scr[n=20]",),), "tpp": (("tpp[n=20]",),),
}  # fmt: skip
"""What stands for an eval, those of SAEBench's own page: for each panel the beginnings of full names, the first there is counting."""
Declared = Mapping[str, Mapping[str, Metric]]
"""What each eval says of its metrics."""
SPAN = 20.0  # a quantity that spans more than this factor is drawn on a logarithmic axis


@dataclass(frozen=True)
class Scored:
    """One coder with what all evals say of it."""

    record: Record
    """Any of its records: name, architecture, width."""
    values: Mapping[str, Interval]
    """By the keys of axes."""

    @property
    def architecture(self) -> str:
        return str(self.record.about.get("architecture"))

    @property
    def baseline(self) -> bool:
        return bool(self.record.about.get("baseline"))

    @property
    def width(self) -> int:
        return int(self.record.about.get("d_sae") or 0)


@dataclass(frozen=True)
class Gathered:
    """All that comparable records give a figure to draw."""

    records: Sequence[Record]
    coders: Sequence[Scored]
    axes: Mapping[str, Axis]
    asked: Sequence[str]
    """Keys of the metrics that the figure is about."""

    @property
    def title(self) -> str:
        """Which model and site, and whether others made the numbers."""
        return _place(self.records[0]) + _imported(self.records[0])

    @property
    def notes(self) -> list[str]:
        """Where the numbers come from."""
        found = []
        for name, part in by_eval(self.records).items():
            found.append(f"{name} (version {part[0].eval_version}, setting {part[0].setting[:6]}): {len(part)} coders.")
        intervals = any(v.low is not None for c in self.coders for v in c.values.values())
        return [*found, "Intervals are 95 % confidence intervals." if intervals else "These records have no intervals."]


def gathered(
    records: Iterable[Record], metrics: Sequence[str] | None = None,
    everything: Iterable[Record] | None = None, tokens: Mapping[str, int] | None = None,
) -> Gathered:  # fmt: skip
    """What a figure can be drawn from. `metrics`: full names (left out: `headlines`). `everything`: where L0 is looked up that is not
    among `records`. `tokens`: what coders of these hashes learnt from.
    """
    records = list(records)
    elsewhere, records = sparsities(records if everything is None else everything), comparable(records)
    there = scores(records, metrics or ())
    coders = [
        _scored([r for r in records if r.coder_hash == hash_], there, elsewhere.get(hash_), (tokens or {}).get(hash_))
        for hash_ in dict.fromkeys(r.coder_hash for r in records)
    ]
    parts = by_eval(records)
    known = {name: declared(name) for name in parts}
    axes = {key: _axis(key, s, known, parts, coders) for key, s in there.items() if key != "l0"} | FACTS
    used = {key for c in coders for key in c.values}
    asked = headlines(there, known, coders) if metrics is None else [key for name in metrics for key in _keys(name, records)]
    return Gathered(records, coders, {key: axis for key, axis in axes.items() if key in used}, asked)


def comparable(records: Iterable[Record]) -> list[Record]:
    """The newest versions, core first; `BadInput` where they are not of one setting an eval, and of one model, one site and one maker."""
    found = sorted(latest(records), key=lambda r: r.eval != "core")
    if not found:
        raise BadInput("There are no results to plot. Run `assay eval core` first.")
    for part in by_eval(found).values():
        if len({r.setting for r in part}) > 1:
            raise BadInput(_several(part))
    if len({_place(r) + _imported(r) for r in found}) > 1:
        raise BadInput(_several(found))
    return found


def _several(records: Sequence[Record]) -> str:
    first = {r.setting: r for r in reversed(records)}
    each = "; ".join(sorted(f"{s[:6]}: {r.eval} at {_place(r)}{_imported(r)}" for s, r in first.items()))
    return (
        f"These results were made with several models, texts or settings ({each}). A figure shows one of them: choose by --setting, "
        "--model, --site or --eval."
    )


def _place(r: Record) -> str:
    return f"{r.about.get('model')}, {r.about.get('site')}"


def _imported(r: Record) -> str:
    return f", imported from {r.about['origin']}" if r.about.get("origin") else ""


def by_eval(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Records of each eval, in the order in which they come."""
    found: dict[str, list[Record]] = {}
    for r in records:
        found.setdefault(r.eval, []).append(r)
    return found


# ---- metrics -------------------------------------------------------------------------------------------------------------------


def scores(records: Sequence[Record], also: Sequence[str] = ()) -> dict[str, Score]:
    """An example of each score that is not of one dataset or class, nor else a part of another's mean, or is asked for in `also`; by its
    axis.
    """
    found: dict[str, Score] = {}
    for name, part in by_eval(records).items():
        every = {s.spec: s for r in part for s in r.scores if s.value is not None}
        kinds: dict[str, list[Score]] = {}
        for s in every.values():
            kinds.setdefault(s.metric, []).append(s)
        for spec, s in every.items():
            part_of = set(LEVELS) & set(s.where) or any(o.where.items() < s.where.items() for o in kinds[s.metric])
            if not part_of or spec in also or f"{name}/{spec}" in also:
                found[key_of(part[0], s)] = s
    return found


def headlines(there: Mapping[str, Score], declared_: Declared, coders: Sequence[Scored]) -> list[str]:
    """Axes that a figure shows of each eval when nothing else is asked for: `HEADLINES`; of others, the first score with a direction
    in which coders differ.
    """
    found: list[str] = []
    for name, metrics in declared_.items():
        mine = [key for key in there if key.startswith(f"{name}/")]
        wanted = [
            [key for like in likes for key in mine if key.startswith(f"{name}/{like}")][:1] for likes in HEADLINES.get(name, ())
        ]
        telling = [key for key in mine if len({c.values[key].value for c in coders if key in c.values}) > 1] or mine
        directed = [key for key in telling if (m := metrics.get(there[key].metric)) and m.better != "neither"]
        found += [key for one in wanted for key in one] or (directed or telling)[:1]
    return found


def _keys(name: str, records: Sequence[Record]) -> list[str]:
    """Axes of a metric's full name, with or without its eval before a slash: one for each eval that has it."""
    if name in FACTS:
        return [name]
    found = {key_of(r, s): s for r in records for s in r.scores if name in (s.spec, f"{r.eval}/{s.spec}")}
    if not found:
        raise UnknownName.among("metric", name, {s.spec for r in records for s in r.scores}, more=LISTED)
    there = scores(records, [name])
    if not (kept := [key for key in found if key in there]):
        raise BadInput(f"No coder has a value of {name}: {next(iter(found.values())).reason or 'it is missing'}.")
    return kept


def key_of(record: Record, s: Score) -> str:
    """A score's axis."""
    spec = s.spec
    return "l0" if spec == "l0" and record.eval == "core" else f"{record.eval}/{spec}"


def _axis(
    key: str, s: Score, declared_: Declared, parts: Mapping[str, Sequence[Record]], coders: Sequence[Scored]
) -> Axis:  # fmt: skip
    name = key.partition("/")[0]
    values = [c.values[key].value for c in coders if key in c.values]
    return described(key, s, declared_[name].get(s.metric), values, _reference(s, parts[name]))


def described(
    key: str, s: Score, metric: Metric | None, values: Sequence[float], reference: tuple[str, Interval] | None = None
) -> Axis:  # fmt: skip
    """A score's axis, from what its eval declares of its metric and the values there are."""
    better, unit, doc = ("neither", "", "") if metric is None else (metric.better, metric.unit, metric.doc)
    bounded = metric is not None and None not in (metric.floor, metric.ceiling)  # what lies between is what counts there
    return Axis(
        key=key, label=label(s.metric, s.where), better=better, unit=unit, doc=doc, reference=reference,
        log=bool(not bounded and min(values) > 0 and max(values) / min(values) > SPAN),
    )  # fmt: skip


def _reference(s: Score, records: Sequence[Record]) -> tuple[str, Interval] | None:
    """What the same probes reach on the model's own activations, where an eval says so and it is the same for all coders."""
    twin = s.spec.replace("on=latents", "on=activations")
    levels = {interval(t) for r in records if (t := r.score(twin)) and t.value is not None} if twin != s.spec else set()
    return ("activations themselves", levels.pop()) if len(levels) == 1 else None


# ---- coders --------------------------------------------------------------------------------------------------------------------


def interval(s: Score) -> Interval:
    """A score's value with its interval, as the record has it."""
    assert s.value is not None
    return Interval(s.value, s.low, s.high, s.n or 0)


def _scored(records: Sequence[Record], there: Mapping[str, Score], l0: float | None, tokens: int | None) -> Scored:
    """A coder's records as one. Its L0 is core's among these, else that measured elsewhere, else what its eval itself says."""
    each = [(key_of(r, s), s) for r in records for s in r.scores if s.value is not None]
    values = {key: interval(s) for key, s in each if key in there}
    about = records[0].about
    facts = {"l0": l0, "d_sae": about.get("d_sae"), "tokens": tokens or about.get("training_tokens")}
    own = [v for key, v in values.items() if key.endswith("/l0")]
    found = {key: Interval(float(v), None, None, 0) for key, v in facts.items() if v is not None}
    return Scored(records[0], ({"l0": own[0]} if own else {}) | found | values)


def order(coders: Sequence[Scored]) -> list[Scored]:
    """As a legend names them: trained ones by architecture and width, then baselines."""
    return sorted(coders, key=lambda c: (c.baseline, c.architecture, c.width))


def lines(groups: Mapping[str, Sequence[Scored]], *, by_width: bool = False) -> list[Line]:
    """The legend of named groups of coders, each of one architecture: its colour, grey for baselines, and how many there are.

    Each group has a marker of its own; `by_width`: each width of trained coders.
    """
    trained = sorted({g[0].architecture for g in groups.values() if not g[0].baseline})
    kinds: dict[bool, list[object]] = {True: [], False: []}
    found = []
    for name, (first, *others) in groups.items():
        kind = first.width if by_width and not first.baseline else name
        mine = kinds[first.baseline]
        mine += [] if kind in mine else [kind]
        told = f"{name} ({'baseline, ' if first.baseline else ''}n = {len(others) + 1})"
        paint = None if first.baseline else colour(first.architecture, trained)
        found.append(Line(label=told, colour=paint, marker=mine.index(kind) % MARKERS, joined=first.architecture != TWINS))
    return found


def steps(values: Sequence[float]) -> list[float]:
    """Places along a line: values within 2 % of the next (seeds) share one."""
    places: dict[float, float] = {}
    place, last = 0.0, None
    for v in sorted(values):
        place += last is not None and v > last * SAME
        places[v], last = place, v
    return [places[v] for v in values]
