"""Planted: the statistics of the toy T1 and the measures of recovery."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from assay.activations import Planted
from assay.activations.planted import bias, recovery
from assay.errors import BadInput, WidthMismatch


@pytest.fixture(scope="module")
def planted():
    return Planted()


@pytest.fixture(scope="module")
def sample(planted):
    return planted.codes(40_000, seed=5)


def test_published_statistics(planted, sample):
    x, z = sample
    active = z > 0
    assert planted.probabilities.sum() == pytest.approx(7.26, abs=0.005)
    assert active.sum(1).double().mean().item() == pytest.approx(7.26, abs=0.06)
    assert x.square().sum(1).mean().item() == pytest.approx(1, abs=0.01)
    assert (z[active] / planted.scale).min() >= 0.5 - 1e-6
    assert (z[active] / planted.scale).max() <= 1.5 + 1e-6
    assert (z[active] / planted.scale).mean().item() == pytest.approx(1, abs=0.01)
    frequency = active.double().mean(0)
    expected = torch.from_numpy(planted.probabilities)
    assert ((frequency - expected).abs() < 5 * (expected / len(z)).sqrt()).all()
    pairs = torch.corrcoef(active[:, :40].double().T) - torch.eye(40)
    assert pairs.abs().max() < 5.5 / len(z) ** 0.5  # features fire independently


def test_codes_are_the_truth_behind_the_batches(planted):
    torch.testing.assert_close(planted.directions.norm(dim=1), torch.ones(256))
    for number, batch in enumerate(islice(planted.batches(32, seed=1), 3)):
        x, z = planted.codes(32, seed=1, start=number)
        assert torch.equal(x, batch.x)
        torch.testing.assert_close(x, z @ planted.directions)


def test_seeds_name_dictionaries_and_streams():
    a, b = Planted(8, 16, seed=0), Planted(8, 16, seed=1)
    assert not torch.equal(a.directions, b.directions)
    assert torch.equal(a.directions, Planted(8, 16).directions)
    assert not torch.equal(a.codes(64, 0)[1], b.codes(64, 0)[1])
    with pytest.raises(BadInput, match="latents ≥ 1"):
        Planted(8, 0)


def test_recovery(planted):
    truth = planted.directions
    assert recovery(truth.flip(0) * 3, truth) == {"mmcs": pytest.approx(1), "recovered": 1.0}
    half = recovery(torch.cat([truth[:128], -truth[128:]]), truth)
    assert half["recovered"] == 0.5
    assert 0.5 < half["mmcs"] < 0.8
    chance = recovery(torch.randn(256, 64, generator=torch.Generator().manual_seed(0)), truth)
    assert chance["recovered"] == 0
    assert recovery(torch.zeros(4, 64), truth)["mmcs"] == 0
    with pytest.raises(WidthMismatch):
        recovery(torch.zeros(4, 63), truth)


def test_bias(sample):
    x, _ = sample
    centre = torch.full((64,), 0.3)
    assert bias(x, x) == pytest.approx(1)
    assert bias(x, 0.8 * x) == pytest.approx(0.8)
    assert bias(x, (x - centre) * 0.8 + centre, centre) == pytest.approx(0.8)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)) * 0.05
    x_hat = 0.9 * x + noise
    gamma = bias(x, x_hat)
    errors = [(x - x_hat / g).square().sum() for g in (gamma * 0.98, gamma, gamma * 1.02)]
    assert errors[1] < min(errors[0], errors[2])
    assert bias(x, torch.zeros_like(x)) != bias(x, torch.zeros_like(x))  # NaN
