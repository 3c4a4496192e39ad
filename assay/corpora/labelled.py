"""Labelled text for probing: the 133 classification sets of sae-probes (`probe:92`), or a file with a label column.

The sets come as they were published: many rows are exact copies of others, and some texts carry two labels, so that a random
split leaks up to nine tenths of the test rows into training. `unique=True` (default) keeps the first of equal texts and drops those
with contradicting labels; `unique=False` gives every row, to reproduce published numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from assay.corpora import documents
from assay.corpora.base import Document
from assay.corpora.text import files_fingerprint, known_encoding
from assay.errors import BadInput, UnknownName

MAX_CLASSES = 1000
SHIFTED = "_OOD"


class LabelledCorpus:
    """Texts with a class each. `Document.label` counts the sorted `classes`: 0, 1, …"""

    def __init__(
        self, path: str | Path, *, column: str | None = None, label: str = "label", unique: bool = True, encoding: str = "utf-8"
    ):
        self.name = f"labelled:{path}"
        self.path = Path(path).expanduser()
        self.files = documents.files(self.path)
        self.settings: dict[str, Any] = {
            "column": column,
            "label": label,
            "unique": unique,
            "encoding": known_encoding(encoding),
        }

    @classmethod
    def parse(cls, ref: str, *, unique: bool = True, encoding: str = "utf-8") -> LabelledCorpus:
        """From FILE[:column[:label]]; an empty part means the default."""
        path, column, label, *more = [*ref.split(":"), "", ""]
        if any(more) or not path:
            raise BadInput(f"{ref!r} names no labelled file. Write labelled:FILE[:column[:label]].")
        return cls(path, column=column or None, label=label or "label", unique=unique, encoding=encoding)

    @classmethod
    def probe(cls, name: str, *, unique: bool = True) -> LabelledCorpus:
        """A set of sae-probes by number (92), tag (glue_sst2) or both (92_glue_sst2). Fetches the carrier when it is missing.

        With _OOD after it (66_OOD): examples of the same question from elsewhere, for the eight sets that have them.
        """
        elsewhere = name.endswith(SHIFTED)
        found, short = shifted_files() if elsewhere else probe_files(), name.removesuffix(SHIFTED)
        stem = next((s for s in found if short in (s, *s.split("_", 1))), None)
        if stem is None:
            raise UnknownName.among("probing set", name, [s + SHIFTED * elsewhere for s in found])
        if probe_kinds()[stem] == "Continuous Data":
            raise BadInput(
                f"probe:{stem} has numbers to predict, not classes. Choose a set with classes, e.g. probe:92_glue_sst2."
            )
        corpus = cls(found[stem], column="prompt", label="target", unique=unique)
        corpus.name = f"probe:{stem}{SHIFTED * elsewhere}"
        return corpus

    def published(self) -> LabelledCorpus:
        """The same with every row as it was published: `unique=False`."""
        s = self.settings
        twin = LabelledCorpus(self.path, column=s["column"], label=s["label"], unique=False, encoding=s["encoding"])
        twin.name = self.name
        return twin

    @cached_property
    def fingerprint(self) -> str:
        """Over the contents of the files and the settings."""
        return files_fingerprint(self.path, self.files, self.settings)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their numbers. Reads the corpus once."""
        return self._survey[0]

    @property
    def dropped(self) -> dict[str, int]:
        """Rows that `unique` leaves out: later copies of a text, and all rows of texts with contradicting labels."""
        return self._survey[2]

    def documents(self) -> Iterator[Document]:
        """Each labelled text in turn."""
        classes, keep, _ = self._survey
        number = {name: i for i, name in enumerate(classes)}
        for kept, (text, value) in zip(keep, self._rows()):
            if kept:
                yield Document(text, number[str(value)])

    def _rows(self) -> Iterator[documents.Row]:
        s = self.settings
        for file in self.files:
            for text, value in documents.rows(file, s["column"], s["label"], encoding=s["encoding"]):
                if value is None or value == "":
                    raise BadInput(
                        f"{file} has a row without a value in {s['label']!r} (text: {text[:40]!r}). Fill or remove it."
                    )
                yield text, value

    @cached_property
    def _survey(self) -> tuple[tuple[str, ...], bytearray, dict[str, int]]:
        """(classes, a byte a row: kept or not, dropped). Memory: 16 bytes and some a row, never the texts."""
        first: dict[bytes, tuple[int, str]] = {}
        contradicted: set[bytes] = set()
        keys: list[bytes] = []
        classes: set[str] = set()
        for row, (text, value) in enumerate(self._rows()):
            key = hashlib.sha256(text.encode()).digest()[:16]
            _, name = first.setdefault(key, (row, str(value)))
            keys.append(key)
            classes.add(str(value))
            if name != str(value):
                contradicted.add(key)
            if len(classes) > MAX_CLASSES:
                raise BadInput(
                    f"{self.name}: column {self.settings['label']!r} has over {MAX_CLASSES} different values: not classes."
                )
        if not self.settings["unique"]:
            return _sorted(self.name, classes), bytearray(b"\1" * len(keys)), {"copies": 0, "contradicting": 0}
        keep = bytearray(first[key][0] == row and key not in contradicted for row, key in enumerate(keys))
        against = sum(key in contradicted for key in keys)
        return _sorted(self.name, classes), keep, {"copies": len(keys) - against - sum(keep), "contradicting": against}


def _sorted(corpus: str, names: set[str]) -> tuple[str, ...]:
    """Class names in numeric order when all are whole numbers, else in that of the alphabet."""
    if names and all(documents.is_number(n) for n in names):
        if not all(n.lstrip("-").isdigit() for n in names):
            raise BadInput(
                f"{corpus}: labels such as {min(names)!r} are measurements, not classes. Choose another label column."
            )
        return tuple(sorted(names, key=int))
    return tuple(sorted(names))


def probe_files() -> dict[str, Path]:
    """The sets of sae-probes, e.g. "92_glue_sst2", and their files, in numeric order. Fetches the carrier when it is missing."""
    found = {p.name.removesuffix(".csv.zst"): p for p in (_probe_data() / "cleaned_data").glob("*.csv.zst")}
    return dict(sorted(found.items(), key=lambda item: int(item[0].split("_")[0])))


def shifted_files() -> dict[str, Path]:
    """The sets of sae-probes that have examples from elsewhere, e.g. "66_living-room", and the files with these."""
    found = {p.name.removesuffix(f"{SHIFTED}.csv.zst"): p for p in (_probe_data() / "OOD data").glob(f"*{SHIFTED}.csv.zst")}
    return dict(sorted(found.items(), key=lambda item: int(item[0].split("_")[0])))


def _probe_data() -> Path:
    from assay import assets

    return assets.fetch("sae-probes") / "sae_probes" / "data"


def probe_kinds() -> dict[str, str]:
    """What the collection's own index says each set is: "Binary Classification", "Multiclass Classification", "Continuous Data"."""
    index = documents.rows(_probe_data() / "probing_datasets_MASTER.csv.zst", "Dataset save name", "Data type")
    return {Path(file).stem: kind for file, kind in index}
