"""Local text: a file or a folder of .txt, .md, .jsonl, .json, .csv, .tsv, .parquet, each also as .gz or .zst."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from assay.corpora import documents
from assay.corpora.base import Document
from assay.errors import BadInput
from assay.store import digest, file_hash


class TextCorpus:
    """The documents of a file, or of all readable files below a folder in the order of their names.

    A .txt or .md file is one document unless `separator` divides it ("\\n\\n": blank lines); in the other kinds a document is a
    row, its text in `column` (default: `text`, else the first column of text). `documents` says more.
    """

    def __init__(self, path: str | Path, *, column: str | None = None, separator: str | None = None, encoding: str = "utf-8"):
        self.name = str(path)
        self.path = Path(path).expanduser()
        self.files = documents.files(self.path)
        self.settings = {"column": column, "separator": separator, "encoding": known_encoding(encoding)}
        if separator == "":
            raise BadInput("separator='' divides nothing. Give the text that stands between documents, or leave it out.")

    @cached_property
    def fingerprint(self) -> str:
        """Over the contents of all files and the settings: a file that moves as a whole keeps it."""
        return files_fingerprint(self.path, self.files, self.settings)

    def documents(self) -> Iterator[Document]:
        """Each document in turn. Memory: one document (one file, for .txt, .md and .json)."""
        settings = self.settings
        for file in self.files:
            column = settings["column"] if documents.kind(file) not in (".txt", ".md") else None
            for text, _ in documents.rows(
                file, column, separator=settings["separator"], encoding=settings["encoding"] or "utf-8"
            ):
                yield Document(text)


def files_fingerprint(root: Path, files: list[Path], settings: object) -> str:
    """16 hex digits over files' contents, their names below `root`, and how they are read."""
    names = [f.relative_to(root).as_posix() if f != root else f"*{documents.kind(f)}" for f in files]
    return digest({"files": [[name, file_hash(file)] for name, file in zip(names, files)], "settings": settings})[:16]


def known_encoding(name: str) -> str:
    """The standard name of a text encoding."""
    try:
        return codecs.lookup(name).name
    except LookupError:
        raise BadInput(f"No text encoding is called {name!r}. Examples: utf-8, windows-1252, utf-16.") from None
