"""One set of latents for two sites: shared and exclusive features are told apart, and sites weigh alike."""

from __future__ import annotations

import itertools

import pytest
import torch

from assay import coders
from assay.coders.base import Batch, Step
from assay.coders.linear import unit_rows
from assay.errors import BadInput
from assay.randomness import generator
from assay.testing import ready, toy_batch
from assay.train import TrainConfig, train

D, GROUP = 16, 10


class TwoModels:
    """Features of model A alone, shared ones (another direction in each), and of B alone. B's activations are ten times larger."""

    tokens, fingerprint, d_in, d_out = None, "two models", 2 * D, 2 * D

    def __init__(self, seed: int):
        random = generator("two models", seed)
        a, b = (unit_rows(torch.randn(3 * GROUP, D, generator=random)) for _ in "ab")
        a[2 * GROUP :], b[:GROUP] = 0, 0
        self.rows, self.seed = torch.cat([a, b], 1), seed

    def batches(self, size, seed, start=0):
        for number in itertools.count(start):
            random = generator("two models codes", self.seed, seed, number)
            active = torch.rand(size, 3 * GROUP, generator=random) < 0.06
            x = (active * (0.5 + torch.rand(size, 3 * GROUP, generator=random))) @ self.rows
            x[:, D:] *= 10
            yield Batch.of(x)

    def held_out(self, size):
        return next(self.batches(size, "held out"))

    def describe(self):
        return {"kind": "two models"}


def trained(seed, steps=500, **settings):
    source = TwoModels(seed)
    coder = coders.new("crosscoder", seed=seed, d_in=2 * D, d_sae=40, **settings)
    list(train({"c": coder}, source, TrainConfig(tokens=steps * 256, batch=256, lr=5e-3, log_every=steps, dead_after=20_000)))
    return coder, source


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("norm", ["sum", "joint"])
def test_shared_and_exclusive_features_are_told_apart(seed, norm):
    coder, source = trained(seed, of="batch_topk", settings="k=2", norm=norm)
    best = (unit_rows(source.rows) @ unit_rows(coder.inner.W_dec.detach()).T).max(1)
    rho = coder.relative_norms()[best.indices, 1]
    for group, (true, cosine) in enumerate(zip((0.0, 0.5, 1.0), best.values.split(GROUP))):
        found = rho[group * GROUP : (group + 1) * GROUP]
        assert cosine.mean() > 0.85, f"features of group {group} are found: {cosine}"
        assert (found - true).abs().median() < 0.1, f"ρ of group {group} is {true}: {found}"


def test_sites_weigh_alike_whatever_their_size():
    coder = coders.new("crosscoder", d_in=2 * D, d_sae=40, settings="k=2")
    batch = next(TwoModels(0).batches(4096, 0))
    coder.initialise(batch)
    inside = coder.inside(batch).x
    squares = [part.square().sum(1).mean().item() for part in inside.split(D, dim=1)]
    assert squares[0] == pytest.approx(squares[1], rel=1e-5)
    zero = batch.x.clone()
    zero[:, D:] = 0
    with pytest.raises(BadInput, match="Site 1 of 2 is 0 everywhere"):
        coder.initialise(Batch.of(zero))


@pytest.mark.parametrize("norm", ["sum", "joint"])
def test_the_norm_is_kept_and_its_gradient_taken_out(norm):
    coder = ready(
        lambda seed: coders.new("crosscoder", seed=seed, d_in=16, d_sae=32, widths=(5, 4, 7), norm=norm, settings="k=4")
    )
    W = coder.inner.W_dec
    kept = coder.site_norms().sum(1) if norm == "sum" else W.norm(dim=1)
    torch.testing.assert_close(kept, torch.ones(32))
    coder.zero_grad()
    batch = toy_batch(coder)
    coder.loss(batch, coder.encode(batch.x), Step())["mse"].backward()
    coder.constrain_gradient()
    step = 1e-3 * W.grad / W.grad.norm(dim=1, keepdim=True).clamp_min(1e-12)

    def measure(W):
        return sum(p.norm(dim=1) for p in W.split([5, 4, 7], dim=1)) if norm == "sum" else W.norm(dim=1)

    slope = (measure((W + step).double()) - measure((W - step).double())).abs() / 2e-3
    assert slope.max() < 1e-3, "a small step along the gradient does not change the norm"


def test_penalties_see_the_sum_of_norms():
    """f in the inner coder's penalty is f · Σ‖d_s‖ of the same code under any other lengths of the rows."""
    coder = ready(lambda seed: coders.new("crosscoder", seed=seed, d_in=16, d_sae=32, of="relu", settings="l1=1,l1_warm_up=0"))
    batch = toy_batch(coder)
    code = coder.encode(batch.x)
    want = (code.z * coder.site_norms().sum(1)).sum(1).mean()
    torch.testing.assert_close(coder.loss(batch, code, Step())["l1"], want)


@pytest.mark.parametrize("of", ["topk", "batch_topk", "gated", "jumprelu"])
def test_folded_and_each_site_alone(of):
    settings = "k=4" if "topk" in of else ""
    coder = ready(lambda seed: coders.new("crosscoder", seed=seed, d_in=16, d_sae=32, widths=(5, 11), of=of, settings=settings))
    coder.eval().rescale(2.0, 2.0)
    x = toy_batch(coder).x / 2
    assert (coder.site_scale - 1).abs().max() > 0.01
    form, whole = coder.folded(), coder(x)
    torch.testing.assert_close(form(x), whole, rtol=1e-4, atol=1e-5)
    for number, part in enumerate(whole.split([5, 11], dim=1)):
        alone = coder.site(number)
        assert (alone.d_in, alone.d_out) == (16, part.shape[1])
        torch.testing.assert_close(alone(x), part, rtol=1e-4, atol=1e-5)
    with pytest.raises(BadInput, match="There are 2 sites, numbered from 0; got 2"):
        coder.site(2)


def test_impossible_settings():
    for wrong in ({"widths": (8, 7)}, {"d_in": 15}, {"d_out": 8}, {"widths": (16, 0)}):
        with pytest.raises(BadInput, match="their widths add up to d_in"):
            coders.new("crosscoder", **({"d_in": 16, "d_sae": 32} | wrong))
    with pytest.raises(BadInput, match="decoder=free"):
        coders.new("crosscoder", d_in=16, d_sae=32, of="relu", settings="decoder=free")
    assert coders.new("crosscoder", d_in=16, d_sae=32, widths=[6, 10]).config.widths == (6, 10)
