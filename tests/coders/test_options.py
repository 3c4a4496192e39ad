"""Settings that recipes need: free decoders, other starts, annealed k, Multi-TopK. Each keeps the contract."""

from __future__ import annotations

import pytest
import torch

from assay import coders
from assay.coders import losses
from assay.coders.base import Batch, Step
from assay.errors import BadInput
from assay.randomness import generator
from assay.testing import CODER_CHECKS, toy_batch

CHECKS = [c for c in CODER_CHECKS if c.__name__.removeprefix("check_") in ("gradients_reach", "save_load", "rescale", "folded")]

FREE = {"relu": {}, "gated": {}, "jumprelu": {}, "topk": {"k": 4}, "batch_topk": {"k": 4}, "matryoshka": {"k": 4}}
OPTIONS = {f"{name} free": (name, {"decoder": "free", **extra}) for name, extra in FREE.items()} | {
    "relu not centred": ("relu", {"centred": False}), "jumprelu not centred": ("jumprelu", {"centred": False}),
    "jumprelu start": ("jumprelu", {"start_l0": 4.0, "start_norm": 0.2, "decoder": "free", "free_norm": 0.5, "penalty": "tanh"}),
    "topk annealed": ("topk", {"k": 4, "anneal_k": 0.5, "multi": 0.125, "error": "fvu", "aux": "absolute"}),
    "batch_topk annealed": ("batch_topk", {"k": 4, "anneal_k": 0.5, "k_start": 8}),
}  # fmt: skip


def make(name, seed=0, **extra):
    coder = coders.new(name, seed=seed, d_in=16, d_sae=64, **extra)
    coder.initialise(toy_batch(coder))
    return coder.train()


@pytest.mark.parametrize("option", OPTIONS)
def test_contract(option):
    name, extra = OPTIONS[option]
    for check in CHECKS:
        check(lambda seed: coders.new(name, seed=seed, d_in=16, d_sae=32, **extra))


@pytest.mark.parametrize("name", FREE)
def test_a_free_decoder_is_a_unit_decoder_with_other_weights(name):
    """Lengths moved from the decoder into the encoder change neither the choice of latents nor a penalty that is weighed by them."""
    coder = make(name, decoder="free", **FREE[name])
    with torch.no_grad():
        coder.W_dec.mul_(0.5 + torch.rand(64, 1, generator=generator("lengths")))
        coder.b_enc.add_(0.05 * torch.randn(64, generator=generator("biases")))
    twin = make(name, **FREE[name])
    twin.load_state_dict(coder.state_dict())
    twin.absorb_norms()
    if name == "gated":
        twin.b_mag.data.mul_(coder.W_dec.norm(dim=1))
    batch, dead = toy_batch(coder), torch.arange(64) % 4 == 0
    ours, theirs = (dict(c.loss(batch, c.encode(batch.x), Step(1.0, dead))) for c in (coder, twin))
    assert set(ours) == set(theirs)
    for term in ours:
        torch.testing.assert_close(ours[term], theirs[term], rtol=1e-4, atol=1e-6)
    assert (coder.eval().folded().W_dec.norm(dim=1) - 1).abs().max() < 1e-5
    assert torch.equal(coder.encode(batch.x).latents.firing(), twin.eval().encode(batch.x).latents.firing())


@pytest.mark.parametrize("name", ["relu", "topk", "jumprelu"])
def test_free_rows_keep_their_length(name):
    coder = make(name, decoder="free")
    assert coder.W_dec.norm(dim=1).mean().item() == pytest.approx(0.1)
    before = coder.W_dec.clone()
    coder.constrain()
    assert torch.equal(coder.W_dec, before)
    coder.W_dec.grad = coder.W_dec.detach().clone()
    coder.constrain_gradient()
    assert torch.equal(coder.W_dec.grad, before)


def test_starts():
    coder = coders.new("relu", d_in=16, d_sae=64, start_norm=0.1)
    assert coder.W_enc.norm(dim=0).mean().item() == pytest.approx(0.1) and coder.W_dec.norm(
        dim=1
    ).mean().item() == pytest.approx(1)
    jump = coders.new("jumprelu", d_in=16, d_sae=64, start_l0=6.0).train()
    batch = toy_batch(jump, n=4096)
    jump.initialise(batch)
    firing = jump.encode(batch.x).latents.firing().float() / 4096
    torch.testing.assert_close(firing, torch.full((64,), 6 / 64), atol=1e-3, rtol=0)


