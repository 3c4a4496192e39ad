"""Latents matched by when they fire, against dense Pearson correlations; and which vectors of a store fit two coders."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from assay import coders
from assay.errors import BadInput, MissingFile
from assay.matching import decoder, firing, gathered, match, together, vectors
from assay.randomness import generator

D, WIDE, NARROW = 16, 40, 24


def pair(seed=0):
    return coders.new("topk", d_in=D, d_sae=WIDE, k=4, seed=seed), coders.new("relu", d_in=D, d_sae=NARROW, seed=seed + 1)


def drawn(n, *name):
    return torch.randn(n, D, generator=generator("firing test", *name))


def pieces(x, size=50):
    return [(part, part) for part in x.split(size)]


def dense(a, b, x):
    with torch.no_grad():
        z, w = (coder.eval().encode(x).z.double().numpy() for coder in (a, b))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.corrcoef(z.T, w.T)[: z.shape[1], z.shape[1] :], z, w


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("at_once", [2**22, 300])
def test_it_is_pearsons(seed, at_once, monkeypatch):
    monkeypatch.setattr(firing, "AT_ONCE", at_once)
    (a, b), x = pair(seed), drawn(400, seed)
    found = match(decoder(a), decoder(b))
    seen = together(a, b, pieces(x), found)
    r, z, w = dense(a, b, x)
    meet = (z > 0).T.astype(float) @ (w > 0) > 0
    r = np.where(meet, r, -np.inf)
    for side, best, which in ((seen.a, r.max(1), r.argmax(1)), (seen.b, r.max(0), r.argmax(0))):
        fired = np.isfinite(best)
        np.testing.assert_allclose(side.correlation[fired], best[fired], atol=1e-5)
        np.testing.assert_array_equal(side.nearest[fired], which[fired])
        assert (side.nearest[~fired] == -1).all() and np.isnan(side.correlation[~fired]).all()
    whole = dense(a, b, x)[0]
    np.testing.assert_allclose(seen.a.with_nearest, whole[np.arange(WIDE), found.a.nearest], atol=1e-5)
    np.testing.assert_allclose(seen.b.with_nearest, whole[found.b.nearest, np.arange(NARROW)], atol=1e-5)
    paired = found.a.partner >= 0
    np.testing.assert_allclose(seen.a.with_partner[paired], whole[np.arange(WIDE), found.a.partner][paired], atol=1e-5)
    assert np.isnan(seen.a.with_partner[~paired]).all() and seen.vectors == 400


def test_a_coder_fires_as_itself():
    a, x = pair()[0], drawn(300)
    seen = together(a, a, pieces(x), match(decoder(a), decoder(a)))
    fired = seen.a.nearest >= 0
    np.testing.assert_array_equal(seen.a.nearest[fired], np.flatnonzero(fired))
    np.testing.assert_allclose(seen.a.correlation[fired], 1, atol=1e-6)


def test_time_is_bounded(monkeypatch):
    (a, b), x = pair(), drawn(400)
    found = match(decoder(a), decoder(b))
    monkeypatch.setattr(firing, "VECTORS", 100)
    assert together(a, b, pieces(x), found).vectors == 100
    monkeypatch.setattr(firing, "PRODUCTS", 1)
    assert together(a, b, pieces(x), found).vectors == 50, "one piece is always read"
    with pytest.raises(BadInput, match="no vectors"):
        together(a, b, [], found)


def manifest(store, name, model, sites, tokens, n):
    with store.draft("activations", name) as draft:
        (draft.path / "x").write_text("")
        from assay import provenance

        about = {"sites": {site: {"d": D} for site in sites}, "tokens": n}
        draft.finish(inputs={"model": {"fingerprint": model}, "tokens": tokens}, about=about, made=provenance.made())


def test_the_fitting_vectors_of_a_store(store):
    manifest(store, "small", "m", ["resid_post.1"], "text", 10)
    manifest(store, "large", "m", ["resid_post.1", "mlp_in.1", "mlp_out.1"], "other", 1000)
    manifest(store, "foreign", "n", ["resid_post.1"], "text", 9999)
    sae = {"model": {"fingerprint": "m", "name": "tiny"}, "site": "resid_post.1"}
    transcoder = {"model": {"fingerprint": "m"}, "source": {"read": ["mlp_in.1"], "predict": "mlp_out.1"}}
    assert gathered(store, {"a": sae, "b": sae}).name == "large"
    assert gathered(store, {"a": sae, "b": sae}, "text").name == "small"
    assert gathered(store, {"a": sae, "b": transcoder}, "text").name == "large"
    with pytest.raises(BadInput, match="one model"):
        gathered(store, {"a": sae, "b": sae | {"model": {"fingerprint": "n"}}})
    with pytest.raises(MissingFile, match=r"resid_post.1, resid_post.9 of tiny. Gather"):
        gathered(store, {"a": sae, "b": sae | {"site": "resid_post.9"}})
    with pytest.raises(BadInput, match="which site"):
        gathered(store, {"a": sae, "b": {"model": sae["model"]}})


def test_vectors_come_by_whole_rows_from_all_over(store):
    """Gathered for real, from the tiny model; both sides see the same tokens."""
    from assay import corpora, models
    from assay.activations.gather import GatherConfig, gather
    from assay.corpora.pack import PackConfig, tokenise

    model = models.load("tiny")
    text = tokenise(corpora.load("austen"), model.tokenizer, PackConfig(context=32, max_tokens=3000), store)
    path = gather(model, text, ["resid_post.1", "resid_post.2"], GatherConfig(), store)
    one, two = ({"model": {"fingerprint": model.fingerprint}, "site": f"resid_post.{i}"} for i in (1, 2))
    assert gathered(store, {"a": one, "b": two}, text.fingerprint) == path
    x, y = (torch.cat(side) for side in zip(*vectors(path, one, two, 500)))
    assert x.shape == y.shape and 500 <= len(x) < 600 and not torch.equal(x, y)
    again = torch.cat([x for x, _ in vectors(path, one, two, 500)])
    assert torch.equal(x, again)
