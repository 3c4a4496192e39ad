"""writing: files in SAEBench's schema of our records: EVAL/NAME_custom_sae_eval_results.json.

Only what is SAEBench's quantity goes out under its name (see `fields`). What is missing is null, or where its schema asks for a number −1,
as SAEBench itself writes. `eval_result_unstructured` says what was left out and why, where an estimate differs, and the intervals, for which
the schema has no place.
"""

from __future__ import annotations

import datetime
import re
import statistics
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from assay import codec
from assay.errors import AssayError, BadInput
from assay.formats.saebench.fields import ARCHITECTURES, OWN, SHEETS, Sheet, field_of, metrics_of, parsed, schemas
from assay.formats.saebench.reading import COUNT, MARK, ORIGIN
from assay.models.base import Site
from assay.results import Record, Score
from assay.store import write_atomic

HOOKS = {"attn_z": "attn.hook_z", "mlp_in": "mlp.hook_in"}
"""TransformerLens' names of sites that are not hook_KIND."""
MISSING = -1
"""SAEBench's own mark for a number that it does not have."""
DETAILS = {"total_tokens_eval_reconstruction": "predicted", "total_tokens_eval_sparsity_variance": "tokens"}
"""Metrics of SAEBench that we keep among the details."""
CORE_SETTINGS = dict.fromkeys(
    (
        *(f"compute_{k}" for k in ("kl", "ce_loss", "l2_norms", "sparsity_metrics", "variance_metrics")),
        "exclude_special_tokens_from_reconstruction",
    ),
    True,
)
LISTS: dict[str, Callable[[str], Any]] = {"dataset_names": str, "k_values": int, "n_values": int}
"""Settings that are lists there and text with commas here."""
ROWS = {"dataset": "dataset_name", "letter": "first_letter"}
"""What a row of the details is about, by our name of the dimension."""


def write(records: Sequence[Record], directory: Path) -> tuple[list[Path], dict[str, str]]:
    """(files written, why each other record was not). Of several records of one eval and coder the latest is."""
    ready: dict[Path, tuple[Record, dict[str, Any]]] = {}
    left: dict[str, str] = {}
    for record in sorted(records, key=lambda r: (r.made.at, r.key), reverse=True):
        name = f"{record.eval} of {record.coder}"
        try:
            eval_id, data = document(record)
        except BadInput as error:
            left[name] = str(error)
            continue
        path = directory / eval_id / file_name(data)
        if path in ready:
            left[f"{name} ({record.setting})"] = (
                f"SAEBench has one file for it, which holds the later setting {ready[path][0].setting}. Choose one with --setting."
            )
            continue
        ready[path] = record, data
    for path, (_, data) in ready.items():
        write_atomic(path, codec.to_json(data) + "\n")
    return sorted(ready), left


def file_name(data: Mapping[str, Any]) -> str:
    """As SAEBench names it, without what is no part of a file name."""
    parts = [p for p in (data["sae_lens_release_id"], data["sae_lens_id"]) if p]
    return re.sub(r"[^\w.+=-]", "_", "_".join(parts))[:220].lstrip(".") + "_eval_results.json"


def document(record: Record) -> tuple[str, dict[str, Any]]:
    """(eval_type_id, the file's data) of a record. `BadInput` where SAEBench has no such eval, or the record none of its numbers."""
    eval_id = next((id_ for id_, sheet in SHEETS.items() if sheet.eval == record.eval and id_ in schemas()), None)
    if eval_id is None:
        raise BadInput(f"SAEBench has no eval like {record.eval}.")
    writer = _Writer(record, SHEETS[eval_id])
    metrics = {
        category: {n: writer.value(n, *kind) for n, kind in fields.items()} for category, fields in metrics_of(eval_id).items()
    }
    if not writer.found:
        raise BadInput("; ".join(dict.fromkeys(writer.reasons)) or "None of SAEBench's metrics is there.")
    imported, origin = writer.imported, record.details.get("origin", {})
    said = {"left_out": writer.left_out, "differs": writer.differs, "intervals": writer.intervals}
    data = {
        "eval_type_id": eval_id, "eval_config": dict(record.config) if imported else _config(record, writer.sheet),
        "eval_id": origin.get("eval_id") or str(uuid.uuid5(uuid.NAMESPACE_URL, f"assay:{record.key}")),
        "datetime_epoch_millis": int(datetime.datetime.fromisoformat(record.made.at).timestamp() * 1000),
        "eval_result_metrics": metrics, "eval_result_details": writer.rows(eval_id),
        "sae_bench_commit_hash": origin.get("sae_bench_commit_hash") or f"assay-sae {record.made.package}",
        "sae_lens_id": origin.get("sae_lens_id") if imported else "custom_sae",
        "sae_lens_release_id": origin.get("sae_lens_release_id") or record.coder.removeprefix(MARK),
        "sae_lens_version": record.made.versions.get("sae_lens"),
        "sae_cfg_dict": record.details.get("sae_cfg_dict") if imported else _cfg(record),
        "eval_result_unstructured": None if imported else {"assay": {k: v for k, v in said.items() if v}},
    }  # fmt: skip
    return eval_id, data


