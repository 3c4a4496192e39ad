"""Labelled text by class: some classes of a corpus (`probe:97[Sport/Politics]`), and texts that have a class in two (`joint:A+B`).

    probe:97[Sport/Politics]                   these classes only, numbered in this order
    joint:probe:61+probe:56                    texts of both sets, by what both say of them: "0 & female", "0 & male", "1 & female", …
    joint:labelled:bios.csv:text:job[nurse/surgeon]+labelled:bios.csv:text:gender
                                               one file with two columns of labels

A text is the same where it is equal but for blanks around it. One that a set contradicts itself about is left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

from assay.corpora.base import Corpus, Document
from assay.corpora.documents import is_number
from assay.errors import BadInput, UnknownName
from assay.store import digest

AND = " & "
"""Stands between the two names of a joint class."""


class JointCorpus:
    """Texts that are in both of two labelled corpora, in the order of the first; each class is a pair of theirs.

    With n classes in the second, class i of the first and j of the second make class i · n + j.
    """

    def __init__(self, first: Corpus, second: Corpus):
        self.first, self.second = first, second
        self.name = f"joint:{first.name}+{second.name}"

    @classmethod
    def parse(cls, ref: str, load: Callable[[str], Corpus]) -> JointCorpus:
        """From A+B, both the names of labelled corpora."""
        parts = ref.split("+")
        if len(parts) != 2 or not all(parts):
            raise BadInput(
                f"{ref!r} names {len(parts)} corpora to join, expected two: joint:A+B. A file's name must not hold a +."
            )
        return cls(*map(load, parts))

    @property
    def fingerprint(self) -> str:
        """Over those of both."""
        return digest(["joint", self.first.fingerprint, self.second.fingerprint])[:16]

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the pairs."""
        return tuple(f"{a}{AND}{b}" for a in _classes(self.first) for b in _classes(self.second))

    def documents(self) -> Iterator[Document]:
        """Each text that both have, with its pair."""
        width = len(_classes(self.second))
        for document in self.first.documents():
            other = self._second.get(_key(document.text))
            if other is not None and document.label is not None:
                yield Document(document.text, document.label * width + other)

    @cached_property
    def _second(self) -> dict[bytes, int | None]:
        """What the second says of each text, None where it contradicts itself; 16 bytes and some a text."""
        found: dict[bytes, int | None] = {}
        for document in self.second.documents():
            key = _key(document.text)
            if found.setdefault(key, document.label) != document.label:
                found[key] = None
        return found


class _Some:
    """Those texts of a labelled corpus that have one of the named classes, numbered anew."""

    def __init__(self, corpus: Corpus, classes: Sequence[str]):
        self.corpus, self.classes = corpus, tuple(classes)
        self.name = f"{corpus.name}[{'/'.join(classes)}]"
        if len(set(classes)) != len(classes) or not all(classes):
            raise BadInput(f"{self.name} should name different classes, as in {corpus.name}[A/B].")

    @property
    def fingerprint(self) -> str:
        return digest(["some", self.corpus.fingerprint, list(self.classes)])[:16]

    def documents(self) -> Iterator[Document]:
        names = tuple(getattr(self.corpus, "classes", None) or ())
        for name in self.classes:
            if names and _plain(name) not in map(_plain, names):
                raise UnknownName.among(f"class of {self.corpus.name}", name, names)
        number, seen = {_plain(name): i for i, name in enumerate(self.classes)}, set()
        for text, name in _named(self.corpus, names):
            seen.add(_plain(name))
            if _plain(name) in number:
                yield Document(text, number[_plain(name)])
        if missing := set(number) - seen:
            raise BadInput(
                f"{self.corpus.name} has no text of class {min(missing)!r}. Its classes: {', '.join(sorted(seen)[:24])}."
            )


def some(corpus: Corpus, classes: str) -> Corpus:
    """`corpus`, narrowed to the classes that A/B/… names."""
    return _Some(corpus, classes.split("/"))


def _classes(corpus: Corpus) -> tuple[str, ...]:
    """Names of a corpus's classes; numbers where it has no names, which costs a reading."""
    names = tuple(getattr(corpus, "classes", None) or ())
    if names:
        return names
    top = max((d.label for d in corpus.documents() if d.label is not None), default=None)
    if top is None:
        raise BadInput(f"{corpus.name} has no labels, so it cannot be joined. Name its column of labels.")
    return tuple(str(i) for i in range(top + 1))


def _named(corpus: Corpus, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each labelled text with the name of its class; from the hub also names that are not numbered."""
    if hasattr(corpus, "named"):
        yield from corpus.named()  # type: ignore[attr-defined]
    else:
        for d in corpus.documents():
            if d.label is not None:
                yield d.text, names[d.label] if names else str(d.label)


def _plain(name: str) -> str:
    """The name of a class; 1.0 is 1."""
    return str(int(float(name))) if is_number(name) and float(name).is_integer() else name


def _key(text: str) -> bytes:
    return hashlib.sha256(text.strip().encode()).digest()[:16]
