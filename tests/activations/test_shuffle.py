"""The shuffle: complete, reproducible from any batch, well mixed, bounded."""

from __future__ import annotations

import weakref
from itertools import islice

import numpy as np
import pytest
import torch

from assay.activations.shuffle import MOST, held_out, kept_rows, shuffled, spare
from assay.errors import BadInput

COUNTS = np.array([3, 0, 5, 1, 4, 4, 0, 2, 6, 5])  # 30 vectors


def numbered(counts):
    """A loader that gives each vector's own number and its row."""
    first = np.cumsum(counts) - counts

    def load(rows, tell=None):
        number = np.concatenate([np.arange(first[r], first[r] + counts[r]) for r in rows]) if len(rows) else np.zeros(0)
        return [torch.from_numpy(number)[:, None], torch.from_numpy(np.repeat(rows, counts[rows]))[:, None]]

    return load


def stream(size, start=0, seed=0, counts=COUNTS, buffer_rows=4):
    return shuffled(counts, numbered(counts), size=size, seed=seed, start=start, buffer_rows=buffer_rows)


@pytest.mark.parametrize("buffer_rows", [1, 3, 4, 10, 99])
def test_every_vector_comes_once_a_pass(buffer_rows):
    numbers = torch.cat([b[0] for b in islice(stream(10, buffer_rows=buffer_rows), 9)]).reshape(3, 30)
    assert all(sorted(one.tolist()) == list(range(30)) for one in numbers)
    assert len({tuple(one.tolist()) for one in numbers}) == 3


@pytest.mark.parametrize("size", [1, 7, 10, 30, 37, 95])
def test_any_batch_is_found_without_those_before_it(size):
    straight = list(islice(stream(size), 20))
    assert all(b[0].shape == (size, 1) and b[0].dtype == torch.float32 for b in straight)
    for start in range(20):
        for got, want in zip(next(stream(size, start)), straight[start]):
            assert torch.equal(got, want)


def test_seeds_differ():
    assert not torch.equal(next(stream(30, seed=1))[0], next(stream(30, seed=2))[0])


def test_order_of_rows_and_order_of_vectors_are_independent():
    ranks = [next(stream(50, seed=seed, counts=np.ones(50, dtype=int), buffer_rows=50))[0].ravel() for seed in range(300)]
    assert abs(torch.stack(ranks).mean(0) - 24.5).max() < 5 * (50**2 / 12 / 300) ** 0.5  # no fixed points, no bias by place
    assert abs(np.mean([(r == torch.arange(50)).sum() for r in ranks]) - 1) < 5 / 300**0.5


def test_batches_are_mixed_as_by_chance():
    """Neighbours share a row, and batches hold each row of the block, as often as random draws would."""
    rows, each, size, block = 256, 64, 512, 64
    counts = np.full(rows, each)
    got = torch.cat([b[1] for b in islice(stream(size, counts=counts, buffer_rows=block), rows * each // size)]).ravel().long()
    blocks = got.reshape(4, block * each)
    same = (blocks[:, 1:] == blocks[:, :-1]).double().mean().item()
    chance = (each - 1) / (block * each - 1)
    assert abs(same - chance) < 5 * (chance / blocks.numel()) ** 0.5
    distance = (got[1:] - got[:-1]).abs().double().mean().item()  # rows from anywhere in the corpus stand side by side
    assert abs(distance / (rows / 3) - 1) < 0.1
    for one in blocks:  # chi-square of rows against batches, hypergeometric mean (block-1)(batches-1), spread sqrt(2 · that)
        batches = one.reshape(-1, size)
        table = torch.stack([torch.bincount(b, minlength=rows)[one.unique()] for b in batches]).double()
        chi2 = ((table - size / block) ** 2 / (size / block)).sum().item()
        freedom = (block - 1) * (len(batches) - 1)
        assert abs(chi2 - freedom) < 5 * (2 * freedom) ** 0.5


def test_blocks_are_of_equal_size():
    seen = []
    load = numbered(np.ones(21, dtype=int))
    batches = shuffled(
        np.ones(21, dtype=int), lambda r, tell: seen.append(len(r)) or load(r), size=21, seed=0, start=0, buffer_rows=10
    )
    next(batches)
    assert seen == [7, 7, 7]


def test_one_block_is_alive_and_skipped_ones_are_never_loaded():
    alive, most, loads = weakref.WeakSet(), 0, 0

    class Block(torch.Tensor):
        pass

    def load(rows, tell=None):
        nonlocal most, loads
        loads += 1
        block = torch.arange(len(rows) * 8.0)[:, None].as_subclass(Block)
        alive.add(block)
        most = max(most, len(alive))
        return [block]

    counts = np.full(40, 8)
    batches = shuffled(counts, load, size=24, seed=0, start=1000, buffer_rows=4)
    next(batches)
    assert loads <= 2
    for _ in islice(batches, 60):
        pass
    assert most == 1


@pytest.mark.parametrize("bad", [{"size": 0}, {"start": -1}, {"seed": -1}, {"buffer_rows": 0}])
def test_impossible_requests_are_refused(bad):
    asked = {"size": 4, "start": 0, "seed": 0, "buffer_rows": 2} | bad
    with pytest.raises(BadInput, match="A stream needs"):
        next(shuffled(COUNTS, numbered(COUNTS), **asked))


def test_nothing_to_draw_from():
    with pytest.raises(BadInput, match="no vectors"):
        next(stream(4, counts=np.zeros(3, dtype=int)))


@pytest.mark.parametrize(("share", "kept"), [(0, 10), (0.16, 10), (0.17, 9), (0.4, 8), (0.5, 6), (0.99, 1)])
def test_the_last_rows_within_the_share_are_held_out(share, kept):
    assert kept_rows(COUNTS, share) == kept  # 5, 11, 13, 13, 17 … vectors from the end
    got = held_out(COUNTS, kept, numbered(COUNTS), 100)
    want = list(range(int(COUNTS[:kept].sum()), 30))
    assert got is None if not want else sorted(got[0].ravel().tolist()) == want


def test_held_out_vectors_come_from_rows_all_over():
    counts = np.full(1000, 4)
    got = held_out(counts, 500, numbered(counts), 90)
    assert got[0].shape == (90, 1)
    assert len(got[1].unique()) == 23
    assert got[1].double().mean() == pytest.approx(750, abs=5 * 144 / 23**0.5)
    assert held_out(counts, 1000, numbered(counts), 90) is None
    assert held_out(np.array([3, 0, 0]), 1, numbered(np.array([3, 0, 0])), 90) is None


def test_at_most_so_many_are_held_out_and_one_is_left():
    assert spare(10**9, 0.02) == MOST
    assert spare(100, 0.02) == 2
    assert [spare(n, 0.999999) for n in (0, 1, 2)] == [0, 0, 1]
