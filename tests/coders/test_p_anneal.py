"""What the contract cannot know of p-anneal: when p moves, what the penalty is worth then, and its slope at 0."""

from __future__ import annotations

import pytest
import torch

from assay import coders
from assay.activations.planted import Planted, bias
from assay.coders.base import Step
from assay.coders.p_anneal import AnnealedPenalty, power_sum
from assay.errors import BadInput
from assay.randomness import generator
from assay.testing import check_resume, ready, toy_batch
from assay.train import TrainConfig, train


def activations(name, n=256):
    """A stationary stream of sparse activations."""
    random = generator("annealed", name)
    return torch.rand(n, 64, generator=random) * (torch.rand(n, 64, generator=random) < 0.1)


def test_p_falls_in_equal_steps_after_the_start():
    penalty, steps, ps = AnnealedPenalty(0.2, 0.5, 4), 400, []
    for i in range(steps):
        penalty(activations(0, 2), (i + 1) / steps)
        ps.append(penalty.p(int(penalty.stage)))
    changes = [i + 1 for i in range(1, steps) if ps[i] != ps[i - 1]]
    assert changes == [200, 250, 300, 350]
    assert sorted(set(ps), reverse=True) == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])


def test_penalty_is_continuous():
    penalty = AnnealedPenalty(0.2, 0.2, 10)
    values = torch.tensor([penalty(activations(i), (i + 1) / 200) for i in range(200)])
    assert penalty.stage == 10 and penalty.factor != 1
    change = (values[1:] / values[:-1]).log().abs()
    noise = (values[:39] / values[1:40]).log().abs().max()
    assert change.max() < max(0.05, 1.5 * noise)
    assert (values[-20:].mean() / values[:20].mean()).item() == pytest.approx(1.0, abs=0.05), "nor does it drift"


def test_factor_is_the_ratio_of_the_last_ten_batches():
    penalty = AnnealedPenalty(0.2, 0.5, 1)
    for i in range(25):
        penalty(activations(i), 0.0)
    penalty(activations(25), 0.5)
    last = [activations(i) for i in range(16, 26)]
    expected = sum(power_sum(f, 1.0) for f in last) / sum(power_sum(f, 0.2) for f in last)
    assert penalty.factor.item() == pytest.approx(expected.item(), rel=1e-5)


def test_late_start_takes_one_step_a_batch():
    penalty, stages, expected = AnnealedPenalty(0.2, 0.2, 5), [], 1.0
    for i in range(7):
        f = activations(i) * (1 + i)  # each change looks at its own batch, not at those before the last change
        if i < 5:
            expected *= (power_sum(f, penalty.p(i)) / power_sum(f, penalty.p(i + 1))).item()
        penalty(f, 1.0)
        stages.append(int(penalty.stage))
    assert stages == [1, 2, 3, 4, 5, 5, 5]
    assert penalty.factor.item() == pytest.approx(expected, rel=1e-5)


def test_a_change_forgets_the_batches_before_the_last():
    penalty = AnnealedPenalty(0.2, 0.5, 2)
    for i in range(5):
        penalty(9 * activations(i), 0.0)
    penalty(activations(5), 0.5)
    before, f = penalty.factor.item(), activations(6)
    penalty(f, 1.0)
    assert penalty.factor.item() == pytest.approx(before * (power_sum(f, 0.6) / power_sum(f, 0.2)).item(), rel=1e-5)


def test_resumes_exactly_before_a_change():
    """The contract's run has a change at every step; here the ten batches span the interruption."""
    check_resume(lambda seed: coders.new("p_anneal", d_in=16, d_sae=32, anneal_start=0.6, anneal_steps=1, seed=seed))


def test_looking_changes_nothing():
    penalty = AnnealedPenalty(0.2, 0.2, 5).eval()
    before = {k: v.clone() for k, v in penalty.state_dict().items()}
    penalty(activations(0), 1.0)
    assert all(torch.equal(v, before[k]) for k, v in penalty.state_dict().items())


def test_slope_is_finite_at_and_near_zero():
    f = torch.tensor([[0.0, 1e-30, 1e-8, 0.3]], requires_grad=True)
    power_sum(f, 0.2).backward()
    assert torch.isfinite(f.grad).all() and f.grad.max() < 100
    assert f.grad[0, 3].item() == pytest.approx(0.2 * 0.3**-0.8, rel=0.01)
    exact = (activations(0) ** 0.2).sum()
    assert power_sum(torch.zeros(3, 4), 0.2) == 0
    assert power_sum(activations(0).clamp_min(0), 1.0) > 0 and power_sum(activations(0), 0.2) < exact


def test_silence_does_not_break_the_weight():
    penalty = AnnealedPenalty(0.2, 0.2, 5)
    for _ in range(6):
        assert penalty(torch.zeros(4, 8), 1.0) == 0
    assert penalty.factor == 1


def test_without_annealing_it_is_l1():
    coder = ready(lambda seed: coders.new("p_anneal", d_in=16, d_sae=32, p_end=1.0, seed=seed))
    relu = coders.new("relu", d_in=16, d_sae=32)
    relu.load_state_dict({k: v for k, v in coder.state_dict().items() if not k.startswith("penalty.")})
    batch = toy_batch(coder)
    for fraction in (0.03, 0.5, 1.0):
        ours = coder.loss(batch, coder.encode(batch.x), Step(fraction))
        theirs = relu.loss(batch, relu.encode(batch.x), Step(fraction))
        assert ours["mse"] == theirs["mse"] and ours["lp"] == theirs["l1"]


def test_shrinks_less_than_l1():
    source = Planted(d=16, latents=32, seed=0)
    some = {name: coders.new(name, d_in=16, d_sae=32, l1=0.1) for name in ("p_anneal", "relu")}
    for _ in train(some, source, TrainConfig(tokens=250 * 128, batch=128, lr=1e-2, beta1=0.0, log_every=250)):
        pass
    x, _ = source.codes(4096, seed=1)
    with torch.no_grad():
        gamma = {name: bias(x, coder(x), coder.b_dec) for name, coder in some.items()}
        l0 = {name: coder.encode(x).latents.l0().mean() for name, coder in some.items()}
    assert 1 - gamma["p_anneal"] < 0.5 * (1 - gamma["relu"])
    assert l0["p_anneal"] < l0["relu"]


@pytest.mark.parametrize("bad", [{"p_end": 0.0}, {"p_end": 1.5}, {"anneal_start": 1.0}, {"anneal_steps": 0}, {"l1": -1.0}])
def test_bad_settings(bad):
    with pytest.raises(BadInput, match=str(next(iter(bad.values())))):
        coders.new("p_anneal", d_in=16, d_sae=32, **bad)
