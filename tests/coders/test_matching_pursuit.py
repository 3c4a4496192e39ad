"""What the contract cannot know of matching pursuit: exact codes, accumulation, early stops, its gradient and its dead latents."""

from __future__ import annotations

import itertools

import pytest
import torch

from assay import coders
from assay.coders.base import Batch, Step
from assay.coders.linear import unit_rows
from assay.coders.matching_pursuit import pursue
from assay.errors import BadInput
from assay.randomness import generator
from assay.testing import toy_batch


def rows(n, d, name="rows"):
    return unit_rows(torch.randn(n, d, generator=generator(name), dtype=torch.float64))


def with_dictionary(W, **settings):
    coder = coders.new("matching_pursuit", d_in=W.shape[1], d_sae=len(W), **settings).to(W.dtype)
    with torch.no_grad():
        coder.W_dec.copy_(W)
    return coder


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_orthonormal_codes_are_recovered_exactly(dtype):
    W = torch.linalg.qr(rows(24, 24))[0].to(dtype)
    z = torch.rand(200, 24, generator=generator("z"), dtype=dtype) + 0.5
    z *= torch.rand(200, 24, generator=generator("on")) < 0.2
    coder = with_dictionary(W, k=24)
    with torch.no_grad():
        coder.b_dec += 3.0
    code = coder.encode(z @ W + 3.0)
    assert torch.equal(code.z > 0, z > 0), "tokens stop once nothing is left"
    torch.testing.assert_close(code.z, z, rtol=1e-5, atol=1e-5)


def test_each_step_takes_the_best_of_the_rest():
    W, x = rows(40, 8), torch.randn(30, 8, generator=generator("x"), dtype=torch.float64)
    values, chosen = pursue(x, W, 6, 0.0)
    for i in range(len(x)):
        residual = x[i].clone()
        for t in range(6):
            best, at = (W @ residual).max(0)
            assert chosen[i, t] == at
            torch.testing.assert_close(values[i, t], best)
            residual -= best * W[at]
    errors = [(x - with_dictionary(W, k=k)(x)).square().sum(1) for k in range(1, 7)]
    assert all((b <= a + 1e-12).all() for a, b in itertools.pairwise(errors)), "no step makes it worse"


def test_a_latent_chosen_again_accumulates():
    """Two rows at 120°: their pursuit goes to and fro, and converges to the code (2, 1)."""
    W = torch.tensor([[1.0, 0.0], [-0.5, 0.75**0.5]], dtype=torch.float64)
    x = (2 * W[0] + W[1])[None]
    coder = with_dictionary(W, k=60, tolerance=0.0)
    _, chosen = pursue(x, W, 60, 0.0)
    assert (chosen == 0).sum() > 5 and (chosen == 1).sum() > 5
    code = coder.encode(x)
    assert code.latents.indices.tolist() == [0, 1], "one entry a latent"
    assert code.latents.l0().tolist() == [2.0]
    torch.testing.assert_close(code.z, torch.tensor([[2.0, 1.0]], dtype=torch.float64))


def test_nothing_positive_left_stops_a_token():
    coder = with_dictionary(torch.eye(3, dtype=torch.float64), k=3)
    code = coder.encode(torch.tensor([[2.0, -1.0, 0.0], [-1.0, -1.0, -1.0], [0.0, 0.0, 0.0]], dtype=torch.float64))
    assert code.z.tolist() == [[2, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert code.latents.offsets.tolist() == [0, 1, 1, 1]


def test_gradients_are_exact():
    """Against differences, and against plain autograd through the unrolled steps; rows repeat, tokens stop early."""
    W = rows(6, 4).requires_grad_()
    x = torch.randn(5, 4, generator=generator("gradients"), dtype=torch.float64)
    x[0] = 1.5 * W[2].detach()
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, W: pursue(x, W, 7, 1e-3)[0], (x, W))
    values, chosen = pursue(x, W, 7, 1e-3)
    assert (values == 0).any() and any(len(set(c.tolist())) < 7 for c in chosen)
    weight = torch.rand(values.shape, generator=generator("weight"), dtype=torch.float64)
    ours = torch.autograd.grad((values * weight).sum(), (x, W))
    residual, unrolled = x, 0.0
    for t in range(7):
        row = W[chosen[:, t]]
        v = (residual * row).sum(1) * (values[:, t] > 0)
        residual, unrolled = residual - v[:, None] * row, unrolled + (v * weight[:, t]).sum()
    for a, b in zip(ours, torch.autograd.grad(unrolled, (x, W))):
        torch.testing.assert_close(a, b)


def test_dead_latents_learn():
    """Pre-activations of zero would leave only the bias to move: the rows of dead latents, and theirs alone, must."""
    coder, dead = coders.new("matching_pursuit", d_in=16, d_sae=64, k=4), torch.arange(64) % 4 == 0
    batch = toy_batch(coder)
    coder.initialise(batch)
    terms = coder.loss(batch, coder.encode(batch.x), Step(0.5, dead))
    terms["aux_k"].backward()
    assert (coder.W_dec.grad[dead].abs().sum(1) > 0).any()
    assert (coder.W_dec.grad[~dead] == 0).all()
    assert coder.b_dec.grad is None
    assert coder.loss(batch, coder.encode(batch.x), Step(0.5, None))["aux_k"] == 0
    perfect = Batch.of(coder(batch.x).detach())
    silent = coder.loss(perfect, coder.encode(batch.x), Step(0.5, dead))
    assert torch.isfinite(silent["aux_k"])


def test_forced_dead_latents_come_back():
    """Half the rows start almost at right angles to all the data and are never chosen, until the auxiliary pursuit turns them."""

    def dead_share(aux_weight):
        coder = coders.new("matching_pursuit", d_in=16, d_sae=24, k=2, aux_weight=aux_weight)
        truth = unit_rows(torch.randn(16, 8, generator=generator("truth")))
        with torch.no_grad():
            coder.W_dec[:12, :8] *= 0.02
            coder.W_dec[12:, 8:] = 0.0
            coder.constrain()
        optimiser, since = torch.optim.Adam(coder.parameters(), lr=1e-2), torch.zeros(24)
        for i in range(250):
            random = generator("batch", i)
            z = torch.rand(128, 16, generator=random) * (torch.rand(128, 16, generator=random) < 0.15)
            x = torch.nn.functional.pad(z @ truth, (0, 8))
            code = coder.encode(x)
            since += 1
            since[code.latents.fired()] = 0
            optimiser.zero_grad()
            torch.stack(list(coder.loss(Batch.of(x), code, Step(0.5, since > 10)).values())).sum().backward()
            coder.constrain_gradient()
            optimiser.step()
            coder.constrain()
        return (since[:12] > 10).float().mean().item()

    without, with_aux = dead_share(0.0), dead_share(1 / 32)
    assert without > 0.9
    assert with_aux < 0.2 * without


def test_widths_and_settings():
    with pytest.raises(BadInput, match="predicts what it reads"):
        coders.new("matching_pursuit", d_in=8, d_sae=16, d_out=4)
    with pytest.raises(BadInput, match="k and k_aux must be ≥ 1"):
        coders.new("matching_pursuit", d_in=8, d_sae=16, k=0)
