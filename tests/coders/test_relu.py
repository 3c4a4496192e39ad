"""What the contract cannot know of ReLU: its penalties, and a decoder free in length."""

from __future__ import annotations

import pytest
import torch
from jaxtyping import TypeCheckError

from assay import coders
from assay.coders.base import Step
from assay.coders.latents import Latents
from assay.errors import BadInput
from assay.testing import CODER_CHECKS, ready, toy_batch

VARIANTS = [{"decoder": "free"}, {"penalty": "tanh"}, {"decoder": "free", "penalty": "tanh"}]


def make(seed=0, **extra):
    return coders.new("relu", d_in=16, d_sae=32, seed=seed, **extra)


def terms(coder, fraction=1.0):
    batch = toy_batch(coder)
    code = coder.encode(batch.x)
    return coder.loss(batch, code, Step(fraction)), code.z


@pytest.mark.parametrize("extra", VARIANTS, ids=lambda e: "-".join(e.values()))
@pytest.mark.parametrize("check", CODER_CHECKS, ids=lambda c: c.__name__)
def test_contract_of_variants(check, extra):
    check(lambda seed: make(seed, **extra))


def test_penalties_are_what_they_say():
    coder = ready(lambda seed: make(seed, l1=0.3))
    found, z = terms(coder)
    assert torch.equal(found["l1"], 0.3 * z.sum(-1).mean())
    assert torch.equal(terms(coder, 0.05)[0]["l1"], 0.15 * z.sum(-1).mean()), "half way through the warm-up"
    coder = ready(lambda seed: make(seed, l1=0.3, penalty="tanh", tanh_slope=2.0))
    found, z = terms(coder)
    torch.testing.assert_close(found["tanh"], 0.3 * torch.tanh(2 * z).sum(-1).mean())
    coder = ready(lambda seed: make(seed, l1=0.3, decoder="free"))
    found, z = terms(coder)
    torch.testing.assert_close(found["l1"], 0.3 * (z @ coder.W_dec.norm(dim=1)).mean())


def test_tanh_stops_pulling_at_large_activations():
    coder = make(penalty="tanh")
    slopes = torch.tensor([1e-6, 0.2, 2.0], requires_grad=True)
    coder._cost(Latents.from_dense(slopes)).sum().backward()
    torch.testing.assert_close(slopes.grad, 5 * (1 - torch.tanh(5 * slopes.detach()).square()))
    assert slopes.grad[2] < 1e-3 * slopes.grad[0]


@pytest.mark.parametrize("penalty", ["l1", "tanh"])
def test_free_decoder_cannot_cheat_by_length(penalty):
    """Longer rows with smaller latents are the same coder, and cost the same."""
    coder = ready(lambda seed: make(seed, decoder="free", penalty=penalty))
    before, _ = terms(coder)
    with torch.no_grad():
        length = torch.linspace(0.2, 5.0, 32)
        coder.W_dec.mul_(length[:, None])
        coder.W_enc.div_(length)
        coder.b_enc.div_(length)
    for name, value in terms(coder)[0].items():
        torch.testing.assert_close(value, before[name])


def test_free_decoder_starts_short_and_tied_and_stays_free():
    coder = make(decoder="free")
    torch.testing.assert_close(coder.W_dec.norm(dim=1), torch.full((32,), 0.1))
    assert torch.equal(coder.W_enc, coder.W_dec.T)
    torch.stack(list(terms(coder)[0].values())).sum().backward()
    gradient, weights = coder.W_dec.grad.clone(), coder.W_dec.detach().clone()
    coder.constrain_gradient()
    coder.constrain()
    assert torch.equal(coder.W_dec.grad, gradient) and torch.equal(coder.W_dec, weights)
    lengths = ready(lambda seed: make(seed, decoder="free"), steps=100).W_dec.norm(dim=1)
    assert lengths.std() > 1e-3, "rows find lengths of their own"


def test_folding_gives_unit_rows():
    coder = ready(lambda seed: make(seed, decoder="free")).eval()
    with torch.no_grad():
        coder.W_dec[3] = 0.0  # a latent without effect must not become NaN
    x, folded = toy_batch(coder).x, coder.folded()
    norms = folded.W_dec.norm(dim=1)
    torch.testing.assert_close(norms[torch.arange(32) != 3], torch.ones(31))
    assert folded.config.decoder == "unit" and norms[3] == 0
    torch.testing.assert_close(folded(x), coder(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(folded.encode(x).z, coder.encode(x).z * coder.W_dec.norm(dim=1), rtol=1e-4, atol=1e-5)


def test_free_start_of_a_transcoder_is_short_too():
    coder = coders.new("relu", d_in=16, d_out=8, d_sae=32, decoder="free")
    torch.testing.assert_close(coder.W_enc.norm(dim=0), torch.full((32,), 0.1))
    torch.testing.assert_close(coder.W_dec.norm(dim=1), torch.full((32,), 0.1))


@pytest.mark.parametrize(
    "bad", [{"l1": -1.0}, {"l1_warm_up": 2.0}, {"penalty": "l2"}, {"decoder": "fixed"}, {"tanh_slope": 0.0}]
)
def test_bad_settings(bad):
    with pytest.raises((BadInput, TypeCheckError), match=str(next(iter(bad.values())))):
        make(**bad)
