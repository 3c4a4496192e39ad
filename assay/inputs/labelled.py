"""Labelled text: activations token by token, of examples that are drawn once and of which no two are alike."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch

from assay.activations import Activations, GatherConfig, gather
from assay.coders.base import SparseCoder
from assay.corpora.base import Corpus, Document
from assay.errors import BadInput
from assay.evals.needs import Labelled, LabelledInput, Vectors
from assay.inputs.base import PIECE, Bench, Supply
from assay.inputs.cost import FLOAT, Cost, characters_to_tokens, depth
from assay.randomness import numpy_generator
from assay.store import digest

LOOK = 200  # documents whose length says how long all are


class LabelledSupply(Supply[Labelled]):
    """One run of the model over a corpus's chosen examples; it is in the store, for whoever comes later."""

    @property
    def corpus(self) -> Corpus:
        """The corpus that is meant: with the copies that were published, where the need says so and it has left them out."""
        corpus = self.bench.corpus(self.need.corpus)
        if self.need.split == "original" and (published := getattr(corpus, "published", None)):
            return published()
        return corpus

    def fingerprint(self, coder: str) -> str:
        return self.corpus.fingerprint

    def cost(self) -> Cost:
        bench, wanted = self.bench, self.need.train + self.need.test
        seen = [len(document.text) for document in islice(self.corpus.documents(), LOOK)]
        tokens = characters_to_tokens(seen, self.need.context) / max(len(seen), 1) * wanted
        disk = int((wanted if self.need.last else tokens) * bench.model.d(bench.site) * FLOAT[bench.dtype])
        return Cost(once=tokens * depth(bench.model, bench.site), disk=disk)

    def gather(self, coders: Mapping[str, SparseCoder[Any]]) -> None:
        draw = choose if self.need.split == "grouped" else first_rows
        chosen = draw(self.corpus, self.need.train, self.need.test)
        self.ready = LabelledInput(
            name=self.need.corpus, labels=chosen.labels, train=chosen.train, classes=chosen.classes, leak=chosen.leak,
            conflicts=chosen.conflicts, vectors=read(self.bench, chosen, self.need.context, last=self.need.last),
            documents=chosen.numbers.tolist(),
        )  # fmt: skip

    def given(self, coder: str) -> LabelledInput:
        return self.ready


def read(bench: Bench, corpus: Corpus, context: int, *, last: bool = False) -> Vectors:
    """Site activations of a corpus's documents, a row of at most `context` tokens each, with the document of each.

    `last`: those of each row's last token alone, which takes as long and next to no disk.
    """
    from assay.corpora.pack import PackConfig, Tokens, tokenise

    config = PackConfig(context=context, layout="documents")
    tokens = tokenise(corpus, bench.model.tokenizer, config, bench.store, bench.progress)
    if last:
        mask = np.asarray(tokens.mask)
        ends = np.arange(mask.shape[1]) == mask.shape[1] - 1 - mask[:, ::-1].argmax(1)[:, None]
        tokens = Tokens.from_arrays(np.asarray(tokens.tokens), mask & ends, np.asarray(tokens.document))
    path = gather(bench.model, tokens, [bench.site], GatherConfig(dtype=bench.dtype), bench.store, bench.progress)
    document = tokens.document

    def vectors() -> Iterator[tuple[torch.Tensor, np.ndarray]]:
        for x, row, position in Activations(path, bench.site):
            example = np.asarray(document)[row.numpy(), position.numpy()].astype(np.int64)
            for start in range(0, len(x), PIECE):
                yield x[start : start + PIECE], example[start : start + PIECE]

    return vectors


