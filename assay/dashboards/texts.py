"""Texts: token rows in the store out of tokens that are strings, each distinct text once.

Ids are those of the model's own tokenizer. A string that is no token of it (part of another spelling) is laid down as the tokens that spell
it; an empty one, which only continues the character before, shares what that took.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence

import numpy as np

from assay import codec, provenance
from assay.corpora.pack import PackConfig, Packing, Tokens
from assay.models.pieces import SPACE, Pieces
from assay.store import Draft

SPELLINGS = {SPACE: " ", "Ġ": " ", "Ċ": "\n", "↵": "\n"}
"""How vocabularies and pages write spaces and line breaks."""
CHUNK = 2**12  # rows that are laid out at once


class Speller:
    """Strings as token ids."""

    def __init__(self, pieces: Pieces):
        self._pieces = pieces
        self._ids: dict[str, int] = {}
        for i, text in enumerate(pieces.all):
            self._ids.setdefault(text, i)
        self._spelt: dict[tuple[str, bool], list[int]] = {}

    def one(self, text: str) -> int | None:
        """The token that a string is; None where it is none."""
        found = self._ids.get(text)
        return self._ids.get(_meant(text)) if found is None else found

    def row(self, strings: Sequence[str]) -> tuple[list[int], list[int]]:
        """(ids of a text, the place in them of each string)."""
        ids: list[int] = []
        starts: list[int] = []
        i = 0
        while i < len(strings):
            stop = i + 1
            while stop < len(strings) and not strings[stop]:
                stop += 1
            first = len(ids)
            ids += self._spell(strings[i], stop - i > 1)
            starts += [min(first + k, len(ids) - 1) for k in range(stop - i)]
            i = stop
        return ids, starts

    def _spell(self, text: str, continued: bool) -> list[int]:
        """`continued`: an empty string follows, so that the text is to be taken as it stands: who writes so does not mark spaces."""
        key = text, continued
        if key not in self._spelt:
            known = self._ids.get(text) if continued else self.one(text)
            spelt = [known] if known is not None else self._pieces.encode(text if continued else _meant(text))
            self._spelt[key] = spelt or [0]
        return self._spelt[key]


def _meant(text: str) -> str:
    for written, meant in SPELLINGS.items():
        text = text.replace(written, meant)
    return text


class Texts:
    """Token rows in the making, in a store's draft: ids one after another first, rows of equal length at the end."""

    def __init__(self, draft: Draft):
        self._draft, self._known, self._path = draft, dict[bytes, int](), draft.path / ".ragged"
        self._file = self._path.open("wb")
        self.lengths = array("i")

    def add(self, ids: Sequence[int]) -> int:
        """Number of the row that holds a text."""
        raw = np.asarray(ids, np.int32).tobytes()
        key = hashlib.blake2b(raw, digest_size=16).digest()
        row = self._known.setdefault(key, len(self.lengths))
        if row == len(self.lengths):
            self._file.write(raw)
            self.lengths.append(len(ids))
        return row

    @property
    def context(self) -> int:
        """Tokens of the longest text."""
        return max(2, *self.lengths, 2)

    def finish(self, key: str, corpus: str, inputs: dict[str, str]) -> Tokens:
        """Write the rows, each a document of its own, filled up to the longest."""
        self._file.close()
        lengths, context, path = np.frombuffer(self.lengths, np.int32), self.context, self._draft.path
        ragged = np.memmap(self._path, np.int32, "r") if lengths.sum() else np.zeros(0, np.int32)
        ends = np.cumsum(lengths, dtype=np.int64)
        with (
            (path / "tokens.bin").open("wb") as tokens,
            (path / "mask.bin").open("wb") as masks,
            (path / "document.bin").open("wb") as documents,
        ):
            for start in range(0, len(lengths), CHUNK):
                some = lengths[start : start + CHUNK]
                mask = np.arange(context) < some[:, None]
                ids = np.zeros(mask.shape, np.int32)
                ids[mask] = ragged[ends[start] - some[0] : ends[start + len(some) - 1]]
                tokens.write(ids.tobytes())
                masks.write(mask.tobytes())
                documents.write(
                    np.where(mask, np.arange(start, start + len(some), dtype=np.int32)[:, None], -1).astype(np.int32).tobytes()
                )
        packing = Packing(
            config=PackConfig(context=context, bos="never", layout="documents"), fingerprint=key, corpus=corpus, tokenizer=None,
            rows=len(lengths), n_tokens=int(lengths.sum()), documents=len(lengths), pad=0,
        )  # fmt: skip
        self._path.unlink()
        (path / "pack.json").write_text(codec.to_json(packing) + "\n", encoding="utf-8")
        return Tokens.open(self._draft.finish(inputs=inputs, about=codec.to_data(packing), made=provenance.made()))
