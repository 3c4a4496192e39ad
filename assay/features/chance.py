"""Chance without a stream: 32 random bits for each number under a name, the same whatever else is asked for, and in whatever order."""

from __future__ import annotations

import functools

import numpy as np

from assay.store import digest


@functools.cache
def _seed(name: str) -> np.uint64:
    return np.uint64(int(digest(["features", name])[:16], 16))


def mixed(numbers: np.ndarray, name: str) -> np.ndarray:
    """uint32 for each whole number: the upper half of splitmix64 (Steele et al. 2014)."""
    x = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + _seed(name)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((x ^ (x >> np.uint64(31))) >> np.uint64(32)).astype(np.uint32)


def both(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """uint32 of pairs, out of the uint32 of each (the finaliser of MurmurHash3)."""
    x = first ^ (second * np.uint32(0x9E3779B1))
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x85EBCA6B)
    x ^= x >> np.uint32(13)
    x *= np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))
