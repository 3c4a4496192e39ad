"""Bins of activations, read off the bits of float32: eight to an octave, and for drawing examples coarser the further below the maximum.

Bin 8·o + s holds [2^e·(1 + s/8), 2^e·(1 + (s + 1)/8)), e = o − 16; the first and last bins also hold what lies beyond. So counts are
sums of integers, and the same in whatever order tokens come.
"""

from __future__ import annotations

import numpy as np

OCTAVES, PARTS = 32, 8
BINS = OCTAVES * PARTS
LOWEST = -16  # exponent of the first octave; the last one ends at 2^16, where float16 ends
SLOTS = 24  # strata of a latent's activations from which examples are drawn
INTERVALS = 10
_FINE = np.array([8, 8, 4, 2, 1])  # strata of the octave of the maximum, and of each below it; all below those are one


def _slots() -> np.ndarray:
    """Stratum of each (octaves below the maximum's, part of the octave): [6, 8], flat."""
    table, first = np.full((6, PARTS), SLOTS - 1, np.uint8), 0
    for below, strata in enumerate(_FINE):
        table[below] = first + np.arange(PARTS) * strata // PARTS
        first += strata
    assert first == SLOTS - 1
    return table.reshape(-1)


_SLOTS = _slots()


def bins_of(values: np.ndarray) -> np.ndarray:
    """Bin of each positive float32: uint8."""
    found = (values.view(np.int32) >> 20) - (127 + LOWEST) * PARTS
    return np.clip(found, 0, BINS - 1, out=found).astype(np.uint8)


def edges() -> np.ndarray:
    """The BINS + 1 edges, as float64."""
    number = np.arange(BINS + 1)
    return 2.0 ** (number // PARTS + LOWEST) * (1 + number % PARTS / PARTS)


def slots_of(bins: np.ndarray, octave: np.ndarray) -> np.ndarray:
    """Stratum of each bin where the maximum lies in `octave`: uint8. When the maximum grows, strata are only ever joined."""
    below = np.minimum(octave - (bins >> 3), np.uint8(5))
    return _SLOTS[below << 3 | bins & 7]


def interval_edges(maximum: np.ndarray) -> np.ndarray:
    """[n, 11]: 0, the nine edges of strata nearest to tenths of the maximum (within 1/16 of it), the maximum."""
    tenths = maximum.astype(np.float64)[:, None] * np.arange(1, INTERVALS) / INTERVALS
    octave = np.floor(np.log2(tenths))
    below = np.floor(np.log2(maximum.astype(np.float64)))[:, None] - octave
    width = 2.0**octave / _FINE[np.minimum(below, len(_FINE) - 1).astype(np.int64)]
    inner = np.rint(tenths / width) * width
    return np.concatenate([np.zeros((len(maximum), 1)), inner, maximum.astype(np.float64)[:, None]], axis=1)


def interval_of(values: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """Interval of each value: how many of the nine inner edges [n, 9] it reaches."""
    return (values[:, None] >= inner).sum(1)


def interval_counts(histogram: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """[n, 10] active tokens in each interval: sums of whole bins [n, BINS]."""
    lower = edges()[:-1]
    upto = np.concatenate([np.zeros((len(histogram), 1), np.int64), histogram.cumsum(1)], axis=1)
    place = np.searchsorted(lower, inner.reshape(-1)).reshape(inner.shape)  # bins below an edge, for edges are bins' edges
    cuts = np.concatenate([np.zeros((len(inner), 1), np.int64), place, np.full((len(inner), 1), BINS)], axis=1)
    return np.diff(np.take_along_axis(upto, cuts, axis=1), axis=1)
