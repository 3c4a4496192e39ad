"""Latents matched by direction: dictionaries whose splits, merges and strangers are known, chance, and any width in pieces."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from assay import coders
from assay.coders.linear import unit_rows
from assay.errors import WidthMismatch
from assay.matching import decoder, directions, kinds, match, merges, mutual, splits
from assay.randomness import generator

SEEDS = [0, 1, 2]
N, D = 120, 64


def some(n, *name, d=D):
    return unit_rows(torch.randn(n, d, generator=generator("matching test", *name)))


def near(rows, *name, by=0.25):
    """Unit rows a little off: cosines of about .97."""
    return unit_rows(rows + by * some(len(rows), *name))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_same_coder_matches_itself(seed):
    coder = coders.new("topk", d_in=D, d_sae=N, k=4, seed=seed)
    found = match(decoder(coder), decoder(coder))
    for side in (found.a, found.b):
        np.testing.assert_array_equal(side.nearest, np.arange(N))
        np.testing.assert_array_equal(side.partner, np.arange(N))
        np.testing.assert_allclose(side.cosine, 1, atol=1e-5)
        assert side.mmcs == pytest.approx(1, abs=1e-5)
    assert not splits(found) and not merges(found) and mutual(found).all() and kinds(found)["single"].all()


@pytest.mark.parametrize("seed", SEEDS)
def test_planted_splits_merges_and_strangers_are_found(seed):
    """a: 60 shared, 20 that b splits in three each, 30 (ten triples) that b merges, 10 of its own. b: the same, and 15 of its own; shuffled."""
    shared, split, merged = some(60, seed, "shared"), some(20, seed, "split"), some(10, seed, "merged")
    a = torch.cat([shared, split, near(merged.repeat(3, 1), seed, "three"), some(10, seed, "only a")])
    b = torch.cat([near(shared, seed, "again"), near(split.repeat(3, 1), seed, "pieces"), merged, some(15, seed, "only b")])
    order = torch.randperm(len(b), generator=generator("order", seed))
    place = torch.argsort(order).numpy()  # of each of b after the shuffle
    found = match(a, b[order])
    np.testing.assert_array_equal(found.a.nearest[:60], place[:60])
    groups = {g.one: set(g.many) for g in splits(found)}
    assert groups == {60 + i: {int(place[60 + i + 20 * j]) for j in range(3)} for i in range(20)}
    groups = {g.one: set(g.many) for g in merges(found)}
    assert groups == {int(place[120 + i]): {80 + i + 10 * j for j in range(3)} for i in range(10)}
    of_a, of_b = kinds(found), kinds(found.swapped)
    assert set(np.flatnonzero(of_a["unique"])) == set(range(110, 120))
    assert set(np.flatnonzero(of_b["unique"])) == set(place[130:].tolist())
    assert set(np.flatnonzero(of_a["split"])) == set(range(60, 80)) and set(np.flatnonzero(of_a["merged"])) == set(
        range(80, 110)
    )
    np.testing.assert_array_equal(np.flatnonzero(of_a["single"]), np.arange(60))
    assert all(list(g.cosines) == sorted(g.cosines, reverse=True) for g in splits(found))


@pytest.mark.parametrize("seed", SEEDS)
def test_partners_are_the_hungarian_assignment(seed):
    a, b = (
        near(some(90, seed), seed, "a", by=0.7),
        near(some(110, seed)[torch.randperm(110, generator=generator(seed))], seed, by=0.7),
    )
    found = match(a, b, candidates=len(b), floor=0)
    cosines = (a @ b.T).double().numpy()
    i, j = linear_sum_assignment(np.maximum(cosines, 0), maximize=True)
    assert np.nansum(found.a.paired) == pytest.approx(np.maximum(cosines, 0)[i, j].sum(), abs=1e-4)
    assert np.nansum(match(a, b, floor=0).a.paired) > 0.97 * np.nansum(found.a.paired), "eight candidates lose next to nothing"
    for side, other in ((found.a, found.b), (found.b, found.a)):
        own = np.flatnonzero(side.partner >= 0)
        assert len(set(side.partner[own])) == len(own), "one to one"
        np.testing.assert_array_equal(other.partner[side.partner[own]], own)


def test_the_assignment_prefers_the_larger_sum():
    """Both rows like column 0 best; greedy pairs of .9 and 0 are worth less than .8 and .85."""
    partner, cosine = directions.assign(
        np.array([[0.9, 0.8], [0.85, 0.0]]), np.array([[0, 1], [0, 1]]), np.array([0.9, 0.8]), np.array([0, 0])
    )
    assert partner.tolist() == [1, 0] and cosine.tolist() == [0.8, 0.85]
    partner, cosine = directions.assign(np.array([[0.5], [0.6]]), np.array([[0], [0]]), np.array([0.6]), np.array([1]))
    assert partner.tolist() == [-1, 0] and np.isnan(cosine[0]), "one stays alone"


def test_opposite_directions_are_other_latents():
    rows = some(N)
    found = match(rows, -rows)
    assert found.a.cosine.max() < 0.7 and kinds(found)["unique"].all()


def test_dead_latents_are_left_out():
    rows = some(N)
    alive = np.arange(N) % 3 > 0, np.arange(N) % 2 > 0
    found = match(rows, rows, alive)
    both = alive[0] & alive[1]
    np.testing.assert_array_equal(found.a.compared, alive[0])
    np.testing.assert_array_equal(found.a.nearest[both], np.flatnonzero(both))
    assert not (found.a.nearest[alive[0] & ~alive[1]] == np.flatnonzero(alive[0] & ~alive[1])).any(), "their twin is dead"
    assert np.isnan(found.a.cosine[~alive[0]]).all() and (found.a.partner[~alive[0]] == -1).all()
    assert not any(mask[~alive[0]].any() for mask in kinds(found).values())
    nobody = match(rows, rows, (np.zeros(N, bool), alive[1]))
    assert not nobody.a.compared.any() and np.isnan(nobody.a.mmcs) and not mutual(nobody).any()


def test_pieces_of_any_size_give_the_same(monkeypatch):
    a, b = some(N, "a"), some(75, "b")
    whole = match(a, b)
    monkeypatch.setattr(directions, "BLOCK", 7 * 75)
    told = []
    pieces = match(a, b, progress=lambda done, total, unit: told.append((done, total)))
    for side, other in ((whole.a, pieces.a), (whole.b, pieces.b)):
        np.testing.assert_array_equal(side.nearest, other.nearest)
        np.testing.assert_array_equal(side.partner, other.partner)
        np.testing.assert_allclose(side.cosine, other.cosine, atol=1e-6)
    assert told[-1] == (N, N) and len(told) == -(-N // 7) + 1


@pytest.mark.parametrize("seed", SEEDS)
def test_strangers_are_at_chance(seed):
    found = match(some(400, seed, "a"), some(300, seed, "b"), seed=seed)
    for side in (found.a, found.b):
        for values in side.chance.values():
            assert side.mmcs == pytest.approx(values.mean(), abs=0.02)
        assert (side.partner >= 0).mean() < 0.05, "what chance gives is no partner"
    assert found.a.mmcs > 0.3, "which is far from 0"


def test_permuted_coordinates_keep_the_inner_geometry():
    """Rows about one common direction are all alike; permuted they are as alike to each other, and far from the others."""
    common = some(1, "common")
    rows = unit_rows(common + 0.3 * some(N))
    found = match(rows, rows)
    spread = found.a.chance["permuted"].std()
    assert found.a.chance["permuted"].mean() < 0.6 < found.a.mmcs and spread < 0.1


def test_other_spaces_are_refused():
    with pytest.raises(WidthMismatch, match="width 64 and 32"):
        match(some(5), some(5, d=32))
