"""Mixed: fixed shares, the same contract as any source."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice

import pytest
import torch

from assay.activations import Mixed, Planted, Tensors
from assay.coders.base import Batch
from assay.errors import BadInput, WidthMismatch


def numbers(n, above=0.0, **settings):
    """n vectors that say from which source and the how-manieth they are."""
    return Tensors(torch.arange(n * 2.0).reshape(n, 2) + above, **settings)


def test_shares_are_kept_in_every_batch():
    mixed = Mixed([(numbers(200), 5), (numbers(300, 1e6), 3), (numbers(100, 2e6), 2)])
    for size, want in ((10, [5, 3, 2]), (7, [4, 2, 1]), (3, [1, 1, 1])):
        for batch in islice(mixed.batches(size, seed=0), 20):
            assert torch.bincount((batch.x[:, 0] // 1e6).long()).tolist() == want
            assert batch.y is batch.x


def test_batch_i_is_a_pure_function_through_several_passes():
    mixed = Mixed([(numbers(40), 1), (numbers(60, 1e6), 2)])
    straight = list(islice(mixed.batches(9, seed=3), 30))
    for start in (0, 1, 13, 29):
        assert torch.equal(next(mixed.batches(9, 3, start)).x, straight[start].x)
    assert not torch.equal(next(mixed.batches(9, 4)).x, straight[0].x)
    seen = torch.cat([batch.x for batch in straight[: mixed.tokens // 9]])
    assert len(seen.unique(dim=0)) == len(seen), "a vector came twice within a pass"


def test_a_mixture_of_one_is_that_source():
    one = numbers(40)
    assert torch.equal(next(Mixed([(one, 7)]).batches(9, 0, 2)).x, next(one.batches(9, 0, 2)).x)


def test_passes_end_with_the_first_source():
    assert Mixed([(numbers(100, held_out_share=0), 1), (numbers(900, 1e6, held_out_share=0), 3)]).tokens == 400
    endless = Planted(2, 4)
    assert Mixed([(endless, 1)]).tokens is None
    assert Mixed([(endless, 1), (numbers(100, held_out_share=0), 1)]).tokens == 200


def test_held_out_vectors_in_the_same_shares():
    mixed = Mixed([(numbers(100, held_out_share=0.2), 1), (numbers(100, 1e6, held_out_share=0.1), 1)])
    trained = {tuple(v) for b in islice(mixed.batches(10, seed=0), 40) for v in b.x.tolist()}
    for size, n in ((8, 4), (1000, 10)):  # the second source has 10
        held = mixed.held_out(size)
        assert torch.bincount((held.x[:, 0] // 1e6).long()).tolist() == [n, n]
        assert not trained & {tuple(v) for v in held.x.tolist()}
        assert held.y is held.x
    assert Mixed([(numbers(100), 1), (numbers(100, 1e6, held_out_share=0), 1)]).held_out(10) is None
    assert mixed.held_out(1) is None


def test_pairs_stay_together():
    x = torch.arange(100.0)[:, None]
    mixed = Mixed([(Tensors(x, x * 2), 1), (Tensors(x + 1e3, x * 2 + 2e3), 1)])
    for batch in (next(mixed.batches(50, seed=0)), mixed.held_out(4)):
        assert torch.equal(batch.y, batch.x * 2)


def test_its_identity_is_that_of_its_parts():
    a, b, c = numbers(40), numbers(60, 1e6), numbers(61, 1e6)
    made = [[(a, 1), (b, 1)], [(a, 1), (b, 2)], [(a, 1), (c, 1)], [(b, 1), (a, 1)]]
    assert len({Mixed(parts).fingerprint for parts in made}) == 4
    assert Mixed([(a, 1), (b, 1)]).fingerprint == Mixed([(a, 2), (b, 2)]).fingerprint
    assert json.loads(json.dumps(Mixed(made[0]).describe()))["parts"][1]["share"] == 0.5


class Ahead(Planted):
    def batches(self, size, seed, start=0):
        return (replace(batch, ahead=lambda y: {}) for batch in super().batches(size, seed, start))


@pytest.mark.parametrize(
    ("parts", "error", "told"),
    [
        ([], BadInput, "at least one"),
        ([(numbers(40), 0)], BadInput, "above 0"),
        ([(numbers(40), float("nan"))], BadInput, "above 0"),
        ([(numbers(40), 1), (numbers(40), 1)], BadInput, "twice"),
        ([(numbers(40), 1), (Planted(3, 4), 1)], WidthMismatch, "equally wide"),
    ],
)
def test_mixtures_that_make_no_sense(parts, error, told):
    with pytest.raises(error, match=told):
        Mixed(parts)


def test_batches_that_cannot_be_mixed():
    with pytest.raises(BadInput, match=r"share is 0\.01"):
        next(Mixed([(numbers(40), 99), (numbers(60), 1)]).batches(30, 0))
    with pytest.raises(BadInput, match="A stream needs"):
        next(Mixed([(numbers(40), 1)]).batches(4, 0, -1))
    with pytest.raises(BadInput, match="End-to-end"):
        next(Mixed([(Ahead(2, 4), 1), (numbers(40), 1)]).batches(4, 0))
    assert isinstance(next(Mixed([(numbers(40), 1)]).batches(4, 0)), Batch)
