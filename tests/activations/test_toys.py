"""The laws of the smaller toys: what a trained network keeps, what a written one computes, circles and mixtures, composed rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from assay.activations.circles import Circles
from assay.activations.compiled import Compiled
from assay.activations.composed import Composed
from assay.activations.toy_model import ToyModel
from assay.errors import BadInput


def test_a_dense_toy_model_keeps_five_pairs_of_opposites():
    """Elhage et al. 2022: at sparsity .7 each of the 5 dimensions holds two features, one in each direction."""
    source = ToyModel(sparsity=0.7)
    assert source.latents == 10 and source.W.shape == (20, 5)
    cosines = source.directions @ source.directions.T
    assert (cosines < -0.99).sum(1).tolist() == [1] * 10
    assert (cosines.abs() > 0.1).sum() == 20, "the pairs are orthogonal"
    assert source.features.max() < 14, "the important ones"


def test_a_sparse_toy_model_keeps_more_features():
    source = ToyModel(sparsity=0.97, seed=1)
    assert 15 <= source.latents <= 20
    h, z = source.codes(20_000, 0)
    torch.testing.assert_close(h, (z / source.lengths) @ source.W[source.features], atol=1e-6, rtol=0)
    assert (z > 0).double().mean().item() == pytest.approx(0.03, abs=0.002)
    assert (z / source.lengths).max() <= 1
    with pytest.raises(BadInput, match=r"sparsity in \[0, 1\)"):
        ToyModel(sparsity=1.0)


def test_a_compiled_stream_says_what_it_computes():
    source = Compiled(vocabulary=3, length=4)
    assert source.names[:4] == ("token=0", "token=1", "token=2", "position=0") and source.names[-1] == "repeated"
    assert torch.equal(source.directions, torch.eye(15))
    _, z = source.codes(20_000, 0)
    token, position, previous, count = (z[:, a:b] for a, b in ((0, 3), (3, 7), (7, 10), (10, 14)))
    for one_hot in (token, position, count):
        assert (one_hot.sum(1) == 1).all()
    assert torch.equal(previous.sum(1) == 0, position[:, 0] == 1), "nothing comes before the start"
    assert torch.equal(z[:, 14] == 1, count[:, 0] == 0), "repeated: counted more than once"
    assert (count.argmax(1) <= position.argmax(1)).all()
    assert ((count.argmax(1) == position.argmax(1)) & (position.argmax(1) == 1)).double().mean() > 0.05
    same = (token * previous).sum(1) == 1
    assert (z[same, 14] == 1).all(), "a token that equals the one before it is repeated"
    assert position.mean(0).numpy() == pytest.approx(0.25, abs=0.02)
    # At position 1 the token repeats the first one in a third of the cases, at position 3 with 1 − (2/3)³.
    for at, chance in ((1, 1 / 3), (3, 1 - (2 / 3) ** 3)):
        assert z[position[:, at] == 1, 14].mean().item() == pytest.approx(chance, abs=0.03)


def test_a_compiled_stream_may_be_compressed():
    source = Compiled(d=10)
    assert source.directions.shape == (29, 10)
    x, z = source.codes(10, 0)
    torch.testing.assert_close(x, z @ source.directions)
    assert source.fingerprint != Compiled().fingerprint


def test_circles_and_mixtures():
    source = Circles(d=20, circles=2, points=8, mixtures=1, lone=5)
    assert source.groups.tolist() == [0] * 8 + [1] * 8 + [2] * 2 + [-1] * 5
    _, z = source.codes(20_000, 0)
    for group, plane in enumerate(source.planes):
        rows = source.directions[source.groups == group]
        torch.testing.assert_close(plane @ plane.T, torch.eye(2), atol=1e-6, rtol=0)
        torch.testing.assert_close(rows @ plane.T @ plane, rows, atol=1e-6, rtol=0)  # they lie in the plane
        members = z[:, source.groups == group] > 0
        assert members.sum(1).max() == 1
        assert members.any(1).double().mean().item() == pytest.approx(0.2, abs=0.015)
        assert members.double().mean(0).numpy() == pytest.approx(0.2 / len(rows), abs=0.01)
    steps = source.directions[:7] @ source.directions[1:8].T
    assert steps.diagonal().numpy() == pytest.approx(np.cos(2 * np.pi / 8), abs=1e-5)
    mixture = source.directions[16:18]
    assert (mixture[0] @ mixture[1]).abs() < 1e-6
    lone = z[:, 18:] > 0
    assert lone.double().mean().item() == pytest.approx(0.05, abs=0.004) and lone.sum(1).max() > 1
    assert z[z > 0].min() >= 0.9 and z.max() <= 1.1
    assert Circles(circles=0, mixtures=0).codes(5, 0)[0].shape == (5, 32)
    with pytest.raises(BadInput, match="points 2"):
        Circles(points=2)


def test_composed_rows():
    source = Composed()
    rows, z = source.codes(3000, "decoder")
    assert ((z > 0).sum(1) == 4).all()
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(3000))
    assert all(len(set(row[row > 0].tolist())) == 1 for row in z[:20])  # equal parts
    assert (z > 0).double().mean(0).numpy() == pytest.approx(4 / 96, abs=0.02)
    with pytest.raises(BadInput, match="between 1 and 96 parts, got 97"):
        Composed(parts=97)
