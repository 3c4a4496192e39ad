"""published: what a release says of its own coders, as records that stand beside ours, marked.

From a release's name (L0), dictionary_learning's eval_results.json, SAEBench's files, and the results.json that `assay push` writes. The
coder of such a record is called `published:NAME`, its `about["origin"]` says who measured, and it is of a setting of its own, so that nothing
pairs it with a record of ours. What another library means by a name stands under `NAME@library` where ours means something else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from assay import codec, provenance, results
from assay.errors import AssayError, BadInput
from assay.formats.files import json_of
from assay.formats.saebench import reading
from assay.releases.references import Located
from assay.results import Record, Score
from assay.store import Store, digest

MARK = "published:"
EPOCH = "1970-01-01T00:00:00+00:00"  # of figures that say no time: the same file gives the same record
DICTIONARY_LEARNING = {
    "l0": "l0", "l1_loss": "l1", "cossim": "cosine_similarity", "relative_reconstruction_bias": "relative_reconstruction_bias",
    "loss_original": "ce_loss_clean", "loss_reconstructed": "ce_loss_spliced",
    "loss_zero": "ce_loss_ablated[ablation=zero_everywhere]", "frac_recovered": "loss_recovered[ablation=zero_everywhere]",
    "frac_alive": "frac_alive", "frac_variance_explained": "frac_variance_explained@dictionary_learning",
    "l2_loss": "l2_loss@dictionary_learning", "l2_ratio": "l2_ratio@dictionary_learning",
}  # fmt: skip
"""Fields of its eval_results.json, all of them means over batches, and our names. Its explained variance is of centred errors."""


def records(name: str, hash_: str, about: Mapping[str, Any], located: Located) -> tuple[list[Record], list[str]]:
    """(records of what a release says of the coder kept as `name`, what could not be read). `about`: what records say of it."""
    found, left = [], []
    said = {"model": located.about.get("model", {}).get("name"), "site": located.about.get("site")} | {
        key: value for key, value in about.items() if value is not None
    }
    if located.l0 is not None:
        where = {"reference": located.ref}
        found.append(_core(name, hash_, said, "release", [Score(metric="l0", value=located.l0)], where))
    for path in located.beside:
        try:
            found += _of_file(name, hash_, said, path)
        except AssayError as error:
            left.append(str(error))
    return found, left


def keep(store: Store, found: Sequence[Record]) -> None:
    """Put them into a store; those that are there already stay as they are."""
    for record in found:
        if results.find(store, record.eval, record.key) is None:
            results.write(store, record)


def _of_file(name: str, hash_: str, said: Mapping[str, Any], path: Path) -> list[Record]:
    if path.name == "eval_results.json":
        return [_core(name, hash_, said, "dictionary_learning", _dictionary_learning(path), {"file": path.name})]
    if path.name == "results.json":
        return [_marked(record, name, hash_, record.about.get("origin") or "Assay") for record in _ours(path)]
    return [_marked(reading.read(path), name, hash_, reading.ORIGIN)]


def _dictionary_learning(path: Path) -> list[Score]:
    data, scores = json_of(path), []
    for field, spec in DICTIONARY_LEARNING.items():
        value = data.get(field)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            metric, _, inner = spec.removesuffix("]").partition("[")
            scores.append(Score(metric=metric, value=float(value), where=dict([inner.split("=")]) if inner else {}))
    if not scores:
        raise BadInput(f"{path} holds none of the figures that dictionary_learning writes ({', '.join(DICTIONARY_LEARNING)}).")
    return scores


def _ours(path: Path) -> list[Record]:
    """Records that Assay wrote, as strangers may have altered them."""
    data = json_of(path).get("records")
    if not isinstance(data, list) or not all(isinstance(one, dict) for one in data):
        raise BadInput(f"{path} holds no list of Assay's records.")
    found = [codec.from_data(Record, codec.migrate("record", one, path), path) for one in data]
    if bad := [r.eval for r in found if not r.eval.isidentifier() or len(r.eval) > 100]:
        raise BadInput(f"{path}: {bad[0][:40]!r} is no eval's name.")
    return found


def _core(
    name: str, hash_: str, said: Mapping[str, Any], origin: str, scores: list[Score], details: Mapping[str, Any]
) -> Record:  # fmt: skip
    made = provenance.Made(package="none", git=None, at=EPOCH, device="unknown", python="unknown", versions={})
    empty = Record(
        schema=codec.SCHEMAS["record"], key="", coder=name, coder_hash="", eval="core", eval_version=0, config={}, inputs={},
        about=dict(said), scores=scores, details=dict(details), made=made,
    )  # fmt: skip
    return _marked(empty, name, hash_, origin)


def _marked(record: Record, name: str, hash_: str, origin: str) -> Record:
    """A record of somebody else's, as one of the coder `name`: of another identity, setting and name than ours."""
    other = digest([MARK, origin, hash_])
    inputs = {"origin": origin, **record.inputs}
    key = results.key(other, record.eval, record.eval_version, record.config, inputs)
    return replace(
        record, coder=MARK + name, coder_hash=other, inputs=inputs, key=key, about=record.about | {"origin": origin},
        details=record.details | {"of": {"coder": name, "hash": hash_}},
    )  # fmt: skip
