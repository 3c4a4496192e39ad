"""What the contract cannot know of JumpReLU: its gradients are estimates of true derivatives, and its penalties do what they say."""

from __future__ import annotations

import pytest
import torch

from assay import coders
from assay.activations.planted import Planted
from assay.activations.score import score
from assay.coders.base import Batch, Step
from assay.coders.jumprelu import JumpReLU, active, jump
from assay.errors import BadInput
from assay.randomness import generator
from assay.testing import toy_batch
from assay.train import TrainConfig, train

N = 200_000
THETA = torch.tensor([0.1, 0.3, 0.5, 0.7])


def make(**extra):
    coder = coders.new("jumprelu", d_in=16, d_sae=64, **extra)
    coder.initialise(toy_batch(coder))
    return coder.train()


@pytest.fixture(scope="module")
def dense():
    """Pre-activations of density ½ on (−1, 1)."""
    return torch.rand(N, len(THETA), generator=generator("uniform")) * 2 - 1


def gradient(function, pre, bandwidth):
    theta = THETA.clone().requires_grad_()
    function(pre, theta, bandwidth).mean(0).sum().backward()
    return theta.grad


@pytest.mark.parametrize("bandwidth", [0.05, 0.1])
@pytest.mark.parametrize(("function", "truth"), [(active, -0.5 * torch.ones(4)), (jump, -0.5 * THETA)], ids=["active", "jump"])
def test_threshold_gradient_is_the_derivative_of_the_mean(dense, function, truth, bandwidth):
    h = 0.05
    numeric = (function(dense, THETA + h, 1.0) - function(dense, THETA - h, 1.0)).mean(0) / (2 * h)
    error = 5 * (0.5 / bandwidth / N) ** 0.5  # five standard deviations of a mean of 0 or 1/ε
    estimate = gradient(function, dense, bandwidth)
    torch.testing.assert_close(estimate, truth, atol=error, rtol=0)
    torch.testing.assert_close(estimate, numeric, atol=2 * error, rtol=0)


def test_window_lies_on_both_sides_of_the_threshold(dense):
    """On z·H(z − θ) instead of z, the entries just below θ would be 0 and far away: half of the gradient would be lost."""
    whole, bug = gradient(active, dense, 0.05), gradient(active, jump(dense, THETA, 0.05), 0.05)
    torch.testing.assert_close(whole / bug, torch.full((4,), 2.0), atol=0.2, rtol=0)
    pre = THETA + torch.tensor([[-0.024], [0.024], [-0.026], [0.026]])
    assert torch.allclose(gradient(active, pre, 0.05), torch.tensor(-2 / 4 / 0.05))


def test_jump_passes_gradients_of_what_is_active(dense):
    pre = dense[:100].clone().requires_grad_()
    jump(pre, THETA, 0.05).sum().backward()
    assert torch.equal(pre.grad, (pre > THETA).float())


@pytest.mark.parametrize("penalty", ["l0", "target_l0", "quadratic_frequency"])
def test_penalty_moves_thresholds_only(penalty):
    coder = make(penalty=penalty)
    batch = toy_batch(coder)
    coder.loss(batch, coder.encode(batch.x), Step())[penalty].backward()
    assert coder.log_threshold.grad.abs().sum() > 0
    for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
        grad = getattr(coder, name).grad
        assert grad is None or not grad.any(), f"the number of active latents has no gradient to {name}"


def test_tanh_teaches_the_encoder():
    coder = make(penalty="tanh")
    batch = toy_batch(coder)
    coder.loss(batch, coder.encode(batch.x), Step())["tanh"].backward()
    assert coder.W_enc.grad.abs().sum() > 0 and coder.log_threshold.grad.abs().sum() > 0


def test_penalties_are_what_they_say():
    x = toy_batch(make()).x

    def value(penalty, **extra):
        coder = make(penalty=penalty, sparsity=0.5, sparsity_warm_up=0.2, **extra)
        code = coder.encode(x)
        half, full = (coder.loss(Batch.of(x), code, Step(at))[penalty].item() for at in (0.1, 0.6))
        assert half == pytest.approx(full / 2), "the penalty grows with the warm-up"
        return full, code

    full, code = value("l0")
    l0, frequency = code.latents.l0().mean().item(), code.latents.firing() / len(x)
    assert full == pytest.approx(0.5 * l0)
    assert value("target_l0", target_l0=5.0)[0] == pytest.approx(0.5 * (l0 / 5.0 - 1) ** 2)
    assert value("quadratic_frequency", frequent=0.2)[0] == pytest.approx(0.5 * (frequency + frequency**2 / 0.2).sum().item())
    tanh = (3 * 4 * code.z).tanh().sum(1).mean().item()  # unit rows, √16 = 4
    assert value("tanh", tanh_slope=3.0)[0] == pytest.approx(0.5 * tanh, rel=1e-5)


