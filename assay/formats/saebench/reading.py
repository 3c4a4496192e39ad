"""reading: records of result files that SAEBench has written, any of its evals, whatever version. Files are never trusted.

Every number keeps its meaning (see `fields`) and stands in a record of its own setting: no comparison pairs it with ours. Records are
marked: `about["origin"]` names the library, the coder's name begins with `saebench:`, and `details` say where it comes from.
"""

from __future__ import annotations

import datetime
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay import codec, provenance, registry, results
from assay.errors import AssayError, BadInput, DamagedFile, MissingFile, UnknownName
from assay.formats.saebench.fields import ARCHITECTURES, OWN, RENAMED, SHEETS, Sheet, field_of, parsed, rank
from assay.models.base import Site
from assay.results import Record, Score
from assay.store import digest

ORIGIN = "SAEBench"
MARK = "saebench:"
"""Begins the name of a coder whose results were imported."""
LARGEST = 1 << 28  # bytes of a file
DEEPEST = 12  # levels of lists and objects in what is kept
LONGEST = 300  # characters of a name
SPEED = {
    "verbose",
    "llm_batch_size",
    "sae_batch_size",
    "lower_vram_usage",
    "force_dataset_recompute",
    "save_metrics",
    "artifact_dir",
}
"""Settings of SAEBench that say how fast, not what: records that differ in them alone are of one setting."""
BASELINE = re.compile(r"(?:^|[_-])(pca|identity)(?:[_-]|$)")
COUNT = "num_probe_true_positives"
NO_SCORES = ("dataset_name", "first_letter", "sae_metrics_by_k", "num_full_absorption", COUNT)
CAVEATS = {
    ("core", "legacy"): "explained_variance of this file is the formula that later versions call explained_variance_legacy.",
    ("absorption", "legacy"): "This file predates the thresholds on absorption and the guard on the probes' F1.",
}


def read_all(path: Path) -> tuple[list[Record], dict[str, str]]:
    """(records of a file or of all .json files below a directory, why each other file was left out).

    Of several files of one coder, eval and configuration the latest counts. `MissingFile` where there is no such path or no file.
    """
    if not path.exists():
        raise MissingFile(f"{path} does not exist.")
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*.json") if p.is_file())
    if not files:
        raise MissingFile(f"{path} holds no .json files. SAEBench writes NAME_eval_results.json.")
    found: dict[str, tuple[Record, Path]] = {}
    left: dict[str, str] = {}
    for file in files:
        try:
            record = read(file)
        except AssayError as error:
            left[str(file)] = str(error)
            continue
        other = found.get(record.key)
        if other is not None and other[0].made.at >= record.made.at:
            left[str(file)] = f"{file}: {other[1]} has the same eval, coder and settings, and is not older."
            continue
        if other is not None:
            left[str(other[1])] = f"{other[1]}: {file} has the same eval, coder and settings, and is later."
        found[record.key] = record, file
    return [record for record, _ in found.values()], left


def read(path: Path) -> Record:
    """The record of one file. `DamagedFile` where it is no JSON, `BadInput` where a field is not what SAEBench writes."""
    try:
        data = _json(path)
        return _record(_object(data, "the file"), path.name)
    except RecursionError:
        raise DamagedFile(f"{path} is nested too deeply to be a result of SAEBench.") from None
    except _Wrong as error:
        raise BadInput(f"{path}: {error}") from None


def _json(path: Path) -> Any:
    try:
        if (size := path.stat().st_size) > LARGEST:
            raise DamagedFile(f"{path} has {size:,} bytes; no result of SAEBench is larger than {LARGEST:,}.")
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, no UTF-8, or a number of thousands of digits
        raise DamagedFile(f"{path} is not valid JSON ({error}): truncated or altered. Get it again.") from None
    except OSError as error:
        raise DamagedFile(f"{path} cannot be read ({error.strerror}).") from None


# ---- fields of a file ----------------------------------------------------------------------------------------------------------


class _Wrong(Exception):
    """A field that is not what it must be."""

    def __init__(self, field: str, got: Any, expected: str):
        text = repr(got)
        super().__init__(f"{field} is {text[:60] + '…' if len(text) > 60 else text}; expected {expected}.")


