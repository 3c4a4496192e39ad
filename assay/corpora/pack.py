"""PackConfig, Tokens, tokenise: a corpus as rows of token ids in the store, made once and memory-mapped."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Int32, Int64

from assay import codec, provenance
from assay.corpora import rows
from assay.corpora.base import Corpus
from assay.errors import BadInput, DamagedFile, UnknownName
from assay.progress import Progress, silent
from assay.store import Draft, Store, digest, verify

MEANING = 1  # counts the meaning of a packing: part of every key


@dataclass(frozen=True, kw_only=True)
class PackConfig:
    """How documents become rows."""

    context: int = 128
    """Tokens in a row, BOS included."""
    bos: Literal["auto", "always", "never"] = "auto"
    """Whether each row starts with BOS: as the tokenizer itself does it (auto), always, or never."""
    split: Literal["all", "train", "held_out"] = "all"
    """Which documents: all, or one side of a division by the hash of each text (equal texts fall on one side)."""
    held_out: float = 0.1
    """Share of the documents that is held out."""
    max_tokens: int | None = None
    """At most this many tokens of text, in whole rows; special tokens do not count. None: the whole split."""
    layout: Literal["packed", "documents"] = "packed"
    """packed: full rows, documents joined by EOS. documents: a row for each document, cut to the context or padded."""
    chat: bool = False
    """Pass each document through the tokenizer's chat template, as one turn of the user. The template's tokens count as text."""

    def __post_init__(self) -> None:
        choices = {"bos": ("auto", "always", "never"), "split": ("all", "train", "held_out"), "layout": ("packed", "documents")}
        for name, known in choices.items():
            if (value := getattr(self, name)) not in known:
                raise UnknownName.among(f"value of {name}", str(value), known)
        if self.context < 2:
            raise BadInput(f"context={self.context} is too short: a row holds BOS and at least one token. Use 2 or more.")
        if not 0 <= self.held_out < 1 or (self.split == "held_out" and self.held_out == 0):
            raise BadInput(
                f"held_out={self.held_out} with split={self.split!r}: it is a share, at least 0 and below 1, e.g. 0.1."
            )
        if self.max_tokens is not None and self.max_tokens < 1:
            raise BadInput(f"max_tokens={self.max_tokens} asks for no tokens. Use 1 or more, or None for the whole split.")


@dataclass(frozen=True, kw_only=True)
class Packing:
    """What a packing made of a corpus: pack.json beside the rows."""

    config: PackConfig
    fingerprint: str
    """Identity of the rows, 16 hex digits: corpus, tokenizer and configuration."""
    corpus: str
    """Name of the corpus, for people."""
    tokenizer: str | None
    """`tokenizer_hash` of what made the ids."""
    rows: int
    n_tokens: int
    """Tokens of text: True in the mask, over all rows."""
    documents: int
    """Documents with at least one token in the rows."""
    truncated: int = 0
    """Documents cut to the context (layout documents)."""
    remainder: int = 0
    """Tokens left over at the end, too few for a row (layout packed)."""
    complete: bool = True
    """Whether the whole split was read; False where `max_tokens` ended it."""
    bos: int | None = None
    """Id that starts every row, outside the mask; None where rows start with text."""
    eos: int | None = None
    """Id between documents, outside the mask; None where nothing stands there."""
    pad: int | None = None
    """Id that fills rows up, outside the mask (layout documents)."""
    labelled: bool = False
    classes: tuple[str, ...] = ()
    """Names of the label's classes, where the corpus has them."""


