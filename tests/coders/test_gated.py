"""What the contract cannot know of Gated: it is a JumpReLU, its auxiliary loss leaves the decoder alone, it does not shrink."""

from __future__ import annotations

import pytest
import torch

from assay import coders
from assay.activations.planted import Planted, bias
from assay.coders.base import Step
from assay.errors import BadInput
from assay.randomness import generator
from assay.testing import CODER_CHECKS, check_folded, check_rescale, toy_batch
from assay.train import TrainConfig, train


def make(seed=0, **extra):
    return coders.new("gated", **({"d_in": 16, "d_sae": 32} | extra), seed=seed)


def scattered(seed=0, **extra):
    """A coder whose gates and magnitudes disagree in every way."""
    coder, random = make(seed, **extra), generator("gated test", seed)
    with torch.no_grad():
        for p in (coder.b_enc, coder.b_mag, coder.r_mag, coder.b_dec):
            p.copy_(0.2 * torch.randn(p.shape, generator=random))
    return coder


@pytest.mark.parametrize("seed", range(3))
def test_is_a_jump_relu(seed):
    coder = scattered(seed).double().eval()
    x = toy_batch(coder, 2048).x.double()
    with torch.no_grad():
        threshold = coder.b_mag - coder.r_mag.exp() * coder.b_enc
        pre = ((x - coder.b_dec) @ coder.W_enc) * coder.r_mag.exp() + coder.b_mag
    assert (threshold > 0).any() and (threshold < 0).any(), "both kinds are to be tested"
    code = coder.encode(x)
    torch.testing.assert_close(code.z, pre * (pre > threshold.clamp_min(0)), rtol=0, atol=1e-6)
    torch.testing.assert_close(coder.folded()(x), coder(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("check", [check_rescale, check_folded])
def test_contract_away_from_the_start(check):
    check(scattered)


@pytest.mark.parametrize("check", CODER_CHECKS, ids=lambda c: c.__name__)
def test_contract_when_annealed(check):
    check(lambda seed: make(seed, p_end=0.2, anneal_steps=5))


def gradients(coder, term):
    batch = toy_batch(coder)
    coder.zero_grad()
    coder.loss(batch, coder.encode(batch.x), Step(1.0))[term].backward()
    return {name: p.grad for name, p in coder.named_parameters() if p.grad is not None and p.grad.abs().max() > 1e-7}


@pytest.mark.parametrize("d_out", [16, 8])
def test_each_loss_teaches_its_own(d_out):
    coder = scattered(d_out=d_out)
    centring = {"b_dec"} if d_out == 16 else set()  # b_dec is also what the encoder takes off its input
    assert gradients(coder, "mse").keys() == {"W_enc", "W_dec", "b_dec", "r_mag", "b_mag"}
    assert gradients(coder, "l1").keys() == {"W_enc", "b_enc"} | centring
    assert gradients(coder, "gate").keys() == {"W_enc", "b_enc"} | centring, "the decoder is frozen"


def test_auxiliary_loss_is_the_gates_own_reconstruction():
    coder, l1 = scattered(), 0.3
    batch = toy_batch(coder)
    with torch.no_grad():
        terms = coder.loss(batch, coder.encode(batch.x), Step(1.0))
        gate = ((batch.x - coder.b_dec) @ coder.W_enc + coder.b_enc).relu()
        error = (batch.x - gate @ coder.W_dec - coder.b_dec).square().sum(1).mean()
    torch.testing.assert_close(terms["gate"], error)
    torch.testing.assert_close(terms["l1"], l1 * gate.sum(1).mean())


def test_loss_in_eval_mode_is_the_same():
    coder = scattered()
    batch = toy_batch(coder)
    taught = coder.loss(batch, coder.encode(batch.x), Step(1.0))
    coder.eval()
    for name, value in coder.loss(batch, coder.encode(batch.x), Step(1.0)).items():
        torch.testing.assert_close(value, taught[name])


def test_does_not_shrink():
    source = Planted(d=16, latents=32, seed=0)
    some = {name: coders.new(name, d_in=16, d_sae=32, l1=0.2) for name in ("gated", "relu")}
    for _ in train(some, source, TrainConfig(tokens=250 * 128, batch=128, lr=1e-2, beta1=0.0, log_every=250)):
        pass
    x, _ = source.codes(4096, seed=1)
    with torch.no_grad():
        gamma = {name: bias(x, coder(x), coder.b_dec) for name, coder in some.items()}
    assert gamma["gated"] == pytest.approx(1.0, abs=0.01)
    assert gamma["relu"] < 0.95


def test_bad_settings():
    with pytest.raises(BadInput, match="l1 must be ≥ 0"):
        make(l1=-1.0)
    with pytest.raises(BadInput, match="0 < p_end ≤ 1"):
        make(p_end=0.0)