def test_pre_activation_loss_reaches_silent_latents():
    coder = make(pre_activation_weight=0.1)
    with torch.no_grad():
        coder.b_enc.fill_(-10.0)
    batch = toy_batch(coder)
    code = coder.encode(batch.x)
    assert not code.latents.fired().any()
    terms = coder.loss(batch, code, Step())
    assert terms["pre_activation"].item() == pytest.approx(0.1 * 64 * (10 + 0.25), rel=0.05)
    terms["pre_activation"].backward()
    assert (coder.b_enc.grad < 0).all() and (coder.log_threshold.grad > 0).all(), "both close the gap"
    assert "pre_activation" not in make().loss(batch, code, Step())


def test_training_and_inference_agree():
    coder, x = make(initial_threshold=0.2), toy_batch(make()).x
    trained = coder.train().encode(x)
    at_rest = coder.eval().encode(x)
    assert at_rest.latents.is_sparse and at_rest.pre is None
    torch.testing.assert_close(at_rest.z, trained.z)
    assert trained.z[trained.z > 0].min() > 0.2
    assert coder.loss(Batch.of(x), at_rest, Step())["l0"] == coder.loss(Batch.of(x), trained, Step())["l0"], "held-out loss"


def test_of_gives_each_latent_its_threshold():
    relu = coders.new("relu", d_in=16, d_sae=64, seed=3)
    theta = torch.linspace(0, 0.5, 64)
    coder, x = JumpReLU.of(relu, theta), toy_batch(relu).x
    pre = relu.pre_activations(x)
    torch.testing.assert_close(coder.encode(x).z, pre * (pre > theta))
    assert torch.isfinite(coder.log_threshold).all(), "also of threshold 0"


def test_batch_topk_folds_into_one_threshold():
    coder = coders.new("batch_topk", d_in=16, d_sae=64, k=4).train()
    for i in range(3):
        batch = toy_batch(coder, name=i)
        coder.loss(batch, coder.encode(batch.x), Step())
    coder.rescale(2.0, 2.0)
    folded, x = coder.eval().folded(), toy_batch(coder, name="other").x / 2
    assert isinstance(folded, JumpReLU)
    torch.testing.assert_close(folded.threshold, coder.threshold.float().expand(64))
    assert torch.equal(folded.encode(x).latents.firing(), coder.encode(x).latents.firing())
    assert torch.equal(folded(x), coder(x))


def test_topk_becomes_jumprelu_of_equal_l0():
    coder = coders.new("topk", d_in=16, d_sae=64, k=4)
    x = toy_batch(coder, n=500).x
    for l0 in (1.0, 4.0, 6.25):
        assert JumpReLU.with_l0(coder, x, l0).encode(x).latents.l0().mean().item() == pytest.approx(l0)
    with pytest.raises(BadInput, match=r"A mean L0 of 64\.0 cannot be had from 500 vectors and 64 latents"):
        JumpReLU.with_l0(coder, x, 64.0)


def test_bad_settings():
    with pytest.raises(BadInput, match="bandwidth must be positive, got 0"):
        make(bandwidth=0.0)
    with pytest.raises(BadInput, match="sparsity and pre_activation_weight must be ≥ 0"):
        make(sparsity=-1.0)


def trained(settings, steps, d, latents):
    source = Planted(d=d, latents=latents, seed=0)
    some = {name: coders.new("jumprelu", d_in=d, d_sae=latents, **s) for name, s in settings.items()}
    for _ in train(some, source, TrainConfig(tokens=steps * 1024, batch=1024, lr=3e-3, beta1=0.0)):
        pass
    found = {name: score(coder, source) for name, coder in some.items()}
    return {name: one | {"fvu": 1 - one["explained_variance"]} for name, one in found.items()}


def test_l0_falls_with_the_penalty():
    weights = (0.01, 0.05, 0.25)
    found = trained({str(w): {"sparsity": w} for w in weights}, 80, 16, 32)
    l0 = [found[str(w)]["l0"] for w in weights]
    assert l0[0] > 1.1 * l0[1] > 1.21 * l0[2] > 0, l0


@pytest.fixture(scope="module")
def on_truth():
    settings = {
        "l0": {},
        "target_l0": {"penalty": "target_l0", "target_l0": 8.0},
        "quadratic_frequency": {"penalty": "quadratic_frequency", "sparsity": 0.0068},
        "tanh": {"penalty": "tanh"},
    }
    return trained(settings, 1500, 64, 256)


@pytest.mark.slow
def test_nothing_shrinks(on_truth):
    for name, found in on_truth.items():
        assert found["gamma"] == pytest.approx(1.0, abs=0.01), name
        assert found["recovered"] > 0.5, f"{name}: FVU alone would not tell a dense, wrong coder"


@pytest.mark.slow
def test_target_l0_is_reached(on_truth):
    assert on_truth["target_l0"]["l0"] == pytest.approx(8.0, rel=0.1)


@pytest.mark.slow
def test_quadratic_frequency_removes_dense_latents(on_truth):
    free, taxed = on_truth["target_l0"], on_truth["quadratic_frequency"]
    assert taxed["l0"] == pytest.approx(free["l0"], rel=0.05)
    assert free["dense"] * 256 >= 3 and taxed["dense"] == 0
    assert taxed["recovered"] > free["recovered"] and taxed["fvu"] < free["fvu"]
