"""What the contract cannot know of TopK and BatchTopK: exact sparsity, the threshold, AuxK."""

from __future__ import annotations

import itertools

import pytest
import torch

from assay import coders
from assay.activations.planted import Planted
from assay.coders import losses
from assay.coders.base import Batch, Step
from assay.errors import BadInput, UnknownName
from assay.testing import toy_batch


def make(name, **extra):
    coder = coders.new(name, d_in=16, d_sae=64, **extra)
    coder.initialise(toy_batch(coder))
    return coder.train()


def test_l0_is_exact():
    x = toy_batch(make("topk")).x
    assert (make("topk", k=5).encode(x).latents.offsets.diff() == 5).all()
    code = make("batch_topk", k=5).encode(x)
    assert len(code.latents.values) == 5 * len(x)
    assert code.latents.l0().std() > 0, "BatchTopK may spend its latents where they are needed"


def test_batch_topk_keeps_the_largest():
    coder = make("batch_topk", k=3)
    x = toy_batch(coder).x
    pre = coder.pre_activations(x).relu().detach()
    kept = coder.encode(x).z.detach()
    by_sort = pre.flatten().sort(descending=True).values[: 3 * len(x)]
    torch.testing.assert_close(kept[kept > 0].sort(descending=True).values, by_sort[by_sort > 0])


def test_ties_do_not_break_the_count():
    coder = make("batch_topk", k=2)
    x = toy_batch(coder).x[:1].repeat(50, 1)  # all tokens alike: every value is tied fifty times
    assert len(coder.encode(x).latents.values) == 100


def test_threshold_is_right_from_the_first_batch():
    coder = make("batch_topk", k=4)
    batch = toy_batch(coder, n=2048)
    code = coder.encode(batch.x)
    coder.loss(batch, code, Step(0.0))
    assert coder.eval().encode(toy_batch(coder, n=2048, name="other").x).latents.l0().mean() == pytest.approx(4, rel=0.1)


def test_threshold_is_the_mean_of_minima():
    coder, minima = make("batch_topk", k=4), []
    for i in range(5):
        batch = toy_batch(coder, name=i)
        code = coder.encode(batch.x)
        minima.append(code.latents.values[code.latents.values > 0].min().item())
        coder.loss(batch, code, Step(0.0))
    assert coder.threshold.item() == pytest.approx(sum(minima) / 5, rel=1e-6)


def test_aux_k_reaches_dead_latents_only():
    coder = make("topk", k=4)
    batch, dead = toy_batch(coder), torch.zeros(64, dtype=torch.bool)
    dead[10:30] = True
    losses.aux_k(coder, batch, coder(batch.x), dead, 8).backward()
    assert (coder.W_dec.grad[10:30].abs().sum(1) > 0).any()
    assert (coder.W_enc.grad[:, 10:30].abs().sum(0) > 0).any(), "the encoder of dead latents must learn too"
    alive = ~dead
    assert (coder.W_dec.grad[alive] == 0).all()
    assert (coder.W_enc.grad[:, alive] == 0).all()
    assert losses.aux_k(coder, batch, coder(batch.x), None) == 0


def test_aux_k_is_normalised():
    """Dead latents that say nothing leave the error as it is: 1 when its mean is 0."""
    coder = make("topk", k=4)
    with torch.no_grad():
        coder.b_enc[:32] = -100.0
    x = toy_batch(coder).x
    batch, dead = Batch.of(x - x.mean(0)), torch.arange(64) < 32
    y_hat = torch.zeros_like(batch.x)
    assert losses.aux_k(coder, batch, y_hat, dead).item() == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("name", ["topk", "batch_topk"])
def test_aux_k_revives_forced_dead_latents(name):
    """Half the latents start too weak ever to be among the largest: AuxK brings them back, without it they stay dead."""

    def dead_share(aux_weight):
        source = Planted(d=32, latents=64, seed=0)
        coder = coders.new(name, d_in=32, d_sae=64, k=3, aux_weight=aux_weight)
        coder.initialise(next(source.batches(4096, 9)))
        coder.train()
        with torch.no_grad():
            coder.W_enc[:, :32] *= 0.1
            coder.b_enc[:32] = -0.05
        optimiser = torch.optim.Adam(coder.parameters(), lr=3e-3)
        since = torch.zeros(64)
        for batch in itertools.islice(source.batches(512, 0), 600):
            code = coder.encode(batch.x)
            since += len(batch.x)
            since[code.latents.fired()] = 0
            loss = torch.stack([t.reshape(()) for t in coder.loss(batch, code, Step(0.5, since > 5000)).values()]).sum()
            optimiser.zero_grad()
            loss.backward()
            coder.constrain_gradient()
            optimiser.step()
            coder.constrain()
        return (since[:32] > 5000).float().mean().item()

    without, with_aux = dead_share(0.0), dead_share(1 / 32)
    assert without > 0.9
    assert with_aux < 0.2 * without


def test_bad_settings():
    with pytest.raises(BadInput, match="k must lie between 1 and d_sae = 64, got 65"):
        make("topk", k=65)
    with pytest.raises(UnknownName, match=r"No setting of topk named 'kk'. Did you mean 'k'\?"):
        make("topk", kk=3)
    with pytest.raises(BadInput, match="topk also needs: d_sae"):
        coders.new("topk", d_in=4)