@dataclass(frozen=True)
class Chosen:
    """Some documents of a labelled corpus, in its order: itself a corpus."""

    source: Corpus
    numbers: np.ndarray
    """Which documents, ascending."""
    labels: np.ndarray
    train: np.ndarray
    classes: list[str]
    leak: float
    conflicts: int

    @property
    def name(self) -> str:
        return f"{self.source.name} ({len(self.numbers)} documents)"

    @property
    def fingerprint(self) -> str:
        return digest([self.source.fingerprint, self.numbers.tolist()])[:16]

    def documents(self) -> Iterator[Document]:
        wanted = set(self.numbers.tolist())
        return (document for i, document in enumerate(self.source.documents()) if i in wanted)


def choose(corpus: Corpus, train: int, test: int) -> Chosen:
    """Draw `train` and `test` documents, as many of each class (fewer, in proportion, of a class that is too small).

    A text that occurs several times is used once, and one with several labels not at all: nothing can be on both sides.
    """
    texts, repeats, conflicts = _unique(corpus)
    kinds = sorted(set(texts.values()))
    if len(kinds) < 2:
        raise BadInput(f"{corpus.name} has {len(kinds)} class(es) in {len(texts)} texts; a probe needs two or more.")
    picked: dict[int, bool] = {}
    for kind in kinds:
        places = np.array([number for number, label in texts.items() if label == kind])
        places = numpy_generator("choose", corpus.fingerprint, kind).permutation(places)
        share = min(1.0, len(places) * len(kinds) / (train + test))
        n_train, n_test = int(train * share / len(kinds)), int(test * share / len(kinds))
        picked |= {int(p): i < n_train for i, p in enumerate(places[: n_train + n_test])}
    numbers = np.array(sorted(picked))
    names = getattr(corpus, "classes", None) or range(max(kinds) + 1)
    return Chosen(
        source=corpus, numbers=numbers, labels=np.array([texts[n] for n in numbers]), train=np.array([picked[n] for n in numbers]),
        classes=[str(names[k]) for k in range(max(kinds) + 1)], leak=repeats, conflicts=conflicts,
    )  # fmt: skip


def first_rows(corpus: Corpus, train: int, test: int) -> Chosen:
    """The first `train` + `test` documents as they are, with copies and contradictions. Which are for training is drawn at random."""
    found = [document.label for document in islice(corpus.documents(), train + test)]
    _, repeats, conflicts = _unique(corpus)
    if len(set(found)) < 2:
        raise BadInput(
            f"{corpus.name} has {len(set(found))} class(es) in its first {len(found)} rows; a probe needs two or more."
        )
    names = getattr(corpus, "classes", None) or range(max(label or 0 for label in found) + 1)
    order = numpy_generator("first rows", corpus.fingerprint).permutation(len(found))
    return Chosen(
        source=corpus, numbers=np.arange(len(found)), labels=np.array(found), train=order < train * len(found) / (train + test),
        classes=[str(name) for name in names], leak=repeats, conflicts=conflicts,
    )  # fmt: skip


def _unique(corpus: Corpus) -> tuple[dict[int, int], float, int]:
    """(class of each usable text by document number, share of documents that repeat an earlier text, documents in contradiction)."""
    first: dict[bytes, int] = {}
    labels: dict[int, list[int]] = {}
    for i, document in enumerate(corpus.documents()):
        if document.label is None:
            raise BadInput(
                f"Document {i} of {corpus.name} has no label. Probing needs a labelled corpus: name its label column."
            )
        place = first.setdefault(hashlib.sha256(document.text.strip().encode()).digest(), i)
        labels.setdefault(place, []).append(document.label)
    clean = {place: found[0] for place, found in labels.items() if len(set(found)) == 1}
    dropped = getattr(corpus, "dropped", {"copies": 0, "contradicting": 0})  # what the corpus itself has left out
    conflicts = sum(len(found) for place, found in labels.items() if place not in clean) + dropped["contradicting"]
    rows = sum(map(len, labels.values()))
    repeats = rows - len(labels) + dropped["copies"]
    return clean, repeats / max(rows + dropped["copies"] + dropped["contradicting"], 1), conflicts
