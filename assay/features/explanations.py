"""Explanations: what models or rules say a latent means, with scores. Files beside the harvests, that grow in number, not in size.

STORE/explanations/CODER/NAME.parquet      one run of one method; NAME is free
    latent int32, text, method, model, at: strings; score_KIND: floats, one column a kind of score (score_detection …)
    metadata of the file: coder = the hash of the coder that was explained

A latent may have any number of explanations. People's own labels are notes (assay.notes), not explanations.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from assay.errors import BadInput, DamagedFile
from assay.store import NAME, Store, write_atomic

FOLDER = "explanations"
GROUP = 1024  # latents in a row group
SCORE = "score_"
WORDS = ("text", "method", "model", "at")


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What a latent is said to mean."""

    latent: int
    text: str
    method: str
    """How it was made, e.g. "detection prompts" or "commonest token"."""
    model: str = ""
    """Who wrote it, where a model did."""
    at: str = ""
    """When, ISO 8601."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """By kind of score."""
    coder_hash: str = ""
    """Of the coder that was explained."""
    run: str = ""
    """Name of the file."""


def folder(store: Store, coder: str) -> Path:
    """Where the explanations of a coder lie, or would."""
    return store.root / FOLDER / store.path("coders", coder).name


def read(store: Store, coder: str, latent: int | None = None) -> list[Explanation]:
    """The explanations of a coder, or of one of its latents: by run, then by latent."""
    found: list[Explanation] = []
    for path in sorted(folder(store, coder).glob("[!.]*.parquet")):
        try:
            table = pq.read_table(path, filters=None if latent is None else [("latent", "=", latent)], use_threads=False)
        except (pa.ArrowInvalid, OSError) as error:
            raise DamagedFile(f"{path} cannot be read ({error}). Delete it, and explain the coder again.") from None
        if missing := {"latent", "text"} - set(table.column_names):
            raise DamagedFile(f"{path} has no column {', '.join(sorted(missing))}: it holds no explanations.")
        of = (table.schema.metadata or {}).get(b"coder", b"").decode()
        found += (_explanation(row, of, path.stem) for row in table.to_pylist())
    return found


def write(store: Store, coder: str, run: str, explanations: Sequence[Explanation], coder_hash: str = "") -> Path:
    """A run's explanations as a file; an older one of that name is replaced."""
    if not NAME.fullmatch(run):
        raise BadInput(f"{run!r} cannot name a file. Use letters, digits and . _ + = -, at most 200, no leading dot.")
    rows = sorted(explanations, key=lambda e: e.latent)
    columns: dict[str, pa.Array] = {"latent": pa.array([e.latent for e in rows], pa.int32())}
    columns |= {name: pa.array([getattr(e, name) for e in rows], pa.string()) for name in WORDS}
    for kind in sorted({kind for e in rows for kind in e.scores}):
        columns[SCORE + kind] = pa.array([e.scores.get(kind) for e in rows], pa.float32())
    table = pa.table(columns).replace_schema_metadata({"coder": coder_hash})
    out, path = io.BytesIO(), folder(store, coder) / f"{run}.parquet"
    pq.write_table(table, out, compression="zstd", row_group_size=GROUP)
    write_atomic(path, out.getvalue())
    return path


def _explanation(row: Mapping, coder_hash: str, run: str) -> Explanation:
    scores = {k.removeprefix(SCORE): v for k, v in row.items() if k.startswith(SCORE) and v is not None and np.isfinite(v)}
    words = {name: str(row.get(name) or "") for name in WORDS}
    return Explanation(latent=row["latent"], scores=scores, coder_hash=coder_hash, run=run, **words)
