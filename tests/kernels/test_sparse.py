"""The sparse kernels against plain dense autograd, in double precision."""

from __future__ import annotations

import pytest
import torch

from assay.coders.latents import Latents
from assay.kernels import sparse
from assay.randomness import generator


def dense_and_sparse(n, d, s, ragged):
    random = generator("kernels", n, d, s, ragged)
    x, W, b, D = (
        torch.randn(*shape, generator=random, dtype=torch.double, requires_grad=True)
        for shape in [(n, d), (d, s), (s,), (s, d)]
    )
    keep = torch.rand(n, s, generator=random) < 0.2 if ragged else (x @ W + b).argsort(1).argsort(1) >= s - 3
    if ragged:
        keep[0] = False  # a token with no latent at all
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), keep.sum(1).cumsum(0)])
    return (x, W, b, D), keep, keep.nonzero()[:, 1], offsets


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize(("n", "d", "s"), [(1, 1, 4), (7, 5, 12), (64, 16, 40)])
def test_values_and_every_gradient(n, d, s, ragged):
    leaves, keep, indices, offsets = dense_and_sparse(n, d, s, ragged)
    x, W, b, D = leaves
    by_dense = ((x @ W + b) * keep) @ D
    want = torch.autograd.grad(by_dense.pow(3).sum(), leaves)
    values = sparse.select(x, None, W, b, (x @ W + b).detach()[keep], indices, offsets)
    by_sparse = sparse.decode(values, indices, offsets, D)
    got = torch.autograd.grad(by_sparse.pow(3).sum(), leaves)
    torch.testing.assert_close(by_sparse, by_dense)
    for a, b_ in zip(got, want, strict=True):
        torch.testing.assert_close(a, b_)


def test_a_latent_nobody_uses_gets_no_gradient():
    (x, W, b, D), keep, _, _ = dense_and_sparse(16, 4, 10, True)
    keep[:, 3] = False
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), keep.sum(1).cumsum(0)])
    indices = keep.nonzero()[:, 1]
    values = sparse.select(x, None, W, b, (x @ W + b).detach()[keep], indices, offsets)
    sparse.decode(values, indices, offsets, D).sum().backward()
    assert (D.grad[3] == 0).all()
    assert (W.grad[:, 3] == 0).all()
    assert b.grad[3] == 0


def test_latents_tell_the_same_dense_and_sparse():
    _, keep, indices, offsets = dense_and_sparse(12, 4, 10, True)
    values = torch.rand(len(indices), generator=generator("latents"), requires_grad=True)
    thin = Latents.from_csr(values, indices, offsets, (3, 4, 10))
    full = thin.dense()
    assert full.shape == (3, 4, 10)
    assert torch.equal(full.reshape(12, 10) != 0, keep)
    thick = Latents.from_dense(full)
    assert torch.equal(thin.l0(), thick.l0())
    assert torch.equal(thin.firing(), thick.firing())
    full.square().sum().backward()
    torch.testing.assert_close(values.grad, 2 * values.detach())
