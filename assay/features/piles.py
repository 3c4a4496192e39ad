"""Piles: for each of many keys the few entries of lowest rank, out of a stream of any length.

What a pile holds in the end does not depend on the order in which entries come, nor on when it is tidied up: ties of rank go by position.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

import numpy as np

LEAST = 1 << 16  # entries that may wait before a pile is tidied


@dataclass(frozen=True)
class Entries:
    """Places in the text, with the window around each and the latent's activations in it."""

    latent: np.ndarray
    rank: np.ndarray
    """uint32; the lowest stay."""
    position: np.ndarray
    document: np.ndarray
    value: np.ndarray
    before: np.ndarray
    """Tokens of the window before the position, and after it."""
    after: np.ndarray
    length: np.ndarray
    """Active tokens in the window: so many of `at` and `activations` belong to the entry."""
    at: np.ndarray
    activations: np.ndarray

    def __len__(self) -> int:
        return len(self.latent)

    def take(self, places: np.ndarray) -> Entries:
        """Some of the entries."""
        flat = spans((np.cumsum(self.length, dtype=np.int64) - self.length)[places], self.length[places])
        plain = {name: getattr(self, name)[places] for name in PLAIN}
        return Entries(**plain, at=self.at[flat], activations=self.activations[flat])

    @classmethod
    def joined(cls, *parts: Entries) -> Entries:
        """One after the other."""
        return cls(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)})

    @classmethod
    def none(cls) -> Entries:
        return cls(**{name: np.empty(0, kind) for name, kind in KINDS.items()})


KINDS = {
    "latent": np.int32, "rank": np.uint32, "position": np.int64, "document": np.int32, "value": np.float32, "before": np.uint8,
    "after": np.uint8, "length": np.uint16, "at": np.uint8, "activations": np.float16,
}  # fmt: skip
PLAIN = list(KINDS)[:-2]


def spans(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """starts[0], starts[0] + 1, … lengths[0] of them, then those of the next: places of ragged stretches in a flat array."""
    lengths = lengths.astype(np.int64)
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - lengths), lengths)


def first_of_each(keys: np.ndarray, rank: np.ndarray, position: np.ndarray, count: int) -> np.ndarray:
    """Places of the `count` entries of lowest rank of each key (below 2³²), by key, rank and position."""
    packed = keys.astype(np.uint64) << np.uint64(32) | rank
    order = np.argsort(packed)
    ordered = packed[order]
    if (ordered[1:] == ordered[:-1]).any():
        order = np.lexsort((position, packed))
        ordered = packed[order]
    return order[nth(ordered >> np.uint64(32)) < count]


def lowest(keys: np.ndarray, rank: np.ndarray, size: int, count: int) -> np.ndarray:
    """Places among which are the `count` entries of lowest rank of each key, where ranks are drawn by chance: some four times as many.

    No sorting: of n entries those with a rank below 4 · count / n of all stay; where that leaves too few, all do.
    """
    times = np.bincount(keys, minlength=size)
    bar = np.minimum(4 * count / np.maximum(times, 1) * 2.0**32, 2**32 - 1).astype(np.uint32)
    kept = np.flatnonzero(rank <= bar[keys])
    short = np.bincount(keys[kept], minlength=size) < np.minimum(times, count)
    return np.flatnonzero((rank <= bar[keys]) | short[keys]) if short.any() else kept


def nth(keys: np.ndarray) -> np.ndarray:
    """How many equal keys stand before each, in sorted keys."""
    starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]]) if len(keys) else np.empty(0, np.int64)
    return np.arange(len(keys)) - np.repeat(starts, np.diff(np.r_[starts, len(keys)]))


class Pile:
    """Entries that stay, and those that wait to be compared with them.

    `keys` gives each entry's key; a key may change while the stream goes on, but keys may only be joined. With `apart`, only the best
    entry of each (key, document) counts.
    """

    def __init__(self, keys: Callable[[Entries], np.ndarray], size: int, count: int, *, apart: bool = False):
        self.keys, self.count, self.apart = keys, count, apart
        self.bar = np.full(size, 2**32 - 1, np.uint32)
        """By key: no entry of a higher rank can stay."""
        self.kept, self._waiting, self._n = Entries.none(), [], 0

    def add(self, entries: Entries) -> None:
        """Entries that may stay."""
        self._waiting.append(entries)
        self._n += len(entries)
        if self._n > max(LEAST, len(self.kept)):
            self.tidy()

    def tidy(self) -> None:
        """Leave the best of each key, and set the bars."""
        all_ = Entries.joined(self.kept, *self._waiting) if self._waiting else self.kept
        keys = self.keys(all_)
        if self.apart:
            places = self._apart(keys, all_)
        else:
            places = first_of_each(keys, all_.rank, all_.position, self.count)
        self.kept, self._waiting, self._n = all_.take(places), [], 0
        self.bar.fill(2**32 - 1)
        keys = keys[places]
        last = nth(keys) == self.count - 1
        self.bar[keys[last]] = self.kept.rank[last]

    def _apart(self, keys: np.ndarray, entries: Entries) -> np.ndarray:
        """Places of the best entries of each key, no two of one document."""
        for spare in (4, len(entries)):  # few documents come twice, at the seams of pieces
            places = first_of_each(keys, entries.rank, entries.position, self.count + spare)
            packed = keys[places].astype(np.int64) << 32 | entries.document[places]
            once = np.sort(np.unique(packed, return_index=True)[1])
            looked, found = nth(keys[places]), nth(keys[places][once])
            full = keys[places][once][found == self.count - 1]
            cut = keys[places][looked == self.count + spare - 1]
            if np.isin(cut, full).all():
                return places[once][found < self.count]
        raise AssertionError("with all entries none are cut")

    def state(self) -> dict[str, np.ndarray]:
        """All there is to keep."""
        self.tidy()
        return {f.name: getattr(self.kept, f.name) for f in fields(Entries)}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """As it was when `state` was asked for."""
        self.kept = Entries(**{f.name: state[f.name] for f in fields(Entries)})
        self.tidy()
