"""Score and Record: one immutable JSON per (coder, eval, eval version, configuration, data). Reading, tables, leaderboard, export."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from assay import codec, statistics
from assay.errors import BadInput, UnknownName
from assay.provenance import Made
from assay.randomness import numpy_generator
from assay.statistics import Interval
from assay.store import Store, digest, write_atomic


@dataclass(frozen=True, kw_only=True)
class Score:
    """One number. Dimensions go into `where`, never into the metric's name; a missing value is None with a reason."""

    metric: str
    value: float | None
    where: dict[str, str] = field(default_factory=dict)
    n: int | None = None
    """Independent units the interval rests on (documents, examples)."""
    low: float | None = None
    """Lower end of the 95 % confidence interval."""
    high: float | None = None
    reason: str | None = None
    """Why the value is missing."""

    @property
    def spec(self) -> str:
        """The score's full name: `loss_recovered[ablation=mean]`."""
        inner = ",".join(f"{k}={v}" for k, v in self.where.items())
        return f"{self.metric}[{inner}]" if inner else self.metric


@dataclass(frozen=True, kw_only=True)
class Record:
    """Everything one eval says of one coder."""

    schema: int
    key: str
    """See `key`."""
    coder: str
    """Name for people."""
    coder_hash: str
    eval: str
    eval_version: int
    config: dict[str, Any]
    inputs: dict[str, str]
    """Hashes of what it was computed from: model, tokens, datasets."""
    about: dict[str, Any]
    """The coder's architecture, widths, site, and whether it is a baseline."""
    scores: list[Score]
    details: dict[str, Any]
    made: Made

    @property
    def setting(self) -> str:
        """Records with the same setting are comparable: same eval, version, configuration and data. 16 hex digits."""
        return digest([self.eval, self.eval_version, self.config, self.inputs])[:16]

    def score(self, spec: str) -> Score | None:
        """The score of a full name such as `loss_recovered[ablation=mean]`, or None."""
        return next((s for s in self.scores if s.spec == spec), None)

    def value(self, spec: str) -> float | None:
        """Its value, or None."""
        found = self.score(spec)
        return None if found is None else found.value


