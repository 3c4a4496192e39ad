from __future__ import annotations

import pytest
import torch

from assay import coders
from assay.activations.planted import Planted
from assay.coders.base import Batch
from assay.coders.matching_pursuit import MatchingPursuit, MatchingPursuitConfig
from assay.coders.oracle import Oracle
from assay.coders.permuted_decoder import PermutedDecoder
from assay.errors import BadInput
from assay.randomness import generator
from assay.testing import toy_batch


def fvu(coder, x):
    return ((x - coder(x)).square().sum() / (x - x.mean(0)).square().sum()).item()


def ready(name, **extra):
    coder = coders.new(name, d_in=16, **{"d_sae": 32} | extra)
    coder.initialise(toy_batch(coder, n=4096))
    return coder.eval()


def test_complete_dictionaries_are_exact():
    for name in ("identity", "pca"):
        coder = ready(name)
        assert fvu(coder, toy_batch(coder).x) < 1e-9


def test_pca_equals_the_svd():
    coder = ready("pca", d_sae=8)
    x = toy_batch(coder, n=4096).x
    singular = torch.linalg.svdvals(x - x.mean(0))
    assert fvu(coder, x) == pytest.approx((singular[4:] ** 2).sum().item() / (singular**2).sum().item(), rel=1e-4)


def test_pca_is_the_best_of_the_sparse_baselines():
    x = toy_batch(ready("pca")).x
    assert fvu(ready("pca", k=4), x) < fvu(ready("identity", k=4), x) < 1
    assert fvu(ready("random", k=4, d_sae=64), x) < 1, "one gain keeps random directions from doing harm"


def test_permuted_decoder_keeps_latents_and_loses_meaning():
    coder = coders.new("topk", d_in=16, d_sae=32, k=4)
    coder.initialise(toy_batch(coder))
    twin = PermutedDecoder.of(coder.eval(), "topk", seed=3)
    x = toy_batch(coder).x
    assert torch.equal(coder.encode(x).z, twin.encode(x).z)
    assert torch.equal(twin.W_dec.norm(dim=1).sort().values, coder.W_dec.norm(dim=1).sort().values)
    assert fvu(twin, x) > 1 > fvu(coder, x)


def test_oracle_finds_the_codes_of_sparse_vectors():
    source = Planted(d=32, latents=64)
    x, z = source.codes(2000, "oracle")
    sparse = (z > 0).sum(1) <= 4
    oracle = Oracle.of(source.directions, source.offset)
    found = oracle.encode(x).z
    assert ((found > 0.01) == (z > 0))[sparse].all(1).double().mean() > 0.95
    assert fvu(oracle, x) < 0.001, "with half as many features as dimensions hardly anything is left over"
    few = Oracle.of(source.directions, source.offset, 2)
    assert few.encode(x).latents.l0().max() == 2
    assert 0.05 < fvu(few, x) < 0.5
    best = MatchingPursuit(MatchingPursuitConfig(d_in=32, d_sae=64, k=4))
    best.W_dec.data.copy_(source.directions)
    assert fvu(Oracle.of(source.directions, k=4), x) < fvu(best, x), "least squares anew beats what was taken first"


def test_oracle_keeps_what_it_knows():
    source = Planted(d=16, latents=24)
    oracle = Oracle.of(source.directions, torch.full((16,), 0.5), 3)
    oracle.initialise(Batch.of(torch.randn(64, 16, generator=generator("other data"))))
    torch.testing.assert_close(oracle.W_dec, source.directions)
    assert (oracle.b_dec == 0.5).all()
    doubled = Oracle.of(torch.cat([source.directions, source.directions]), 0.0, 3)
    x, _ = source.codes(256, "twice")
    assert doubled(x).isfinite().all(), "rows that occur twice leave no unique solution"
    assert (oracle(torch.zeros(4, 16)).isfinite()).all()


def test_widths_are_checked():
    with pytest.raises(BadInput, match=r"d_sae must be 2·d_in = 32, got 30"):
        coders.new("identity", d_in=16, d_sae=30)
    with pytest.raises(BadInput, match=r"at most 2·d_in = 32; got 40"):
        coders.new("pca", d_in=16, d_sae=40)
    with pytest.raises(BadInput, match="predicts what it reads"):
        coders.new("random", d_in=16, d_sae=40, d_out=8)


def test_the_mean_is_the_floor():
    """With an infinitesimal signal a baseline still predicts the mean: FVU 1, never more."""
    coder = ready("random", k=1, d_sae=64)
    x = coder.b_dec + 1e-3 * torch.randn(512, 16, generator=generator("floor"))
    assert fvu(coder, x) < 1.05
    assert Batch.of(x).y is x
