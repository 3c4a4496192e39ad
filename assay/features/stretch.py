"""Stretch: some rows of text as the collector sees them, and the codes of their tokens."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from assay.errors import BadInput, NotFinite
from assay.features.piles import spans

if TYPE_CHECKING:
    from assay.corpora.pack import Tokens


@dataclass(frozen=True)
class Stretch:
    """The tokens that count in some rows, in the order of the text. A position is row · context + column."""

    position: np.ndarray
    token: np.ndarray
    document: np.ndarray
    low: np.ndarray
    """First position of the part of this document that is in this row, and the one after its last."""
    high: np.ndarray
    row: np.ndarray

    def __len__(self) -> int:
        return len(self.position)

    @classmethod
    def of(cls, text: Tokens, rows: np.ndarray) -> Stretch:
        """Rows by their numbers, rising."""
        mask, document = np.asarray(text.mask[rows]), np.asarray(text.document[rows])
        context = mask.shape[1]
        new = np.ones(document.shape, np.bool_)
        new[:, 1:] = document[:, 1:] != document[:, :-1]
        flat = (rows.astype(np.int64)[:, None] * context + np.arange(context)).reshape(-1)
        starts = np.flatnonzero(new)
        sizes = np.diff(np.r_[starts, new.size])
        low, keep = np.repeat(flat[starts], sizes), mask.reshape(-1)
        high = low + np.repeat(sizes, sizes)
        return cls(
            flat[keep], np.asarray(text.tokens[rows]).reshape(-1)[keep], document.reshape(-1)[keep], low[keep], high[keep],
            np.repeat(rows.astype(np.int64), mask.sum(1)),
        )  # fmt: skip

    @classmethod
    def joined(cls, parts: list[Stretch]) -> Stretch:
        """One after the other."""
        return cls(*(np.concatenate([getattr(p, name) for p in parts]) for name in cls.__dataclass_fields__))

    def take(self, places: np.ndarray) -> Stretch:
        """Some of the tokens."""
        return Stretch(*(getattr(self, name)[places] for name in Stretch.__dataclass_fields__))


@dataclass(frozen=True)
class Codes:
    """Latents of consecutive tokens that are not 0: those of token i are entries offsets[i] to offsets[i + 1]."""

    values: np.ndarray
    latents: np.ndarray
    offsets: np.ndarray
    d_sae: int

    @classmethod
    def of(cls, values: np.ndarray, latents: np.ndarray, offsets: np.ndarray, d_sae: int) -> Codes:
        """Zeros left out. `NotFinite`, and `BadInput` at negative values: what a latent's strongest places are is then not clear."""
        values = np.ascontiguousarray(values, np.float32)
        latents, offsets = latents.astype(np.int32, copy=False), offsets.astype(np.int64, copy=False)
        low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)
        if not np.isfinite(low + high):
            raise NotFinite("The coder gives latents that are NaN or infinite on this text.")
        if low < 0:
            raise BadInput(
                f"The coder gives a latent of {low:.3g}. Only coders whose latents are 0 or positive can be harvested."
            )
        if low == 0 and (zero := values == 0).any():
            upto = np.r_[0, np.cumsum(~zero)]
            values, latents, offsets = values[~zero], latents[~zero], upto[offsets]
        return cls(values, latents, offsets, d_sae)

    @classmethod
    def joined(cls, parts: list[Codes]) -> Codes:
        """One after the other."""
        before = np.cumsum([0, *(len(p.values) for p in parts)])
        offsets = np.concatenate([[0], *(p.offsets[1:] + n for p, n in zip(parts, before))])
        return cls(
            np.concatenate([p.values for p in parts]), np.concatenate([p.latents for p in parts]), offsets, parts[0].d_sae
        )

    def take(self, places: np.ndarray) -> Codes:
        """Those of some tokens."""
        lengths = np.diff(self.offsets)[places]
        flat = spans(self.offsets[:-1][places], lengths)
        return Codes(self.values[flat], self.latents[flat], np.r_[0, np.cumsum(lengths)], self.d_sae)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def matrix(self) -> sparse.csr_matrix:
        """[tokens, d_sae]"""
        return sparse.csr_matrix((self.values, self.latents, self.offsets), (len(self), self.d_sae))
