"""Corpus: an ordered, re-readable collection of documents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True)
class Document:
    """One text, with a class where the corpus is labelled."""

    text: str
    label: int | None = None


@runtime_checkable
class Corpus(Protocol):
    """Documents in a fixed order."""

    @property
    def name(self) -> str:
        """What a person calls it."""
        ...

    @property
    def fingerprint(self) -> str:
        """Identity of the contents, 16 hex digits: file hashes, a hub revision, a carrier's version."""
        ...

    def documents(self) -> Iterator[Document]:
        """All documents, from the first, each time it is called. Bounded memory."""
        ...