def test_not_centred():
    coder = make("relu", centred=False)
    with torch.no_grad():
        coder.b_dec.fill_(7.0)
    x = toy_batch(coder).x
    torch.testing.assert_close(coder.pre_activations(x), x @ coder.W_enc + coder.b_enc)


def test_k_falls():
    x = toy_batch(make("topk", k=4)).x
    coder = make("topk", k=4, anneal_k=0.5)

    def l0(fraction):
        coder.fraction = fraction
        return coder.encode(x).latents.l0().mean().item() if not coder.training else int(coder.encode(x).latents.offsets[1])

    assert [l0(at) for at in (0.0, 0.25, 0.5, 0.9)] == [16, 10, 4, 4]
    coder.eval()
    assert l0(0.0) <= 4, "inference has its own k at any time"
    batch = make("batch_topk", k=2, anneal_k=1.0, k_start=6)
    batch.fraction = 0.5
    assert len(batch.encode(x).latents.values) == 4 * len(x)
    with pytest.raises(BadInput, match=r"anneal_k must lie between 0 and 1 and k_start be at least k, got 2\.0 and None"):
        make("topk", anneal_k=2.0)


def test_multi_topk_is_the_error_of_4k():
    coder = make("topk", k=3, multi=0.125)
    batch = toy_batch(coder)
    wide = make("topk", k=12)
    wide.load_state_dict(coder.state_dict())
    terms = coder.loss(batch, coder.encode(batch.x), Step())
    torch.testing.assert_close(terms["multi"], losses.mse(batch.y, wide(batch.x)) / 8)
    relative = make("topk", k=3, multi=0.125, error="fvu")
    found = relative.loss(batch, relative.encode(batch.x), Step())
    for term in ("mse", "multi"):
        torch.testing.assert_close(found[term] * losses.variance(batch.y), terms[term])


def test_aux_k_is_absolute_when_asked():
    coder, dead = make("topk", k=4), torch.arange(64) < 2
    batch = toy_batch(coder)
    with torch.no_grad():
        coder.b_enc[:2] = -5.0  # all chosen latents are negative: the paper's form sees 0, the absolute one their values
    y_hat = coder(batch.x).detach()
    error = batch.y - y_hat
    z = coder.pre_activations(batch.x)[:, :2]
    expected = (error - z @ coder.W_dec[:2]).square().sum(-1).mean() * 2 / 8
    torch.testing.assert_close(losses.aux_k(coder, batch, y_hat, dead, form="absolute"), expected)
    torch.testing.assert_close(losses.aux_k(coder, batch, y_hat, dead), losses.mse(error, 0 * error) / losses.variance(error))


def test_levels_are_summed_when_asked():
    mean, total = (make("matryoshka", k=4, levels=levels) for levels in ("mean", "sum"))
    batch = toy_batch(mean)
    a, b = (c.loss(batch, c.encode(batch.x), Step())["mse"] for c in (mean, total))
    torch.testing.assert_close(5 * a, b)


@pytest.mark.parametrize(
    ("name", "extra", "message"),
    [
        ("topk", {"multi": -1.0}, "multi must be 0 or more and error 'sum' or 'fvu', got -1.0 and 'sum'"),
        ("relu", {"start_norm": 0.0}, "free_norm and start_norm must be positive"),
        ("jumprelu", {"start_l0": 0.0}, "start_l0 must be positive, got 0.0"),
    ],
)
def test_bad_settings(name, extra, message):
    with pytest.raises(BadInput, match=message):
        coders.new(name, d_in=16, d_sae=64, **extra)


def test_batch_of_one_width():
    """Dead latents fewer than k_aux, one token: nothing breaks."""
    coder = make("topk", k=4)
    x = toy_batch(coder).x[:1]
    assert torch.isfinite(losses.aux_k(coder, Batch.of(x), coder(x), torch.arange(64) < 1))
