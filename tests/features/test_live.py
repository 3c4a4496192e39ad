"""A latent on whole rows, computed anew: what the coder itself gives, and what the harvest kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import assay
from assay import models
from assay.coders.base import Code
from assay.coders.latents import Latents
from assay.errors import BadInput
from assay.features import live
from assay.models.base import Site
from tests.features.made import entry


@pytest.fixture(scope="module")
def harvest(tmp_path_factory):
    from assay.store import Store

    store = Store(tmp_path_factory.mktemp("live") / "store")
    features = entry(store)
    return features, assay.load("mine", store=store.root).eval(), models.load("tiny")


@torch.no_grad()
def test_the_coders_own_activations(harvest):
    features, coder, model = harvest
    i, rows = int(features.columns["count"].argmax()), [5, 2]
    found = live.watch(features, coder, model, i, rows)
    site = Site.parse("resid_post.2")
    tokens = torch.from_numpy(np.array(features.text.tokens[rows])).long()
    z = coder.encode(model.run(tokens, read=[site])[site].float()).z[..., i].numpy()
    assert found.shape == z.shape and (found > 0).any()
    assert np.allclose(found, z * features.text.mask[rows], rtol=1e-4, atol=1e-5)


def test_what_the_harvest_kept(harvest):
    features, coder, model = harvest
    i = int(features.columns["count"].argmax())
    for example in features.examples(i):
        row, column = divmod(example.start, 64)
        found = live.watch(features, coder, model, i, [row])[0, column : column + example.stop - example.start]
        assert np.flatnonzero(found).tolist() == example.at.tolist()
        assert np.allclose(found[example.at], example.values, rtol=2e-3)


def test_another_model_is_refused(harvest, monkeypatch):
    features, coder, model = harvest
    monkeypatch.setitem(features.manifest["inputs"], "model", "0" * 16)
    with pytest.raises(BadInput, match="another model than the live one, tiny"):
        live.watch(features, coder, model, 0, [0])


def test_sparse_and_dense_codes_alike():
    dense = torch.tensor([[0.0, 2.0, 0.0], [1.0, 0.0, 0.0], [0.0, 3.0, 4.0]])
    sparse = Latents.from_csr(
        torch.tensor([2.0, 1.0, 3.0, 4.0]), torch.tensor([1, 0, 1, 2]), torch.tensor([0, 1, 2, 4]), (3, 3)
    )
    for latents in (Latents.from_dense(dense), sparse):
        for i in range(3):
            assert torch.equal(live.one(Code(latents, torch.zeros(3)), i), dense[:, i])