class _Writer:
    """Takes from a record what goes out under SAEBench's names, and notes what does not."""

    def __init__(self, record: Record, sheet: Sheet):
        self.sheet, self.imported, self.details = sheet, record.about.get("origin") == ORIGIN, record.details
        self.index = {(s.metric, frozenset(s.where.items())): s for s in record.scores}
        self.found, self.reasons = 0, list[str]()
        self.left_out: dict[str, str] = {}
        self.differs: dict[str, str] = {}
        self.intervals: dict[str, list[Any]] = {}

    def value(self, name: str, needed: bool, kind: str) -> float | int | None:
        """What stands under a name: null, or −1 where SAEBench's schema asks for a number, for what is missing."""
        field, score = field_of(self.sheet, name), self.score(name)
        value = self.details.get(DETAILS.get(name, "")) if score is None else score.value
        if value is None:
            if score is not None and score.reason:
                self.reasons.append(score.reason)
            absent = f"Not computed. {field.note}".strip() if field.ours else field.note
            self.left_out[name] = (score and score.reason) or absent
            return MISSING if needed else None
        if score is not None:
            self.found += 1
            if field.note:
                self.differs[name] = field.note
            if score.low is not None:
                self.intervals[name] = [score.low, score.high, score.n]
        return int(value) if kind == "integer" else value

    def score(self, name: str, **where: str) -> Score | None:
        """The score that goes out under a name: ours, or what came in under it."""
        field = field_of(self.sheet, name)
        if field.ours is None or (self.imported and not field.same):
            return self.index.get((name + OWN, frozenset(where.items())))
        metric, more = parsed(field.ours)
        if over := more.pop("std", None):
            return self._spread(metric, over)
        return self.index.get((metric, frozenset((where | more).items())))

    def _spread(self, metric: str, over: str) -> Score | None:
        """Sample standard deviation of a metric over the values of a dimension."""
        values = [s.value for (m, where), s in self.index.items() if m == metric and {k for k, _ in where} == {over}]
        there = [v for v in values if v is not None]
        return Score(metric=metric, value=statistics.stdev(there)) if len(there) > 1 else None

    def rows(self, eval_id: str) -> list[dict[str, Any]]:
        """Details, by dataset or letter; those that lack a number that they must have are left out."""
        items = schemas()[eval_id]["properties"]["eval_result_details"].get("items", {})
        shape = schemas()[eval_id]["$defs"][items["$ref"].rsplit("/", 1)[-1]] if items else {}
        by = next((by for by, name in ROWS.items() if name in shape.get("properties", ())), None)
        if by is None:
            return []
        found = []
        for place in dict.fromkeys(dict(where)[by] for _, where in self.index if by in dict(where)):
            row = {name: self._part(name, by, place) for name in shape["properties"]}
            found += [row] if all(row[name] is not None for name in shape["required"]) else []
        return found

    def _part(self, name: str, by: str, place: str) -> Any:
        """One field of a row of the details."""
        if name == ROWS[by]:
            return place if by == "letter" else f"{place}_results"
        if name in (COUNT, "num_full_absorption"):
            rate = self.score("mean_full_absorption_score", letter=place)
            if rate is None or rate.value is None or rate.n is None:
                return None
            return rate.n if name == COUNT else round(rate.value * rate.n)
        score = self.score(self.sheet.rows.get(name, name), **{by: place})
        value = None if score is None else score.value
        return int(value) if name.startswith("num_") and value is not None else value


def _config(record: Record, sheet: Sheet) -> dict[str, Any]:
    """SAEBench's settings as far as ours say the same; ours whole under `assay`."""
    found: dict[str, Any] = {"model_name": str(record.about.get("model"))}
    if "dtype" in record.inputs:
        found["llm_dtype"] = record.inputs["dtype"]
    if sheet.eval == "core":
        found |= CORE_SETTINGS | {"dataset": f"assay:{record.inputs.get('text', 'unknown')}"}
    found |= {theirs: record.config[ours] for theirs, ours in sheet.settings.items() if ours in record.config}
    for name, kind in LISTS.items():
        if name in found:
            found[name] = [kind(part.strip()) for part in str(found[name]).split(",") if part.strip()]
    whole = {"eval": record.eval, "version": record.eval_version, "config": dict(record.config), "inputs": dict(record.inputs)}
    return found | {"assay": whole}


def _cfg(record: Record) -> dict[str, Any]:
    about = record.about
    names = {ours: theirs for theirs, ours in reversed(ARCHITECTURES.items())}
    site = _site(about.get("site"))
    return {
        "architecture": names.get(about["architecture"], about["architecture"]), "d_in": about.get("d_in"), "d_sae": about.get("d_sae"),
        "model_name": about.get("model"), "hook_name": site and f"blocks.{site.layer}.{HOOKS.get(site.kind, f'hook_{site.kind}')}",
        "hook_layer": site and site.layer,
    }  # fmt: skip


def _site(text: Any) -> Site | None:
    try:
        return Site.parse(str(text))
    except AssayError:
        return None
