"""Quiet: windows of the sample of rows in which a latent is silent: drawn by chance, and near misses."""

from __future__ import annotations

from typing import Any

import numpy as np

from assay.features import chance
from assay.features.collector import PLACE, Shape
from assay.features.piles import nth
from assay.features.stretch import Codes, Stretch

TRIES = 64  # windows that are looked at for each latent and kind
BLOCK = 4096  # latents at once
LOUD = 0.5  # of its maximum, and the latent speaks loudly


class Quiet:
    """Looks up where latents are silent. Windows hold no activation of theirs at all."""

    def __init__(self, stretch: Stretch, codes: Codes, shape: Shape):
        self.stretch, self.shape = stretch, shape
        by_latent: Any = codes.matrix.tocsc()
        self.indptr, self.token, self.value = by_latent.indptr, by_latent.indices, by_latent.data
        latent = np.repeat(np.arange(codes.d_sae, dtype=np.int64), np.diff(self.indptr))
        self.packed = (latent << PLACE) + stretch.position[self.token]
        self.start = np.maximum(stretch.low, stretch.position - shape.before)
        self.stop = np.minimum(stretch.high, stretch.position + shape.after + 1)
        self.by_token = np.argsort(stretch.token, kind="stable")
        self.tokens = stretch.token[self.by_token]

    def windows(
        self, latents: np.ndarray, top_token: np.ndarray, nearest: np.ndarray, maximum: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Columns latent, group, position, before, after. `top_token` and `nearest` of each of the latents, -1 where there is none."""
        parts: list[tuple[np.ndarray, np.ndarray, int]] = []
        for begin in range(0, len(latents) if len(self.stretch) else 0, BLOCK):
            some = slice(begin, begin + BLOCK)
            ids = latents[some].astype(np.int64)
            everywhere = self._spaced(ids, np.zeros(len(ids), np.int64), np.full(len(ids), len(self.stretch)))
            parts.append((*self._silent(ids, everywhere, self.shape.random), 2))
            with_token = self._where_token(ids, top_token[some])
            near = np.stack([with_token, self._where_loud(nearest[some], maximum)], 2).reshape(len(ids), -1)  # by turns
            parts.append((*self._silent(ids, near, self.shape.near), 3))
        latent = np.concatenate([p[0] for p in parts]) if parts else np.empty(0, np.int64)
        token = np.concatenate([p[1] for p in parts]) if parts else np.empty(0, np.int64)
        position = self.stretch.position[token]
        return {
            "latent": latent, "group": np.concatenate([np.full(len(p[0]), p[2]) for p in parts]) if parts else latent,
            "position": position, "before": position - self.start[token], "after": self.stop[token] - 1 - position,
        }  # fmt: skip

    def _silent(self, latents: np.ndarray, tokens: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The first `count` of the candidates [n, tries] (-1: none) of each latent in whose windows it is silent, none twice."""
        row, column = np.nonzero(tokens >= 0)
        token = tokens[row, column]
        key = latents[row] << PLACE
        first, last = (
            np.searchsorted(self.packed, key + self.start[token]),
            np.searchsorted(self.packed, key + self.stop[token]),
        )
        row, token = row[first == last], token[first == last]
        _, once = np.unique(row * len(self.stretch) + token, return_index=True)
        once.sort()
        row, token = row[once], token[once]
        kept = nth(row) < count
        return latents[row[kept]], token[kept]

    def _spaced(self, latents: np.ndarray, first: np.ndarray, size: np.ndarray) -> np.ndarray:
        """[n, tries] places from `first` on, `size` of them: equally spaced from one that chance names for the latent."""
        begin = chance.mixed(latents, "silent").astype(np.int64) % np.maximum(size, 1)
        step = np.maximum(size // TRIES, 1)
        tries = np.arange(TRIES)
        found = first[:, None] + (begin[:, None] + tries * step[:, None]) % np.maximum(size, 1)[:, None]
        return np.where(tries < size[:, None], found, -1)

    def _where_token(self, latents: np.ndarray, token: np.ndarray) -> np.ndarray:
        """Places of a token."""
        first, last = np.searchsorted(self.tokens, token), np.searchsorted(self.tokens, token, side="right")
        places = self._spaced(latents, first, np.where(token >= 0, last - first, 0))
        return np.where(places >= 0, self.by_token[places], -1)

    def _where_loud(self, nearest: np.ndarray, maximum: np.ndarray) -> np.ndarray:
        """Places where the nearest latent has half its maximum or more, the strongest first."""
        found = np.full((len(nearest), TRIES), -1, np.int64)
        for one in np.unique(nearest[nearest >= 0]):
            span = slice(self.indptr[one], self.indptr[one + 1])
            loud = np.flatnonzero(self.value[span] >= LOUD * maximum[one])
            loud = loud[np.argsort(-self.value[span][loud], kind="stable")[:TRIES]]
            found[nearest == one, : len(loud)] = self.token[span][loud]
        return found
