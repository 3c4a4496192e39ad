"""Normalised coders: a vector's own length and mean do not matter, and come back."""

from __future__ import annotations

import pytest
import torch

from assay import coders
from assay.activations import Planted
from assay.activations.planted import recovery
from assay.coders.base import Batch, Step
from assay.randomness import generator
from assay.testing import CODER_CHECKS
from assay.train import TrainConfig, train

INNER = {"topk": "k=4", "batch_topk": "k=4", "matryoshka": "k=4", "jumprelu": "", "relu": "", "gated": "", "p_anneal": ""}


def coder(norm: str, of: str = "topk", d: int = 16):
    return coders.new("normalised", d_in=d, d_sae=32, of=of, settings=INNER[of], norm=norm)


@pytest.mark.parametrize("norm", ["layer", "length"])
def test_length_changes_nothing_but_the_length(norm):
    x = torch.randn(64, 16, generator=generator("x")) + 0.5
    one = coder(norm).eval()
    one.inner.initialise(Batch.of(x))
    factor = 0.1 + 10 * torch.rand(64, 1, generator=generator("factor"))
    torch.testing.assert_close(one.encode(x * factor).z, one.encode(x).z, rtol=2e-4, atol=1e-4)
    torch.testing.assert_close(one(x * factor), one(x) * factor, rtol=2e-4, atol=1e-3)
    shifted = one(x + 3.0) - 3.0
    assert torch.allclose(shifted, one(x), atol=1e-4) == (norm == "layer")
    assert torch.isfinite(one(torch.zeros(2, 16))).all()


@pytest.mark.parametrize("norm", ["layer", "length"])
def test_the_loss_is_that_of_normalised_vectors(norm):
    """So that no vector weighs more for being long, and end-to-end losses still see vectors of the model."""
    one, x = coder(norm).train(), torch.randn(64, 16, generator=generator("x")) * torch.rand(64, 1, generator=generator("f"))
    seen = []
    terms = one.loss(Batch.of(x), one.encode(x), Step())
    centre, divisor, _ = one.measure(x)
    inner = one.inner.loss(Batch.of((x - centre) / divisor), one.inner.encode((x - centre) / divisor), Step())
    torch.testing.assert_close(terms["mse"], inner["mse"])
    ahead = one.inside(Batch(x, x, ahead=lambda y: {"kl": seen.append(y) or y.sum()})).ahead
    assert ahead is not None
    ahead(one.inner((x - centre) / divisor))
    torch.testing.assert_close(seen[0], one(x), rtol=1e-5, atol=1e-6)


def test_features_are_found_whatever_the_lengths():
    """Planted features in vectors whose lengths differ a hundredfold: normalised coders find them, others do not."""

    class Uneven(Planted):
        def batches(self, size, seed, start=0):
            for number, batch in enumerate(super().batches(size, seed, start)):
                random = generator("lengths", seed, start + number)
                yield Batch.of(batch.x * 10 ** (2 * torch.rand(len(batch.x), 1, generator=random) - 2))

    found = {}
    for seed in (0, 1):
        source = Uneven(d=32, latents=48, seed=seed)
        pair = {
            "topk": coders.new("topk", d_in=32, d_sae=48, k=3, seed=seed),
            "normalised": coders.new("normalised", d_in=32, d_sae=48, of="topk", settings="k=3", norm="length", seed=seed),
        }
        list(train(pair, source, TrainConfig(tokens=60_000, batch=256, lr=3e-3)))
        for name, one in pair.items():
            found[name, seed] = recovery(one.W_dec.detach(), source.directions)
    for seed in (0, 1):
        assert found["normalised", seed]["mmcs"] > found["topk", seed]["mmcs"] + 0.08, found  # .14 to .18 over four seeds
        assert found["normalised", seed]["recovered"] > 0.6, found  # .71 to .83, against .08 to .23


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["layer", "length"])
@pytest.mark.parametrize("of", INNER)
def test_contract_around_every_architecture(of, norm):
    for check in CODER_CHECKS:
        check(lambda seed: coders.new("normalised", seed=seed, d_in=16, d_sae=32, of=of, settings=INNER[of], norm=norm))
