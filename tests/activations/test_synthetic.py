"""Synthetic: the published averages of SynthSAEBench, and each part of its law."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from assay import coders
from assay.activations.score import score
from assay.activations.synthetic import SMALL, Synthetic, SyntheticConfig, _apart
from assay.errors import BadInput
from assay.train import TrainConfig, train

PLAIN = replace(SMALL, roots=0, correlation=0.0, latents=200, d=16, orthogonal_steps=0, bias=0.0)


def frequencies(config: SyntheticConfig, n: int = 40_000) -> torch.Tensor:
    parts = [Synthetic(config).codes(4000, 0, i)[1] > 0 for i in range(n // 4000)]
    return torch.cat(parts).double().mean(0)


def test_published_averages():
    """About 34 active features in the published model, about 25 of them among the 4,096 most frequent."""
    source = Synthetic()
    _, features, _ = source._active(2048, 0, 0)
    assert source.probabilities[[0, -1]].tolist() == [0.4, 5e-4]
    assert len(features) / 2048 == pytest.approx(34.4, abs=0.6)
    assert (features < 4096).sum().item() / 2048 == pytest.approx(25.1, abs=0.5)
    assert source.config.levels == [0, 128, 640, 2688, 10_880]


def test_zipf_without_trees():
    source = Synthetic(PLAIN)
    assert (source.parents == -1).all()
    p = source.probabilities
    i = torch.arange(1, 201, dtype=torch.float64) ** -0.5
    torch.testing.assert_close((p - p[-1]) / (p[0] - p[-1]), (i - i[-1]) / (i[0] - i[-1]))
    found = frequencies(PLAIN)
    weak = source._mean < 2.5 * source._deviation.cpu()  # whose magnitude now and then falls below 0: no firing
    assert ((found - p).abs() < 5 * (p / 40_000).sqrt() + 0.1 * weak * p).all()


def test_children_fire_below_their_parents_and_exclude_each_other():
    source = Synthetic(SMALL)
    active = torch.cat([source.codes(4000, 0, i)[1] for i in range(3)]) > 0
    child = source.parents >= 0
    assert child.sum() == 680 - 8
    assert not (active[:, child] & ~active[:, source.parents[child]]).any()
    siblings = torch.zeros(len(active), 1024).index_add_(1, source.parents[child], active[:, child].float())
    assert siblings.max() == 1
    free = Synthetic(replace(SMALL, exclusive=False))
    met = torch.zeros(4000, 1024).index_add_(1, free.parents[child], (free.codes(4000, 0)[1] > 0)[:, child].float())
    assert met.max() > 1


def test_compensation_holds_probabilities_where_it_can():
    """Rare children of a frequent parent: their own probability, in spite of exclusion. Too many for the parent: less."""
    tree = SyntheticConfig(
        d=8, latents=5, roots=1, branching=4, depth=1, most=0.4, least=0.01, exponent=3.0, correlation=0.0, deviation_spread=0.0
    )
    p = Synthetic(tree).probabilities
    assert frequencies(tree)[1:].numpy() == pytest.approx(
        p[1:].numpy(), rel=0.15
    )  # published: of the first order, a little too much
    correlated = replace(tree, correlation=0.15)
    assert frequencies(correlated)[1:].sum().item() == pytest.approx(p[1:].sum().item(), rel=0.35)
    crowded = replace(tree, least=0.2, exponent=0.1)
    assert (frequencies(crowded)[1:] < Synthetic(crowded).probabilities[1:] * 0.7).all()


def test_features_correlate_through_shared_factors():
    def pairs(config):
        active = torch.cat([Synthetic(config).codes(4000, 0, i)[1] for i in range(10)])[:, :30] > 0
        return (torch.corrcoef(active.double().T) - torch.eye(30)).square().mean().sqrt().item()

    assert pairs(PLAIN) == pytest.approx(40_000**-0.5, rel=0.15)
    assert pairs(replace(PLAIN, correlation=0.1)) > 3 * 40_000**-0.5
    strong = Synthetic(replace(PLAIN, correlation=0.5))  # loadings would be longer than 1
    assert strong._loadings.square().sum(1).max() == pytest.approx(0.99)
    assert frequencies(strong.config).sum().item() == pytest.approx(strong.probabilities.sum().item(), rel=0.08)


def test_magnitudes_and_bias():
    config = replace(PLAIN, most=1.0, least=0.5, deviation=0.3, deviation_spread=0.0, bias=0.5)
    source = Synthetic(config)
    x, z = source.codes(20_000, 0)
    mean = torch.stack([column[column > 0].mean() for column in z.T])
    torch.testing.assert_close(mean, torch.linspace(5, 4, 200), atol=0.02, rtol=0)
    assert torch.stack([column[column > 0].std() for column in z.T]).mean().item() == pytest.approx(0.3, abs=0.003)
    assert source.offset.norm().item() == pytest.approx(0.5)
    torch.testing.assert_close(x, z @ source.directions + source.offset, atol=1e-3, rtol=1e-4)


def test_children_scaled_by_their_parents():
    config = replace(SMALL, deviation=1.0, deviation_spread=0.0)

    def correlation(scaled):
        source = Synthetic(replace(config, scale_children_by_parent=scaled))
        z = torch.cat([source.codes(4000, 0, i)[1] for i in range(5)])
        both = z[:, 8] > 0
        return torch.corrcoef(torch.stack([z[both, 0], z[both, 8]]))[0, 1].item()

    assert abs(correlation(False)) < 0.15
    assert correlation(True) > 0.4


def test_directions_are_pushed_apart():
    rows = torch.nn.functional.normalize(torch.randn(40, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    apart = _apart(rows, 100, 1e-2)
    torch.testing.assert_close(apart.norm(dim=1), torch.ones(40))

    def crowding(W):
        return (W @ W.T - torch.eye(len(W))).square().sum().item()

    floor = 40**2 / 16 - 40  # no 40 unit vectors in 16 dimensions are further apart (Welch)
    assert crowding(apart) < 1.02 * floor < 0.95 * crowding(rows)
    # The gradient is that of the stated loss.
    W = (rows * 1.1).requires_grad_()
    dots = W @ W.T
    loss = (dots - torch.diag(dots.diag())).square().sum() + 40 * (dots.diag() - 1).square().sum()
    (expected,) = torch.autograd.grad(loss, W)
    plain = W.detach()
    squares = plain.square().sum(1, keepdim=True)
    torch.testing.assert_close(4 * (plain @ (plain.T @ plain) - squares * plain) + 160 * (squares - 1) * plain, expected)


def test_impossible_settings():
    with pytest.raises(BadInput, match="The trees need 10880 features; there are 1024"):
        SyntheticConfig(latents=1024)
    with pytest.raises(BadInput, match="0 < least < most ≤ 1"):
        SyntheticConfig(least=0.5)
    with pytest.raises(BadInput, match="branching and rank ≥ 1"):
        SyntheticConfig(branching=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_a_gpu():
    source = Synthetic(SMALL, device="cuda")
    x, z = source.codes(2000, 0)
    assert x.device.type == "cuda"
    assert torch.equal(x, source.codes(2000, 0)[0])
    assert (z > 0).sum(1).float().mean().item() == pytest.approx(7.3, abs=0.4)
    assert source.fingerprint != Synthetic(SMALL).fingerprint
    assert source.held_out(10).x.shape == (10, 128)


@pytest.mark.slow
def test_architectures_rank_as_published():
    """Published at full size: F1 .88 Matryoshka, .73 BatchTopK, .56 ReLU; explained variance .78, .79, .77.

    Here, seeds 0 to 2: F1 .70 to .74, .60, .48 to .49; explained variance .78 to .79, .82, .78.
    """
    source, seed = Synthetic.small(0), 0
    settings = {"relu": {"l1": 0.2}, "batch_topk": {"k": 5}, "matryoshka": {"k": 5}, "random": {"k": 5}}
    some = {name: coders.new(name, d_in=128, d_sae=256, seed=seed, **more) for name, more in settings.items()}
    for _ in train(some, source, TrainConfig(tokens=800 * 1024, batch=1024, lr=3e-3, dead_after=200_000, seed=seed)):
        pass
    scores = {name: score(coder, source, 8192) for name, coder in some.items()}
    f1 = {name: found["f1"] for name, found in scores.items()}
    assert f1["matryoshka"] - 0.05 > f1["batch_topk"] > f1["relu"] + 0.05
    assert f1["random"] < 0.06 and f1["relu"] > 0.35
    explained = {name: found["explained_variance"] for name, found in scores.items()}
    assert explained["batch_topk"] > explained["matryoshka"] > 0.7 > 0.3 > explained["random"]
    assert scores["relu"]["gamma"] < 0.9 < 0.98 < scores["batch_topk"]["gamma"] < 1.02
