"""Collector: numbers and examples of all latents of a coder at once, out of one stream of sparse codes.

Memory is at most ten kilobytes a latent, plus the row sample, however long the stream. The state after some rows does not depend on how
they were cut into pieces or in which order these came: so `merge` of collectors over parts of a text is one over the whole, and a
state that was kept goes on to the very same end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from assay.features import bins, chance
from assay.features.piles import Entries, Pile, first_of_each, lowest, nth, spans
from assay.features.sample import RowSample
from assay.features.stretch import Codes, Stretch

PLACE = 40  # bits of a position where latent and position are packed


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How much is kept of each latent."""

    top: int = 20
    """Strongest examples, at most one a document."""
    drawn: int = 5
    """Examples drawn from each of the ten intervals of the activation."""
    random: int = 5
    """Windows drawn from those where the latent is silent."""
    near: int = 5
    """Windows where it is silent although its commonest peak token is there, or its nearest latent speaks loudly."""
    before: int = 40
    """Tokens of a window before the position; windows end with their row and their document."""
    after: int = 23
    """Tokens of a window after the position."""
    sample: int = 2**23
    """Activations in the sample of rows on which pairs are counted and silent windows found: 64 MB."""


class Collector:
    """Add stretches of rows in any order, each row once; then ask `summary.of` for the result."""

    def __init__(self, d_sae: int, shape: Shape):
        self.d_sae, self.shape, self.tokens = d_sae, shape, 0
        self.histogram = np.zeros((d_sae, bins.BINS), np.int32)
        self.sums = np.zeros((d_sae, bins.OCTAVES))
        """Of the activations of each octave: multiples of one step each, so that these sums are exact."""
        self.maximum = np.zeros(d_sae, np.float32)
        self.octave = np.zeros(d_sae, np.uint8)  # of the maximum
        self.top = Pile(lambda e: e.latent, d_sae, shape.top, apart=True)
        self.drawn = Pile(self._strata, d_sae * bins.SLOTS, shape.drawn)
        self.sample = RowSample(d_sae, shape.sample)

    def _strata(self, entries: Entries) -> np.ndarray:
        slots = bins.slots_of(bins.bins_of(entries.value), self.octave[entries.latent])
        return entries.latent * np.int64(bins.SLOTS) + slots

    def add(self, stretch: Stretch, codes: Codes) -> None:
        """Rows that were not added before; best some 50,000 tokens at once."""
        self.tokens += len(stretch)
        self.sample.add(stretch, codes)
        if not len(codes.values):
            return
        piece = _Piece(stretch, codes, self.shape)
        self._count(piece)
        self.top.add(self._strongest(piece))
        self.drawn.add(self._chosen(piece))

    def _count(self, piece: _Piece) -> None:
        flat = piece.latent * np.int64(bins.BINS)
        flat += piece.bins
        np.add.at(self.histogram.reshape(-1), flat, np.int32(1))
        flat >>= 3
        np.add.at(self.sums.reshape(-1), flat, piece.value.astype(np.float64))
        peaks = np.maximum.reduceat(piece.value, piece.starts)
        self.maximum[piece.latents] = np.maximum(self.maximum[piece.latents], peaks)
        octave = bins.bins_of(self.maximum[piece.latents]) >> 3
        grown = piece.latents[octave > self.octave[piece.latents]]
        self.octave[piece.latents] = octave
        self.drawn.bar.reshape(self.d_sae, bins.SLOTS)[grown] = 2**32 - 1  # its strata are others now

    def _strongest(self, piece: _Piece) -> Entries:
        """The peaks of documents that may be among the top examples."""
        rank = ~piece.value.view(np.uint32)  # of positive floats: the larger, the lower
        places = np.flatnonzero(rank <= piece.spread(self.top.bar[piece.latents]))
        latent, document = piece.latent[places], piece.stretch.document[piece.token[places]]
        new = (
            np.r_[True, (latent[1:] != latent[:-1]) | (document[1:] != document[:-1])] if len(places) else np.empty(0, np.bool_)
        )
        lowest = np.minimum.reduceat(rank[places], np.flatnonzero(new)) if len(places) else np.empty(0, np.uint32)
        run = np.cumsum(new) - 1
        peaks = rank[places] == lowest[run]
        places, run = places[peaks], run[peaks]
        places = places[nth(run) == 0]  # the first of equal ones
        if len(places) > 2 * self.shape.top * len(piece.latents):
            places = places[np.sort(first_of_each(piece.latent[places], rank[places], places, self.shape.top))]
        return piece.entries(places, rank[places])

    def _chosen(self, piece: _Piece) -> Entries:
        """The tokens that may be among those drawn from a stratum of the activations."""
        slots = bins.slots_of(piece.bins, piece.spread(self.octave[piece.latents]))
        keys = piece.latent * np.int64(bins.SLOTS)
        keys += slots
        rank = chance.both(piece.dice[piece.token], piece.latent.view(np.uint32))
        places = np.flatnonzero(rank <= self.drawn.bar[keys])
        places = places[lowest(keys[places], rank[places], len(self.drawn.bar), self.shape.drawn)]
        return piece.entries(places, rank[places])

    def merge(self, other: Collector) -> None:
        """Take in what another collector found in other rows of the same text."""
        self.tokens += other.tokens
        self.histogram += other.histogram
        self.sums += other.sums
        np.maximum(self.maximum, other.maximum, out=self.maximum)
        np.maximum(self.octave, other.octave, out=self.octave)
        for mine, theirs in ((self.top, other.top), (self.drawn, other.drawn)):
            theirs.tidy()
            mine.add(theirs.kept)
            mine.tidy()
        self.sample.merge(other.sample)

    def state(self) -> dict[str, np.ndarray]:
        """All there is to keep, as arrays."""
        found = {"tokens": np.array(self.tokens), "histogram": self.histogram, "sums": self.sums, "maximum": self.maximum}
        for name in ("top", "drawn", "sample"):
            found |= {f"{name}.{key}": value for key, value in getattr(self, name).state().items()}
        return found

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """As it was when `state` was asked for."""
        self.tokens = int(state["tokens"])
        self.histogram, self.sums, self.maximum = state["histogram"], state["sums"], state["maximum"]
        self.octave = np.where(self.maximum > 0, bins.bins_of(self.maximum) >> 3, 0).astype(np.uint8)
        for name in ("top", "drawn", "sample"):
            part = {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
            getattr(self, name).restore(part)


class _Piece:
    """The codes of a stretch, latent by latent, each latent's in the order of the text."""

    def __init__(self, stretch: Stretch, codes: Codes, shape: Shape):
        self.stretch, self.shape = stretch, shape
        by_latent = codes.matrix.tocsc()
        self.value, self.token = by_latent.data, by_latent.indices
        sizes = np.diff(by_latent.indptr)
        self.latents = np.flatnonzero(sizes)
        """Those that are active at all; `starts` and `sizes`: where theirs begin, how many."""
        self.starts, self.sizes = by_latent.indptr[:-1][self.latents], sizes[self.latents]
        self.latent = self.spread(self.latents.astype(np.int32))
        self.bins = bins.bins_of(self.value)
        self.dice = chance.mixed(stretch.position, "drawn")

    def spread(self, of_latents: np.ndarray) -> np.ndarray:
        """Numbers of the active latents beside each of their activations."""
        return np.repeat(of_latents, self.sizes)

    def entries(self, places: np.ndarray, rank: np.ndarray) -> Entries:
        """Entries for some activations, in rising order, with their windows."""
        token, latent, stretch = self.token[places], self.latent[places], self.stretch
        position = stretch.position[token]
        start = np.maximum(stretch.low[token], position - self.shape.before)
        stop = np.minimum(stretch.high[token], position + self.shape.after + 1)
        packed = self._packed
        key = latent.astype(np.int64) << PLACE
        first, last = np.searchsorted(packed, key + start), np.searchsorted(packed, key + stop)
        flat = spans(first, last - first)
        at = stretch.position[self.token[flat]] - np.repeat(start, last - first)
        return Entries(
            latent=latent, rank=rank, position=position, document=stretch.document[token], value=self.value[places],
            before=(position - start).astype(np.uint8), after=(stop - 1 - position).astype(np.uint8),
            length=(last - first).astype(np.uint16), at=at.astype(np.uint8),
            activations=np.minimum(self.value[flat], np.finfo(np.float16).max).astype(np.float16),
        )  # fmt: skip

    @property
    def _packed(self) -> np.ndarray:
        if not hasattr(self, "_keys"):
            self._keys = (self.latent.astype(np.int64) << PLACE) + self.stretch.position[self.token]
        return self._keys
