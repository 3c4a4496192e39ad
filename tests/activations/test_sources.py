"""The contract of all sources, and what is special to Live and Stored."""

from __future__ import annotations

import json
from itertools import islice

import pytest
import torch
from safetensors.torch import load_file, save_file

from assay.activations import ActivationSource, GatherConfig, Live, Planted, Stored, Tensors, gather
from assay.errors import BadInput, NotFinite, SiteMissing, UnknownName
from assay.models.base import Site
from assay.provenance import made
from assay.store import read_manifest

KINDS = ["live", "live-transcoder", "stored", "stored-crosscoder", "tensors", "tensors-pair", "planted"]


@pytest.fixture(params=KINDS)
def source(request, model, tokens, gathered):
    x = torch.randn(150, 6, generator=torch.Generator().manual_seed(0))
    return {
        "live": lambda: Live(model, tokens, "resid_post.0", buffer_rows=6, batch_rows=4, held_out_share=0.2),
        "live-transcoder": lambda: Live(model, tokens, "resid_post.0", "mlp_out.1", buffer_rows=6, held_out_share=0.2),
        "stored": lambda: Stored(gathered, "resid_post.1", buffer_rows=6, held_out_share=0.2),
        "stored-crosscoder": lambda: Stored(
            gathered, ["resid_post.0", "resid_post.1"], "mlp_out.1", buffer_rows=6, held_out_share=0.2
        ),
        "tensors": lambda: Tensors(x.numpy(), buffer=48),
        "tensors-pair": lambda: Tensors(x, x[:, :2] * 3, buffer=48),
        "planted": lambda: Planted(d=6, latents=9),
    }[request.param]()


def test_contract(source):
    assert isinstance(source, ActivationSource)
    batch = next(source.batches(10, seed=0))
    assert batch.x.shape == (10, source.d_in)
    assert batch.y.shape == (10, source.d_out)
    assert batch.x.dtype == batch.y.dtype == torch.float32
    assert len(source.fingerprint) == 16
    assert int(source.fingerprint, 16) >= 0
    json.dumps(source.describe())
    assert source.describe()["tokens"] == source.tokens


@pytest.mark.parametrize("size", [7, 64, 400])
def test_batch_i_is_a_pure_function(source, size):
    straight = list(islice(source.batches(size, seed=3), 8))
    for start in (0, 1, 4, 7):
        again = next(source.batches(size, seed=3, start=start))
        assert torch.equal(again.x, straight[start].x)
        assert torch.equal(again.y, straight[start].y)
    assert not torch.equal(next(source.batches(size, seed=4)).x, straight[0].x)


def test_every_vector_comes_once_a_pass(source):
    if source.tokens is None:
        return
    passes = [next(source.batches(source.tokens, seed=0, start=i)) for i in range(2)]
    rows = [sorted(torch.cat([b.x, b.y], 1).tolist()) for b in passes]
    assert rows[0] == rows[1]
    assert not torch.equal(passes[0].x, passes[1].x)


def all_vectors(source):
    """What a source is made of, by another way: the same source with nothing held out."""
    if isinstance(source, Live):
        twin = Live(source.model, source._tokens, source.read, source.predict, held_out_share=0)
    elif isinstance(source, Stored):
        twin = Stored(source.path, source.read, source.predict, held_out_share=0)
    else:
        twin = Tensors(source._x, source._y, held_out_share=0)
    return next(twin.batches(twin.tokens, seed=0))


def rows_of(*batches):
    return sorted(torch.cat([torch.cat([b.x, b.y], 1) for b in batches]).tolist())


def test_held_out_vectors_are_never_given_and_nothing_is_lost(source):
    if source.tokens is None:
        return
    held = source.held_out(10_000)
    whole = all_vectors(source)
    assert 0 < len(held.x) <= 0.2 * len(whole.x)
    assert len(held.x) == source.describe()["held_out"]
    assert source.tokens == len(whole.x) - len(held.x)
    for i in range(2):
        assert rows_of(next(source.batches(source.tokens, seed=0, start=i)), held) == rows_of(whole)
    assert (held.y is held.x) == (whole.y is whole.x)


def test_held_out_looks_are_always_the_same(source):
    for size in (1, 3, 10_000):
        one, two = source.held_out(size), source.held_out(size)
        assert len(one.x) == len(one.y) <= size
        assert one.x.dtype == one.y.dtype == torch.float32
        assert torch.equal(one.x, two.x)
        assert torch.equal(one.y, two.y)
    next(source.batches(7, seed=5))
    assert torch.equal(source.held_out(3).x, one.x[:3])
    if source.tokens is not None:
        with pytest.raises(BadInput, match="ask for 1 or more"):
            source.held_out(0)


def test_nothing_held_out(model, tokens, gathered):
    x = torch.randn(40, 3)
    made = [Live(model, tokens, "resid_post.0", held_out_share=0), Stored(gathered, "resid_post.0"), Tensors(x)]
    for source in made:  # without a share, or with too few vectors for one
        assert source.held_out(5) is None
        assert source.describe()["held_out"] == 0
    for share in (-0.1, 1, float("nan")):
        with pytest.raises(BadInput, match="held_out_share"):
            Tensors(x, held_out_share=share)


