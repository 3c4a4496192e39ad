"""The shuffle shared by all finite sources: rows permuted over the whole corpus, then vectors within blocks of rows.

Each pass permutes all rows, cuts them into blocks of about `buffer_rows`, and permutes the vectors of each block. Every vector
comes exactly once a pass. One block is in memory, two where the next is read ahead, and any batch is found from the rows' sizes
alone. The last rows are held out: a source shuffles the others alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Protocol

import numpy as np
import torch

from assay.activations.read_ahead import Tell, ahead, quiet
from assay.errors import BadInput
from assay.randomness import numpy_generator
from assay.shapes import Tensor

HELD_OUT = 0.02
"""Share of the vectors that is held out unless told otherwise …"""
MOST = 16_384
"""… and how many are at most: a look at more tells no more."""


PIECE = 1024
"""Rows that are picked before they are made fp32: few enough to be in the cache then."""


class Load(Protocol):
    """From row numbers to their vectors, rows in the order given: one [n, d] for each site, all of one n."""

    def __call__(self, rows: np.ndarray, /, tell: Tell = quiet) -> Sequence[Tensor]: ...


def spare(total: int, share: float) -> int:
    """How many of `total` vectors may be held out; one at least is left to learn from."""
    if not 0 <= share < 1:
        raise BadInput(f"held_out_share must be at least 0 and below 1, got {share}.")
    return max(0, min(int(share * total), MOST, total - 1))


def kept_rows(counts: np.ndarray, share: float) -> int:
    """How many rows to learn from: all but the last ones, as many as are within what may be held out."""
    return len(counts) - int(np.searchsorted(np.cumsum(counts[::-1]), spare(int(counts.sum()), share), side="right"))


def held_out_rows(counts: np.ndarray, kept: int, size: int) -> np.ndarray:
    """The rows that hold the first `size` held-out vectors: of those after the `kept` ones, always the same, from all over them."""
    if size < 1:
        raise BadInput(f"{size} held-out vectors were asked for; ask for 1 or more.")
    rows = kept + numpy_generator("held-out rows").permutation(len(counts) - kept)
    rows = rows[counts[rows] > 0]
    return rows[: int(np.searchsorted(np.cumsum(counts[rows]), size)) + 1]


def held_out(counts: np.ndarray, kept: int, load: Load, size: int) -> list[Tensor] | None:
    """Up to `size` vectors, fp32, of the rows after the `kept` ones: always the same. None where there are none."""
    rows = held_out_rows(counts, kept, size)
    return [x[:size].float() for x in load(rows)] if len(rows) else None


def shuffled(
    counts: np.ndarray,
    load: Load,
    *,
    size: int,
    seed: int,
    start: int,
    buffer_rows: int,
    ahead_on: torch.device | None = None,
) -> Iterator[list[Tensor]]:
    """Endless batches of `size` vectors, fp32, from number `start` on: one [size, d] for each tensor that `load` gives.

    `counts` holds the number of vectors of each row. Batch i depends on (counts, buffer_rows, size, seed, i) and on what `load`
    gives, and on nothing else. Batches run across the borders of blocks and passes; short ones do not exist. With `ahead_on`, the
    device of what `load` gives, the next block is loaded in a thread meanwhile.
    """
    total = int(counts.sum())
    if size < 1 or start < 0 or seed < 0 or buffer_rows < 1:
        raise BadInput(
            f"A stream needs size ≥ 1, start ≥ 0, seed ≥ 0 and buffer_rows ≥ 1; got {size}, {start}, {seed}, {buffer_rows}."
        )
    if total == 0:
        raise BadInput("There are no vectors to draw from: the mask is False everywhere. Is the corpus empty?")
    batch: list[Tensor] = []
    missing = size
    jobs = _blocks(counts, buffer_rows, seed, *divmod(start * size, total))
    with closing(ahead(jobs, lambda job, tell: load(job[0], tell), ahead_on)) as blocks:
        for (_, order), block in blocks:
            while len(order):
                take, order = torch.from_numpy(order[:missing]), order[missing:]
                batch = batch or [_room(size, x) for x in block]
                _fill(batch, size - missing, block, take)
                missing -= len(take)
                if missing == 0:
                    yield batch
                    batch, missing = [], size
            del block  # before the next one is loaded


def _room(size: int, x: Tensor) -> Tensor:
    """Room for a batch of rows of x, fp32. numpy, unlike torch, asks for huge pages, and page faults cost more than the copy itself."""
    if x.device.type != "cpu":
        return torch.empty(size, x.shape[1], device=x.device)
    return torch.from_numpy(np.empty((size, x.shape[1]), np.float32))


def _fill(batch: list[Tensor], start: int, block: Sequence[Tensor], take: Tensor) -> None:
    """Copy some rows of a block into a batch from row `start` on, as fp32."""
    for x, whole in zip(block, batch, strict=True):
        into = whole[start : start + len(take)]
        for rows, place in zip(take.to(x.device).split(PIECE), into.split(PIECE)):
            if x.dtype == torch.float32:
                torch.index_select(x, 0, rows, out=place)
            else:
                place.copy_(x.index_select(0, rows))


def _blocks(counts: np.ndarray, buffer_rows: int, seed: int, first: int, skip: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(rows, order of their vectors) of every block from vector `skip` of pass `first` on, without end."""
    for epoch in itertools.count(first):
        rows = numpy_generator("rows of a pass", seed, epoch).permutation(len(counts))
        # equal blocks, lest the last one be so small that its batches come from a few rows
        for number, block in enumerate(np.array_split(rows, -(-len(rows) // buffer_rows))):
            size = int(counts[block].sum())
            if skip < size:
                yield block, numpy_generator("vectors of a block", seed, epoch, number).permutation(size)[skip:]
            skip = max(0, skip - size)
