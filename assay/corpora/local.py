"""Looking through a corpus, and keeping a copy of it: what it holds, what is wrong with it, and the same without a network."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from assay.corpora.base import Corpus
from assay.errors import BadInput
from assay.progress import Progress, silent

ROWS = 4096  # of a copy that are written at once


@dataclass(frozen=True)
class Survey:
    """What a corpus holds."""

    documents: int
    characters: int
    longest: int
    """Characters of the longest document."""
    copies: int
    """Documents whose text occurs before."""
    contradicting: int
    """Documents whose text occurs with more than one class."""
    classes: dict[str, int]
    """Documents of each class; empty where there are no classes."""

    @property
    def leak(self) -> float:
        """Share of documents that a split by rows could put on both sides."""
        return (self.copies + self.contradicting) / max(self.documents, 1)


def survey(corpus: Corpus, limit: int | None = None, progress: Progress = silent) -> Survey:
    """Read a corpus (its first `limit` documents) once. `BadInput` where it holds nothing, or labels only here and there."""
    seen: dict[bytes, int | None] = {}
    against: set[bytes] = set()
    labels: Counter[int] = Counter()
    documents = characters = longest = copies = 0
    for documents, document in enumerate(islice(corpus.documents(), limit), 1):
        characters, longest = characters + len(document.text), max(longest, len(document.text))
        key = hashlib.sha256(document.text.strip().encode()).digest()[:16]
        copies += key in seen
        if seen.setdefault(key, document.label) != document.label:
            against.add(key)
        if document.label is not None:
            labels[document.label] += 1
        if documents % ROWS == 0:
            progress(documents, limit, "documents")
    if not documents:
        raise BadInput(f"{corpus.name} has no documents.")
    if labels and sum(labels.values()) != documents:
        raise BadInput(f"{corpus.name}: {documents - sum(labels.values())} of {documents} documents have no label.")
    dropped = getattr(corpus, "dropped", {"copies": 0, "contradicting": 0})  # what a labelled corpus leaves out by itself
    names = getattr(corpus, "classes", ())
    classes = {str(names[label]) if label < len(names) else str(label): n for label, n in sorted(labels.items())}
    total = documents + dropped["copies"] + dropped["contradicting"]
    return Survey(
        total, characters, longest, copies + dropped["copies"], len(against) + dropped["contradicting"], classes
    )  # fmt: skip


def save(corpus: Corpus, folder: Path, limit: int | None = None, progress: Progress = silent) -> tuple[Path, str]:
    """Copy a corpus (its first `limit` documents) into a Parquet file of `folder`; (file, reference by which it is read).

    Columns `text` and, of a labelled corpus, `label` with the names of the classes. The file appears when it is whole.
    """
    import pyarrow as pa
    from pyarrow import parquet

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (re.sub(r"[^\w.-]+", "-", corpus.name).strip("-") + ".parquet")
    names, labelled, draft = getattr(corpus, "classes", ()), False, path.with_name(f".{path.name}.part")

    def rows() -> Iterator[dict[str, str | None]]:
        for i, document in enumerate(islice(corpus.documents(), limit), 1):
            label = document.label
            yield {
                "text": document.text,
                "label": None if label is None else str(names[label]) if label < len(names) else str(label),
            }
            if i % ROWS == 0:
                progress(i, limit, "documents")

    source, written = rows(), 0
    try:
        with parquet.ParquetWriter(draft, pa.schema([("text", pa.string()), ("label", pa.string())])) as writer:
            while some := list(islice(source, ROWS)):
                labelled = labelled or some[0]["label"] is not None
                writer.write_table(pa.Table.from_pylist(some, schema=writer.schema))
                written += len(some)
        if not written:
            raise BadInput(f"{corpus.name} has no documents to copy.")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return path, f"labelled:{path}:text:label" if labelled else str(path)