def test_a_look_at_held_out_text_costs_no_block(model, tokens):
    live = Live(model, tokens, "resid_post.0", held_out_share=0.3)
    next(live.batches(8, seed=0))
    live.held_out(4)
    model.passes.clear()
    next(live.batches(8, seed=0))
    assert model.passes == []


def test_impossible_requests_are_refused(source):
    for asked in ((0, 0, 0), (4, -1, 0), (4, 0, -1)):
        with pytest.raises(BadInput, match="A stream needs"):
            next(source.batches(*asked))


def test_live_and_stored_give_the_same_stream(model, tokens, gathered, truth):
    read, predict = ["resid_post.1", "resid_post.0"], "mlp_out.1"
    live = Live(model, tokens, read, predict, buffer_rows=5, batch_rows=3)
    stored = Stored(gathered, read, predict, buffer_rows=5)
    assert (live.d_in, live.d_out) == (stored.d_in, stored.d_out) == (12, 4)
    for a, b in islice(zip(live.batches(50, seed=1), stored.batches(50, seed=1)), 9):
        assert torch.equal(a.x, b.x)
        assert torch.equal(a.y, b.y)
    batch = next(live.batches(live.tokens, seed=1))
    sites = [Site.parse(s) for s in (*read, predict)]
    want = torch.cat([truth[s] for s in sites], 1)
    assert sorted(torch.cat([batch.x, batch.y], 1).tolist()) == sorted(want.tolist())


def test_an_autoencoder_predicts_what_it_reads(model, tokens):
    batch = next(Live(model, tokens, "resid_post.0").batches(8, seed=0))
    assert batch.x is batch.y


def test_live_runs_the_model_once_a_block_and_not_for_blocks_skipped(model, tokens):
    live = Live(model, tokens, "resid_post.0", buffer_rows=6, batch_rows=6)
    for _ in islice(live.batches(16, seed=0), live.tokens // 16):
        pass
    assert len(model.passes) == 4
    assert all(stop == Site("resid_post", 0) for _, _, stop in model.passes)
    model.passes.clear()
    next(live.batches(8, seed=0, start=1000))
    assert len(model.passes) <= 2
    next(live.batches(8, seed=0))
    model.passes.clear()
    next(live.batches(8, seed=0))  # the block at hand is used again
    assert model.passes == []


def test_fingerprints_tell_sources_apart(model, tokens, gathered, tmp_path):
    x = torch.randn(20, 3)
    made = [
        Live(model, tokens, "resid_post.0"),
        Live(model, tokens, "resid_post.1"),
        Live(model, tokens, "resid_post.0", "resid_post.1"),
        Stored(gathered, "resid_post.0"),
        Stored(gathered, "resid_post.1"),
        Tensors(x),
        Tensors(x, x),
        Tensors(x.double()),
        Tensors(x, held_out_share=0.1),
        Live(model, tokens, "resid_post.0", held_out_share=0.3),
        Stored(gathered, "resid_post.0", held_out_share=0.3),
        Planted(8, 16),
        Planted(8, 16, seed=1),
    ]
    assert len({source.fingerprint for source in made}) == len(made)
    assert Stored(gathered, "resid_post.0").fingerprint == Stored(str(gathered), Site("resid_post", 0)).fingerprint
    assert Tensors(x.clone()).fingerprint == Tensors(x).fingerprint


def test_what_is_not_there_is_refused_at_once(model, tokens, gathered):
    with pytest.raises(SiteMissing):
        Live(model, tokens, "resid_post.9")
    with pytest.raises(SiteMissing):
        Live(model, tokens, "resid_post.0", "mlp_out.0")
    with pytest.raises(UnknownName):
        Stored(gathered, "resid_post.0", "mlp_out.0")
    with pytest.raises(BadInput, match="batch_rows"):
        Live(model, tokens, "resid_post.0", batch_rows=0)


def test_live_locates_bad_numbers(model, tokens):
    tokens.tokens[13, 7] = 5000
    model.poison = (5000, float("nan"))
    with pytest.raises(NotFinite, match=r"resid_post\.1, row 13, position 7"):
        next(Live(model, tokens, "resid_post.1").batches(200, seed=0))


def test_stored_does_not_trust_foreign_numbers(gathered, store):
    """A directory that somebody else wrote: well-formed, hashes and all, but with an infinity in it."""
    manifest = read_manifest(gathered)
    with store.draft("activations", "foreign") as draft:
        for file in gathered.glob("*.safetensors"):
            tensors = load_file(file)
            if file.name == "00003.safetensors":
                tensors["mlp_out.1"][tensors["row"] == 13, 2] = float("inf")
            save_file(tensors, draft.path / file.name)
        path = draft.finish(inputs=manifest["inputs"], about=manifest["about"], made=made())
    next(Stored(path, "resid_post.1").batches(200, seed=0))
    with pytest.raises(NotFinite, match=r"site mlp_out\.1, row 13"):
        next(Stored(path, "mlp_out.1").batches(200, seed=0))


def test_one_site_needs_no_name(model, tokens, store):
    path = gather(model, tokens, "resid_post.0", GatherConfig(), store)
    assert Stored(path).describe()["read"] == ["resid_post.0"]