def key(coder_hash: str, eval_name: str, version: int, config: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """sha256(coder hash, eval, eval version, configuration, hashes of the data)[:16]: the name of a record's file."""
    return digest([coder_hash, eval_name, version, dict(config), dict(inputs)])[:16]


def write(store: Store, record: Record) -> None:
    """Put a record into the store, whole or not at all."""
    write_atomic(store.path("results", record.eval) / f"{record.key}.json", codec.to_json(record) + "\n")


def find(store: Store, eval_name: str, record_key: str) -> Record | None:
    """The record of a key, or None."""
    path = store.path("results", eval_name) / f"{record_key}.json"
    if not path.exists():
        return None
    return codec.from_data(Record, codec.migrate("record", codec.read_json(path), path), path)


def load(store: Store, eval: str | None = None, coder: str | None = None) -> list[Record]:
    """All records, or those of one eval, of one coder; by eval, coder's name, key."""
    names = store.names("results") if eval is None else [eval]
    paths = [p for name in names for p in sorted(store.path("results", name).glob("[!.]*.json"))]
    found = [r for p in paths if (r := find(store, p.parent.name, p.stem)) is not None]
    return sorted((r for r in found if coder in (None, r.coder)), key=lambda r: (r.eval, r.coder, r.key))


def latest(records: Iterable[Record]) -> list[Record]:
    """Of each eval only the newest version, and of each coder's name only the weights scored last.

    So numbers of different meaning never stand together, nor those of a coder beside those of the one it replaced.
    """
    records = list(records)
    newest: dict[Any, int] = {}
    for r in records:
        newest[kind(r)] = max(r.eval_version, newest.get(kind(r), r.eval_version))
    now = [r for r in records if r.eval_version == newest[kind(r)]]
    last = {(r.eval, r.setting, r.coder): r.coder_hash for r in sorted(now, key=lambda r: (r.made.at, r.key))}
    return [r for r in now if last[r.eval, r.setting, r.coder] == r.coder_hash]


def kind(record: Record) -> tuple[str, str | None]:
    """What a record's eval version counts in: the eval, and which other library made it, if one did."""
    return record.eval, record.about.get("origin")


def sparsities(records: Iterable[Record]) -> dict[str, float]:
    """L0 of each coder, by its hash, as `core` measured it last."""
    core = sorted((r for r in records if r.eval == "core"), key=lambda r: r.made.at)
    return {r.coder_hash: l0 for r in core if (l0 := r.value("l0")) is not None}


# ---- tables --------------------------------------------------------------------------------------------------------------------

Beside = Callable[[Record, Score], Mapping[str, Any]]
"""Further columns of a score."""


def nothing(record: Record, score: Score) -> Mapping[str, Any]:
    """No further columns."""
    return {}


LISTED = "`assay results show CODER` lists a coder's metrics."
"""Where the names of metrics are to be seen."""
CORE = ("l0", "loss_recovered[ablation=mean]", "fvu", "kl", "frac_alive")


def table(records: Sequence[Record], metrics: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """One row a record: coder, architecture, baseline, eval, setting, then the Score (or None) of each metric's full name.

    `metrics` defaults to every score without a dataset. `UnknownName` for a name that no record has.
    """
    known = list(dict.fromkeys(s.spec for r in records for s in r.scores))
    wanted = [s for s in known if "dataset=" not in s] if metrics is None else list(metrics)
    for spec in wanted:
        if spec not in known:
            raise UnknownName.among("metric", spec, known, more=LISTED)
    return [who(r) | {spec: r.score(spec) for spec in wanted} for r in records]


WHO = ("coder", "architecture", "baseline", "eval", "setting")


NUMBERS = {"metric": "string", "value": "double", "low": "double", "high": "double", "n": "int64", "reason": "string"}
COLUMNS = {name: "bool" if name == "baseline" else "string" for name in WHO} | NUMBERS
"""Columns of a line of csv or parquet before those of `beside`, with their Arrow types."""


def who(r: Record) -> dict[str, Any]:
    """What a row of a table begins with: `WHO`."""
    about = {"architecture": r.about.get("architecture"), "baseline": bool(r.about.get("baseline"))}
    return {"coder": r.coder} | about | {"eval": r.eval, "setting": r.setting}


def export(
    records: Sequence[Record],
    format: Literal["csv", "json", "markdown", "parquet"],
    metrics: Sequence[str] | None = None,
    beside: Beside = nothing,
) -> str | bytes:
    """All scores: csv or parquet (one line a score), json (whole records, an array), or a markdown table (one line a record).

    `beside`: further columns of a line of csv or parquet, such as those of `compare.beside`. Text, or for parquet bytes.
    """
    if format == "json":
        return codec.to_json([codec.to_data(r) for r in records]) + "\n"
    rows = table(records, metrics)
    if format == "csv":
        return _csv(_lines(records, rows, beside))
    if format == "parquet":
        return _parquet(_lines(records, rows, beside))
    if format == "markdown":
        return _markdown(rows)
    raise UnknownName.among("export format", format, ["csv", "json", "markdown", "parquet"])


def _lines(records: Sequence[Record], rows: Sequence[Mapping[str, Any]], beside: Beside) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for record, row in zip(records, rows, strict=True):
        for s in (v for v in row.values() if isinstance(v, Score)):
            numbers = {"metric": s.spec, "value": s.value, "low": s.low, "high": s.high, "n": s.n, "reason": s.reason}
            lines.append({w: row[w] for w in WHO} | numbers | dict(beside(record, s)))
    return lines


def _csv(lines: Sequence[Mapping[str, Any]]) -> str:
    out = io.StringIO()
    names = list(dict.fromkeys([*COLUMNS, *(name for line in lines[:1] for name in line)]))
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def _parquet(lines: Sequence[Mapping[str, Any]]) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    kinds = COLUMNS | {
        name: pa.infer_type([line[name] for line in lines]) for name in (lines[0] if lines else ()) if name not in COLUMNS
    }
    schema = pa.schema([(name, pa.type_for_alias(kind) if isinstance(kind, str) else kind) for name, kind in kinds.items()])
    out = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist([dict(line) for line in lines], schema=schema), out)
    return out.getvalue()


def _markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return "No results.\n"
    names = [n for n in rows[0] if n not in ("baseline", "setting")]
    lines = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    lines += ["| " + " | ".join(cell(row[n]) for n in names) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def cell(value: Any) -> str:
    """A value for people: `0.934 (0.921 to 0.947)`."""
    if isinstance(value, Score | Interval):
        if value.value is None or value.low is None or value.high is None:
            return "–" if value.value is None else f"{value.value:.3g}"
        return f"{value.value:.3g} ({value.low:.3g} to {value.high:.3g})"
    return "–" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


# ---- comparisons ---------------------------------------------------------------------------------------------------------------


def recovered(s: statistics.Sums) -> np.ndarray:
    """Loss recovered against mean ablation, from sums over documents."""
    return (s["mean"] - s["spliced"]) / (s["mean"] - s["clean"])


def fvu(s: statistics.Sums) -> np.ndarray:
    """Fraction of variance unexplained, from sums over documents."""
    return s["se"] / s["variance"]


def combination(
    records: Sequence[Record], of: Callable[[np.ndarray], np.ndarray], statistic: statistics.Statistic = recovered
) -> Interval:
    """`of` the records' values [..., records], *paired*: `core` records of one setting, all under the same drawings of documents.

    `lambda v: v[..., 0] - v[..., 1]` compares two coders; `statistics.interpolate` goes along a sweep.
    """
    if len({r.setting for r in records}) != 1:
        raise BadInput(
            "Only records of one setting can be compared: evaluate the coders with the same model, text and settings."
        )
    parts = {(i, k): np.asarray(v) for i, r in enumerate(records) for k, v in r.details["blocks"].items()}

    def value(s: Mapping[Any, np.ndarray]) -> np.ndarray:
        each = [statistic({k: v for (which, k), v in s.items() if which == i}) for i in range(len(records))]
        return of(np.stack(each, axis=-1))

    return statistics.bootstrap(value, parts, numpy_generator("compare", records[0].setting))  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class Place:
    """One row of the leaderboard."""

    record: Record
    l0: float
    rival: str | None
    """The strongest baseline architecture that reaches this L0."""
    rival_value: float | None
    """Its loss recovered, interpolated to this L0 (`statistics.interpolate`)."""
    advantage: Interval | None
    """Loss recovered minus the rival's, paired over documents; None where no baseline reaches this L0."""


def leaderboard(records: Iterable[Record]) -> list[Place]:
    """`core` records, setting by setting: trained coders by their advantage over the strongest baseline *at their own L0*, then
    those no baseline reaches by loss recovered, then the baselines. One L0 is never compared with another.

    Imported records stand in settings of their own, without an advantage, by the loss recovered that they have.
    """
    spec, other = "loss_recovered[ablation=mean]", "loss_recovered[ablation=zero_everywhere]"
    rows = [r for r in latest(records) if r.eval == "core" and r.value("l0") is not None]
    rows = [r for r in rows if r.value(spec) is not None or r.about.get("origin")]
    places = [_place(r, [o for o in rows if o.setting == r.setting and o.about.get("baseline")]) for r in rows]

    def rank(p: Place) -> tuple[Any, ...]:
        gain = None if p.advantage is None else p.advantage.value
        return (
            p.record.setting,
            bool(p.record.about.get("baseline")),
            gain is None,
            -(gain or 0.0),
            -(p.record.value(spec) or p.record.value(other) or 0.0),
        )

    return sorted(places, key=rank)


def _place(r: Record, baselines: Sequence[Record]) -> Place:
    l0, spec = r.value("l0") or 0.0, "loss_recovered[ablation=mean]"
    best: tuple[float, str, list[Record]] | None = None
    own = {r.about["architecture"]} if r.about.get("baseline") else set()
    baselines = [o for o in baselines if "blocks" in o.details]  # else there is nothing to pair
    for name in sorted({o.about["architecture"] for o in baselines} - own):
        sweep = [o for o in baselines if o.about["architecture"] == name]
        value = along(sweep, l0)(np.array([o.value(spec) for o in sweep]))
        if value is not None and (best is None or value > best[0]):
            best = float(value), name, sweep
    if best is None:
        return Place(record=r, l0=l0, rival=None, rival_value=None, advantage=None)
    rival = along(best[2], l0)
    advantage = combination([r, *best[2]], lambda v: v[..., 0] - rival(v[..., 1:]))
    return Place(record=r, l0=l0, rival=best[1], rival_value=best[0], advantage=advantage)


def along(sweep: Sequence[Record], at: float) -> Callable[[np.ndarray], Any]:
    """From values [..., records] of a sweep of `core` records to the value at the L0 `at`, or None where they do not reach it."""
    l0 = [r.value("l0") or 0.0 for r in sweep]
    return lambda values: statistics.interpolate(l0, values, at)
