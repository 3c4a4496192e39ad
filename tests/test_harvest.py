"""The harvest of a real model against a recount, one pass for all coders, and after interruptions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from assay import coders, corpora, features, models
from assay import harvest as program
from assay.activations.forward import read_rows
from assay.coders.base import Batch
from assay.corpora.pack import PackConfig, Tokens, tokenise
from assay.errors import BadInput, MissingFile, WidthMismatch
from assay.features.collector import Shape
from assay.harvest import Place, harvest
from assay.models.base import Site
from assay.store import Store, verify
from tests.evaluate.tiny import Counted
from tests.features.brute import Recount

SHAPE = Shape(top=5, drawn=2, random=2, near=2, before=6, after=4)
PLACES = {"topk": Place.at("resid_post.2"), "relu": Place.at("mlp_out.1"), "random": Place.at("resid_post.2")}


@pytest.fixture(scope="module")
def model():
    return models.load("tiny")


@pytest.fixture(scope="module")
def world(model, tmp_path_factory):
    """(store, text, coders)"""
    store = Store(tmp_path_factory.mktemp("harvest") / "store")
    text = tokenise(corpora.load("austen"), model.tokenizer, PackConfig(context=32, max_tokens=1500), store)
    made = {
        "topk": coders.new("topk", d_in=128, d_sae=40, k=4), "relu": coders.new("relu", d_in=128, d_sae=48),
        "random": coders.new("random", d_in=128, d_sae=32, k=3),
    }  # fmt: skip
    for name, coder in made.items():
        x = read_rows(model, text, np.arange(20), PLACES[name].read, batch_rows=16)[0].float()
        coder.initialise(Batch.of(x))
        coder.eval()
    return store, text, made


@pytest.fixture(scope="module")
def done(model, world):
    store, text, made = world
    harvest(made, model, text, PLACES, store=store, shape=SHAPE)
    return {name: features.open(store, name) for name in made}


@pytest.mark.parametrize("name", list(PLACES))
def test_it_equals_a_recount(name, done, model, world):
    _, text, made = world
    x = read_rows(model, text, np.arange(len(text)), PLACES[name].read, batch_rows=16)[0].float()
    z = program._codes(made[name], x).matrix.toarray()
    with torch.no_grad():
        assert np.abs(z - made[name].encode(x).z.numpy()).max() < 1e-5
    found = done[name]
    assert found.n_tokens == text.n_tokens and found.d_sae == made[name].d_sae
    for i in range(found.d_sae):
        true, latent, examples = Recount(text, z, i, SHAPE), found.latent(i), found.examples(i)
        values = list(true.values.values())
        assert (latent.count, latent.dead) == (len(values), not values)
        if not values:
            assert latent.mean is None and latent.top_token is None and not examples and not len(latent.interval_edges)
            continue
        assert latent.max == np.float32(max(values)) and latent.mean == pytest.approx(np.mean(values), rel=1e-14)
        assert np.array_equal(latent.histogram, np.histogram(values, found.edges)[0]) and latent.histogram.sum() == latent.count
        assert (latent.top_token, latent.purity) == (true.peak()[0], np.float32(true.peak()[1]))
        assert [e.position for e in examples if e.group == "top"] == true.top()
        edges = latent.interval_edges.astype(np.float64)
        assert latent.interval_counts.tolist() == [len(some) for some in true.intervals(edges)]
        drawn = [sorted(e.position for e in found.examples(i, "interval", k)) for k in range(10)]
        assert drawn == true.drawn(edges)
        correlation, share = true.partners()
        assert latent.coactive.tolist() == sorted(share, key=lambda j: (-share[j], j))[:10]
        best = sorted((c for c in correlation.values() if c > 0), reverse=True)[:10]
        assert latent.correlations == pytest.approx(best, abs=1e-6)
        for e in examples:
            assert (e.start, e.stop) == true.window(e.position)
            assert (e.at.tolist(), e.values.tolist()) == true.inside(e.position)


def test_one_pass_for_all_coders(model, world, tmp_path):
    _, _, made = world
    store = Store(tmp_path / "store")
    text = tokenise(corpora.load("austen"), model.tokenizer, PackConfig(context=32, max_tokens=1500), store)
    counted = Counted(model)
    first = harvest(made, counted, text, PLACES, store=store, shape=SHAPE)
    passes = counted.stopped
    assert passes == -(-len(text) // 16) and counted.full == 0, "each row once, and not beyond the deepest site"
    assert harvest(made, counted, text, PLACES, store=store, shape=SHAPE) == first and counted.stopped == passes
    harvest({"topk": made["random"]}, counted, text, PLACES, store=store, shape=SHAPE, again="never")
    assert counted.stopped == passes and features.open(store, "topk").d_sae == 40
    harvest({"topk": made["random"]}, counted, text, PLACES, store=store, shape=SHAPE)
    assert counted.stopped == 2 * passes and features.open(store, "topk").d_sae == 32, "another coder of that name"
    for path in first.values():
        verify(path)


def test_an_interrupted_harvest_ends_in_the_same_bytes(model, world, tmp_path, monkeypatch, done):
    _, _, made = world
    store = Store(tmp_path / "store")
    text = tokenise(corpora.load("austen"), model.tokenizer, PackConfig(context=32, max_tokens=1500), store)
    monkeypatch.setattr(program, "BLOCK", 512)  # rows of one pass are still the same 16
    monkeypatch.setattr(program, "WAITING", 700)
    monkeypatch.setattr(program, "CODES", 300)
    counted, seen = Counted(model), []

    def dies(tokens, total, unit):
        if unit == "tokens":
            seen.append(tokens)
            if tokens < total:
                raise KeyboardInterrupt

    for _ in range(10):
        try:
            harvest(made, counted, text, PLACES, store=store, shape=SHAPE, save_seconds=0, progress=dies)
            break
        except KeyboardInterrupt:
            assert not features.names(store), "nothing half-done is visible"
    assert len(seen) == 3 and counted.stopped == 3, "interrupted twice, and no row was run again"
    for name, whole in done.items():
        mine = features.open(store, name)
        for file in ("features.parquet", "examples.parquet"):
            assert (mine.path / file).read_bytes() == (whole.path / file).read_bytes()
        assert sorted(p.name for p in mine.path.iterdir()) == ["examples.parquet", "features.parquet", "manifest.json"]


def test_a_state_of_another_plan_is_not_gone_on_from(model, world, tmp_path, monkeypatch):
    _, _, made = world
    store = Store(tmp_path / "store")
    text = tokenise(corpora.load("austen"), model.tokenizer, PackConfig(context=32, max_tokens=1500), store)
    monkeypatch.setattr(program, "BLOCK", 512)

    def dies(tokens, total, unit):
        if tokens > 900:
            raise KeyboardInterrupt

    one, place = {"topk": made["topk"]}, {"topk": PLACES["topk"]}
    with pytest.raises(KeyboardInterrupt):
        harvest(one, model, text, place, store=store, shape=SHAPE, save_seconds=0, progress=dies)
    starts = []
    harvest(one, model, text, place, store=store, shape=Shape(top=2), progress=lambda done, *_: starts.append(done))
    assert starts[0] < 600
    assert max(len(features.open(store, "topk").examples(i, "top")) for i in range(40)) == 2


def test_what_does_not_fit_is_refused_before_anything_runs(model, world):
    store, text, made = world
    with pytest.raises(WidthMismatch, match="width 40"):
        harvest(
            {"a": coders.new("topk", d_in=40, d_sae=40, k=4)},
            Counted(model, 0),
            text,
            {"a": Place.at("resid_post.2")},
            store=store,
        )
    loose = Tokens.from_arrays(np.array([[1, 2, 3]]))
    with pytest.raises(MissingFile, match="does not lie in"):
        harvest(made, Counted(model, 0), loose, PLACES, store=store)


def test_places_are_found_in_manifests():
    assert Place.of("a", {"site": "resid_post.3"}) == Place.at("resid_post.3")
    said = {"source": {"read": ["mlp_in.1"], "predict": "mlp_out.1"}}
    assert Place.of("a", said) == Place((Site("mlp_in", 1),), Site("mlp_out", 1))
    said = {"source": {"read": ["resid_post.1", "resid_post.2"], "predict": None}}
    assert Place.of("a", said) == Place((Site("resid_post", 1), Site("resid_post", 2)), None)
    with pytest.raises(BadInput, match="Say --site"):
        Place.of("a", {})


def test_logits_are_those_of_decoder_rows(done, model, world):
    made = world[2]
    logits = model.unembed(made["topk"].W_dec.detach())
    logits -= logits.mean(1, keepdim=True)
    best = logits.topk(10)
    for i in range(40):
        latent = done["topk"].latent(i)
        assert latent.top_logits.tolist() == best.indices[i].tolist()
        assert latent.top_logit_values == pytest.approx(best.values[i].numpy(), rel=1e-3)
        assert latent.bottom_logits.tolist() == (-logits[i]).topk(10).indices.tolist()
        counts, _ = np.histogram(logits[i].numpy(), 40, tuple(latent.logit_range.tolist()))
        assert latent.logit_histogram.sum() == logits.shape[1] and np.abs(counts - latent.logit_histogram).sum() <= 4


def test_a_crosscoder_reads_two_sites_and_has_no_logits(model, world):
    store, text, _ = world
    coder = coders.new("crosscoder", d_in=256, d_sae=24, of="topk", settings="k=3").eval()
    place = Place((Site("resid_post", 1), Site("resid_post", 2)), None)
    harvest({"cross": coder}, model, text, {"cross": place}, store=store, shape=SHAPE)
    found = features.open(store, "cross")
    assert found.latent(0).top_logits.tolist() == [] and found.columns["count"].sum() > 0
