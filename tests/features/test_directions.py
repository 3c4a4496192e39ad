"""Numbers of the weights against plain ones."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from assay import coders
from assay.errors import Unavailable
from assay.features import directions
from assay.randomness import generator


@pytest.fixture
def coder():
    return coders.new("topk", d_in=12, d_sae=50, k=4, decoder="free")


def head(name: str = "head"):
    weight = torch.randn(70, 12, generator=generator(name))
    return lambda rows: rows @ weight.T


def test_norms_neighbours_and_logits(coder, monkeypatch):
    monkeypatch.setattr(directions, "ENTRIES", 7 * 50)  # several blocks, the last one short
    with torch.no_grad():
        coder.W_enc += 0.1 * torch.randn(12, 50, generator=generator("encoder"))
    found = directions.of(coder, head(), 70)
    W_dec, W_enc = coder.W_dec.detach(), coder.W_enc.detach()
    unit = W_dec / W_dec.norm(dim=1, keepdim=True)
    assert np.allclose(found["decoder_norm"], W_dec.norm(dim=1)) and np.allclose(found["encoder_norm"], W_enc.norm(dim=0))
    assert np.allclose(found["cosine"], torch.cosine_similarity(W_enc.T, W_dec), atol=1e-6)
    cosine = (unit @ unit.T).fill_diagonal_(-2)
    best = cosine.topk(10)
    assert (found["neighbours"] == best.indices.numpy()).all() and np.allclose(
        found["neighbour_cosines"], best.values, atol=1e-6
    )
    assert (found["nearest"] == best.indices[:, 0].numpy()).all() and (
        found["nearest_cosine"] == found["neighbour_cosines"][:, 0]
    ).all()
    logits = head()(W_dec)
    logits = logits - logits.mean(1, keepdim=True)
    assert (found["top_logits"] == logits.topk(10).indices.numpy()).all()
    assert (found["bottom_logits"] == (-logits).topk(10).indices.numpy()).all()
    assert np.allclose(found["bottom_logit_values"], -(-logits).topk(10).values, atol=1e-5)
    assert (found["logit_histogram"].sum(1) == 70).all()


def test_components_are_principal(coder):
    found = directions.of(coder, None, 0)
    unit = coder.W_dec.detach() / coder.W_dec.detach().norm(dim=1, keepdim=True)
    centred = unit - unit.mean(0)
    s = torch.linalg.svdvals(centred)
    assert np.allclose([(found["x"] ** 2).sum(), (found["y"] ** 2).sum()], s[:2] ** 2, rtol=1e-4)
    assert abs((found["x"] * found["y"]).sum()) < 1e-4
    assert found["top_logits"] == [[]] * 50


def test_a_transcoder_has_no_cosine_across_spaces():
    found = directions.of(coders.new("transcoder", d_in=12, d_out=8, d_sae=20, of="relu"), None, 0)
    assert np.ma.getmaskarray(found["cosine"]).all() and found["encoder_norm"].shape == (20,)


def test_umap_is_an_extra(coder, monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(Unavailable, match=r"assay-sae\[umap\]"):
        directions.of(coder, None, 0, umap=True)


def test_one_latent_has_no_neighbours():
    found = directions.of(coders.new("topk", d_in=12, d_sae=1, k=1), None, 0)
    assert found["neighbours"].shape == (1, 0) and np.ma.getmaskarray(found["nearest"]).all()