class Tokens:
    """Rows of token ids with what belongs to them. Memory-mapped and read-only (slices are views: copy before writing); small to pickle.

    mask: True where a token of text stands, False at BOS, EOS and padding. Decided by position, never by id: a text that contains
    the pad token keeps it. document: index in `corpus.documents()` at each place, -1 where mask is False.
    """

    def __init__(
        self,
        path: Path | None,
        packing: Packing,
        tokens: Int32[np.ndarray, "rows context"],
        mask: Bool[np.ndarray, "rows context"],
        document: Int32[np.ndarray, "rows context"],
        labels: Int64[np.ndarray, " rows"] | None = None,
    ):
        self.path, self.packing = path, packing
        self.config, self.fingerprint = packing.config, packing.fingerprint
        self.n_tokens, self.classes = packing.n_tokens, packing.classes
        self.tokens, self.mask, self.document, self.labels = tokens, mask, document, labels

    @classmethod
    def open(cls, path: Path) -> Tokens:
        """The rows in a directory made by `tokenise`. Raises MissingFile, DamagedFile."""
        packing = codec.from_data(Packing, codec.read_json(path / "pack.json"), path / "pack.json")
        shape = (packing.rows, packing.config.context)

        def mapped(name: str, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
            file, expected = path / name, int(np.prod(shape)) * np.dtype(dtype).itemsize
            size = file.stat().st_size if file.exists() else None
            if size != expected:
                found = "is missing" if size is None else f"has {size} bytes"
                raise DamagedFile(f"{file} {found}, expected {expected} bytes. Delete {path} and tokenise again.")
            return np.memmap(file, dtype=dtype, mode="r", shape=shape)

        return cls(
            path, packing, mapped("tokens.bin", np.int32, shape), mapped("mask.bin", np.bool_, shape),
            mapped("document.bin", np.int32, shape), mapped("labels.bin", np.int64, shape[:1]) if packing.labelled else None,
        )  # fmt: skip

    @classmethod
    def from_arrays(
        cls, tokens: np.ndarray, mask: np.ndarray | None = None, document: np.ndarray | None = None,
        labels: np.ndarray | None = None, classes: tuple[str, ...] = (),
    ) -> Tokens:  # fmt: skip
        """Rows from memory, not from text: without a mask all tokens count, without documents each row is one."""
        tokens = np.ascontiguousarray(tokens, np.int32)
        mask = np.ones(tokens.shape, np.bool_) if mask is None else np.asarray(mask, np.bool_)
        document = np.repeat(np.arange(len(tokens))[:, None], tokens.shape[1], 1) if document is None else document
        document = np.where(mask, document, -1).astype(np.int32)
        parts = [tokens, mask, document] + ([] if labels is None else [np.asarray(labels, np.int64)])
        key = hashlib.sha256(repr(tokens.shape).encode() + b"".join(p.tobytes() for p in parts)).hexdigest()[:16]
        packing = Packing(
            config=PackConfig(context=tokens.shape[1], bos="never"), fingerprint=key, corpus="arrays", tokenizer=None, rows=len(tokens),
            n_tokens=int(mask.sum()), documents=len(np.unique(document[mask])), labelled=labels is not None, classes=classes,
        )  # fmt: skip
        return cls(None, packing, tokens, mask, document, parts[3] if labels is not None else None)

    def __len__(self) -> int:
        return self.packing.rows

    def __reduce__(self) -> Any:
        if self.path is not None:
            return Tokens.open, (self.path,)
        return Tokens, (None, self.packing, self.tokens, self.mask, self.document, self.labels)

    def order(self, seed: int, epoch: int) -> Int64[np.ndarray, " rows"]:
        """A permutation of the rows: a pure function of (number of rows, seed, epoch), seed and epoch from 0 up."""
        return np.random.Generator(np.random.PCG64([seed, epoch])).permutation(len(self))


def tokenise(corpus: Corpus, tokenizer: Any, config: PackConfig, store: Store, progress: Progress | None = None) -> Tokens:
    """Rows of `corpus` as STORE/tokens/<key>/, made when they are not there. The key names corpus, tokenizer and configuration.

    Documents are tokenised without the special tokens a tokenizer adds of itself; BOS, EOS and padding are put in by
    `config`, recorded in `Tokens.packing`, and never doubled. Memory is bounded by the largest document. An interrupted attempt
    starts over and gives the same bytes. Raises BadInput (no documents, too few for a row), Unavailable (disk), Busy.
    """
    rules = rows.rules_of(tokenizer, config)
    identity = rows.tokenizer_hash(tokenizer)
    template = tokenizer.chat_template if config.chat else None
    key = digest(
        {
            "meaning": MEANING,
            "corpus": corpus.fingerprint,
            "tokenizer": identity,
            "rules": rules,
            "chat": template,
            "config": config,
        }
    )[:16]
    if not store.has("tokens", key):
        with store.draft("tokens", key) as draft:
            if store.has("tokens", key):  # another process finished it while we asked for the lock
                draft.path.rmdir()
            else:
                _make(draft, key, corpus, tokenizer, identity, config, rules, progress or silent)
    path = store.path("tokens", key)
    verify(path)
    return Tokens.open(path)


def _make(
    draft: Draft,
    key: str,
    corpus: Corpus,
    tokenizer: Any,
    identity: str,
    config: PackConfig,
    rules: rows.Rules,
    progress: Progress,
) -> None:
    shutil.rmtree(draft.path)
    draft.path.mkdir()
    tally, sink = rows.Tally(), rows.Sink(draft.path, config.max_tokens, rules.bos)
    with provenance.stopwatch() as seconds:
        encoded = rows.encode(corpus, tokenizer, config, rules, tally)
        width = config.context - (rules.bos is not None)
        packed = config.layout == "packed"
        sink.write(rows.packed(encoded, width, rules, tally) if packed else rows.one_each(encoded, width, rules), progress)
        if not sink.rows:
            raise BadInput(_why_empty(corpus, config, sink, tally))
    packing = Packing(
        config=config, fingerprint=key, corpus=corpus.name, tokenizer=identity, rows=sink.rows, n_tokens=sink.n_tokens,
        documents=sink.documents, truncated=sink.truncated, remainder=tally.remainder, complete=not sink.full,
        bos=rules.bos, eos=rules.eos, pad=None if packed else rules.pad,
        labelled=bool(sink.labelled), classes=tuple(getattr(corpus, "classes", ())) if sink.labelled else (),
    )  # fmt: skip
    (draft.path / "pack.json").write_text(codec.to_json(packing) + "\n", encoding="utf-8")
    draft.finish(
        inputs={"corpus": corpus.fingerprint, "tokenizer": identity},
        about=codec.to_data(packing),
        made=provenance.made(seconds=seconds()),
    )


def _why_empty(corpus: Corpus, config: PackConfig, sink: rows.Sink, tally: rows.Tally) -> str:
    if not tally.seen:
        return f"The corpus {corpus.name} is empty: it holds no documents with text. Check the file, its column and its split."
    if not tally.documents:
        return (
            f"The {config.split} part of the corpus {corpus.name} is empty: none of its {tally.seen} documents fell there "
            f"(held_out={config.held_out}). Give more documents, or change held_out."
        )
    if sink.full:
        return f"max_tokens={config.max_tokens} is less than the first row holds. Ask for at least {config.context} tokens."
    part = "" if config.split == "all" else f" ({config.split} part)"
    return (
        f"The corpus {corpus.name}{part} is shorter than one row: {tally.remainder} tokens in {tally.documents} documents, and "
        f"context={config.context}. Give more text, or a smaller context."
    )
