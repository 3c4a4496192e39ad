"""Named random generators: one per (task, seed). No two tasks share a stream, and nothing depends on caching or order.

A bare `manual_seed(seed)` would give a planted dictionary and a coder's initial weights the very same numbers.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def seed_of(*name: object) -> int:
    """63 bits that stand for a name such as ("coder", "topk", 0)."""
    return int.from_bytes(hashlib.sha256(repr(name).encode()).digest()[:8], "big") >> 1


def generator(*name: object) -> torch.Generator:
    """A fresh torch generator (CPU) for a name."""
    return torch.Generator().manual_seed(seed_of(*name))


def numpy_generator(*name: object) -> np.random.Generator:
    """A fresh numpy generator for a name."""
    return np.random.Generator(np.random.PCG64(seed_of(*name)))