def _object(value: Any, field: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _Wrong(field, value, "an object")
    return value


def _text(value: Any, field: str) -> str:
    if not isinstance(value, str) or not value.isprintable() or len(value) > LONGEST:
        raise _Wrong(field, value, f"a text of at most {LONGEST} printable characters")
    return value


def _number(value: Any, field: str) -> float:
    try:
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _Wrong(field, value, "a finite number or null")
    return number


def _kept(value: Any, field: str, depth: int = 0) -> Any:
    """What goes into a record as it is: plain, finite, not deep."""
    if depth > DEEPEST:
        raise _Wrong(field, value, f"at most {DEEPEST} levels")
    if isinstance(value, dict):
        return {_text(k, f"a key of {field}"): _kept(v, f"{field}.{k}", depth + 1) for k, v in value.items()}
    if isinstance(value, list):
        return [_kept(v, f"{field}[{i}]", depth + 1) for i, v in enumerate(value)]
    if isinstance(value, float | int) and not isinstance(value, bool):
        _number(value, field)
    return value


# ---- the record ----------------------------------------------------------------------------------------------------------------


def _record(data: dict[str, Any], name: str) -> Record:
    eval_id = _text(data.get("eval_type_id"), "eval_type_id").lower()
    eval_id = RENAMED.get(eval_id, eval_id)
    if eval_id not in SHEETS:
        raise _Wrong("eval_type_id", eval_id, f"one of {', '.join(SHEETS)}")
    sheet = SHEETS[eval_id]
    given = _kept(_object(data.get("eval_config"), "eval_config"), "eval_config")
    metrics = _object(data.get("eval_result_metrics"), "eval_result_metrics")
    metrics = {k: _object(v, f"eval_result_metrics.{k}") for k, v in metrics.items()}
    formulas = _formulas(eval_id, metrics, given)
    reader = _Reader(sheet, formulas, ours=str(data.get("sae_bench_commit_hash")).startswith("assay"))
    scores = [*reader.metrics(metrics), *reader.details(data.get("eval_result_details"))]
    scores.sort(key=lambda s: rank(sheet, s.metric))
    if not any(s.value is not None for s in scores):
        raise _Wrong("eval_result_metrics", metrics, "a number in one of its categories")
    about, cfg = _about(data, given)
    origin = {"file": name, "eval_type_id": eval_id}
    origin |= {k: _optional(data, k) for k in ("eval_id", "sae_lens_release_id", "sae_lens_id", "sae_bench_commit_hash")}
    release, id_ = origin["sae_lens_release_id"] or name.removesuffix("_eval_results.json"), origin["sae_lens_id"]
    hash_ = digest([ORIGIN, release, id_])
    config = {k: v for k, v in given.items() if k not in SPEED}
    inputs = {"origin": ORIGIN, "model": about["model"], "site": about["site"]} | ({"formulas": formulas} if formulas else {})
    caveat = CAVEATS.get((sheet.eval, formulas))
    return Record(
        schema=codec.SCHEMAS["record"], key=results.key(hash_, sheet.eval, 0, config, inputs), coder_hash=hash_,
        coder=MARK + (release if id_ in (None, "custom_sae") else f"{release}/{id_}"), eval=sheet.eval, eval_version=0,
        config=config, inputs=inputs, about=about, scores=scores, made=_made(data),
        details={"origin": origin, "sae_cfg_dict": cfg} | ({"caveat": caveat} if caveat else {}),
    )  # fmt: skip


def _about(data: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a record says of its coder, and SAEBench's own configuration of it. Files of 2024 may lack that."""
    raw = data.get("sae_cfg_dict")
    cfg = {} if raw is None else _kept(_object(raw, "sae_cfg_dict"), "sae_cfg_dict")
    flat = _object(cfg.get("metadata") or {}, "sae_cfg_dict.metadata") | cfg
    model = flat.get("model_name") or config.get("model_name") or "unknown"
    named = _text(flat.get("architecture") or "", "sae_cfg_dict.architecture").lower()
    if not named and (found := BASELINE.search(str(data.get("sae_lens_release_id")).lower())):
        named = found[1]  # SAEBench leaves it empty for these
    architecture = ARCHITECTURES.get(named, named or "unknown")
    about = {"architecture": architecture, "baseline": architecture in registry.CODERS.names(tag="baseline")}
    for ours, theirs in (("d_in", "d_in"), ("d_out", "d_in"), ("d_sae", "d_sae")):
        about[ours] = None if flat.get(theirs) is None else int(_number(flat[theirs], f"sae_cfg_dict.{theirs}"))
    about |= {"model": _text(model, "sae_cfg_dict.model_name"), "site": _site(flat), "origin": ORIGIN}
    if isinstance(tokens := flat.get("training_tokens"), int) and tokens > 0:
        about["training_tokens"] = tokens
    return about, cfg


def _site(flat: Mapping[str, Any]) -> str:
    hook = _text(flat.get("hook_name") or "", "sae_cfg_dict.hook_name")
    try:
        return str(Site.parse(hook))
    except (BadInput, UnknownName):
        return hook or "unknown"


def _formulas(eval_id: str, metrics: Mapping[str, Mapping[str, Any]], config: Mapping[str, Any]) -> str:
    """Which meaning the names have that have changed theirs: "legacy" or "" (as in 0.6)."""
    quality = metrics.get("reconstruction_quality", {})
    if eval_id == "core" and "explained_variance" in quality and "explained_variance_legacy" not in quality:
        return "legacy"
    return "legacy" if eval_id == "absorption_first_letter" and "min_GT_probe_f1" not in config else ""


@dataclass(frozen=True)
class _Reader:
    """Makes scores of values."""

    sheet: Sheet
    formulas: str
    ours: bool
    """Whether Assay has written the file: then every name means ours."""

    def metrics(self, metrics: Mapping[str, Mapping[str, Any]]) -> Iterator[Score]:
        for category, values in metrics.items():
            for name, value in values.items():
                yield from self.score(name, value, f"eval_result_metrics.{category}.{name}")

    def details(self, rows: Any) -> Iterator[Score]:
        """Scores by dataset, pair of classes or letter. What core says of single latents is left."""
        if self.sheet.eval == "core" or rows is None:
            return
        if not isinstance(rows, list):
            raise _Wrong("eval_result_details", rows, "a list of objects or null")
        for i, row in enumerate(rows):
            place = f"eval_result_details[{i}]"
            where, n = _where(_object(row, place), place), row.get(COUNT)
            for name in (n for n in row if where and n not in NO_SCORES):
                count = None if n is None else int(_number(n, f"{place}.{COUNT}"))
                yield from self.score(self.sheet.rows.get(name, name), row[name], f"{place}.{name}", where, count)

    def score(
        self, name: str, value: Any, place: str, where: Mapping[str, str] | None = None, n: int | None = None
    ) -> Iterator[Score]:
        """The score of one value; none for null, which SAEBench writes for what was not asked for."""
        if value is None:
            return
        number = _number(value, place)
        meant = f"{name}_legacy" if self.formulas and f"{name}_legacy" in self.sheet.fields else name
        field = field_of(self.sheet, meant)
        metric, more = parsed(field.ours) if field.ours and (field.same or self.ours) else (meant + OWN, {})
        missing = self.sheet.minus_one and number == -1
        yield Score(
            metric=metric, value=None if missing else number, where={**(where or {}), **more}, n=n,
            reason="SAEBench wrote −1, its mark for a number that it does not have" if missing else None,
        )  # fmt: skip


def _where(row: Mapping[str, Any], place: str) -> dict[str, str]:
    """What a row of the details is about."""
    if "first_letter" in row:
        return {"letter": _text(row["first_letter"], f"{place}.first_letter")}
    if "dataset_name" not in row:
        return {}
    return {"dataset": _text(row["dataset_name"], f"{place}.dataset_name").removesuffix("_results")}


def _optional(data: Mapping[str, Any], key: str) -> str | None:
    return None if data.get(key) is None else _text(data[key], key)


def _made(data: Mapping[str, Any]) -> provenance.Made:
    """When SAEBench made it. Nothing of this moment, so that the same file gives the same record."""
    given = data.get("datetime_epoch_millis")
    millis = _number(
        int(given) if isinstance(given, str) and given.isdecimal() and len(given) < 14 else given, "datetime_epoch_millis"
    )
    if not 0 <= millis <= 9_999_999_999_999:
        raise _Wrong("datetime_epoch_millis", given, "milliseconds since 1970")
    at = datetime.datetime.fromtimestamp(millis // 1000, datetime.UTC).isoformat(timespec="seconds")
    versions = {
        k: v
        for k, v in (("sae_bench", _optional(data, "sae_bench_commit_hash")), ("sae_lens", _optional(data, "sae_lens_version")))
        if v
    }
    return provenance.Made(package="none", git=None, at=at, device="unknown", python="unknown", versions=versions)
