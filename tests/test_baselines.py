"""Baselines at the sparsity of trained coders."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from assay.activations import Planted, Tensors
from assay.baselines import _levels, matched, sample, sparsity
from assay.coders import new
from assay.errors import BadInput, UnknownName
from assay.sweep import sweep
from assay.train import TrainConfig, train


@pytest.fixture(scope="module")
def source():
    return Planted(d=16, latents=32, seed=0)


@pytest.fixture(scope="module")
def trained(source):
    coders = {
        "a": new("topk", d_in=16, d_sae=48, k=3),
        "b": new("batch_topk", d_in=16, d_sae=64, k=3),
        "c": new("relu", d_in=16, d_sae=32, l1=0.02),
    }
    for _ in train(coders, source, TrainConfig(tokens=40_960, batch=512, lr=3e-3)):
        pass
    return coders


def test_every_level_of_sparsity_has_its_twins(trained, source):
    levels = {name: sparsity(coder, sample(source)) for name, coder in trained.items()}
    assert levels["a"] == 3
    found = matched(trained, source)
    for kind in ("pca", "identity", "random"):
        assert {n for n in found if n.startswith(kind)} == {f"{kind}-k{k}" for k in set(levels.values())}
    assert {n for n in found if n.startswith("permuted")} == {"permuted-a", "permuted-b", "permuted-c"}
    x = sample(source, seed=9, size=512)
    for name, coder in found.items():
        assert not coder.training
        assert coder(x).isfinite().all()
        if name == "oracle":
            continue
        level = levels[name.removeprefix("permuted-")] if "permuted" in name else int(name.rpartition("k")[2])
        assert 0.9 * level - 0.5 < coder.encode(x).latents.l0().mean().item() < level + 0.6, name


def test_random_is_as_wide_as_the_widest_coder_of_its_level(trained, source):
    level = sparsity(trained["a"], sample(source))
    twins = matched({n: trained[n] for n in "ab"}, source, ["random"])
    assert twins[f"random-k{level}"].d_sae == (64 if sparsity(trained["b"], sample(source)) == level else 48)


def test_a_level_that_a_dictionary_cannot_have_is_left_out(source):
    dense = new("topk", d_in=16, d_sae=128, k=64).eval()
    assert set(matched({"dense": dense}, source, ["pca", "identity", "random"])) == {
        f"random-k{sparsity(dense, sample(source))}"
    }


def test_only_planted_sources_have_an_oracle(trained, source):
    oracle = matched(trained, source, ["oracle"])["oracle"]
    torch.testing.assert_close(oracle.W_dec, source.directions)
    level = source.probabilities.sum()
    assert 0.85 * level < oracle.encode(sample(source)).latents.l0().mean().item() < 1.15 * level, "as sparse as the truth"
    other = Tensors(torch.randn(2048, 16, generator=torch.Generator().manual_seed(1)))
    assert not [name for name in matched(trained, other) if "oracle" in name]
    with pytest.raises(BadInput, match="only planted sources"):
        matched(trained, other, ["pca", "oracle"])


def test_unknown_ones_are_named(trained, source):
    with pytest.raises(UnknownName, match="Did you mean 'pca'"):
        matched(trained, source, ["pcaa"])
    with pytest.raises(UnknownName):
        matched(trained, source, ["topk"])


def test_the_store_keeps_them_once_and_never_overwrites(trained, source, store):
    first = matched(trained, source, ["pca", "permuted_decoder"], store=store, about={"site": "resid_post.1"})
    assert set(first) == set(store.names("coders"))
    assert store.manifest("coders", "permuted-a")["about"]["site"] == "resid_post.1"
    before = {p: p.stat().st_mtime_ns for p in store.root.rglob("weights.safetensors")}
    assert set(matched(trained, source, ["pca", "permuted_decoder"], store=store)) == set(first)
    assert before == {p: p.stat().st_mtime_ns for p in store.root.rglob("weights.safetensors")}

    other = Tensors(torch.randn(2048, 16, generator=torch.Generator().manual_seed(1)))
    again = matched({"a": trained["a"]}, other, ["pca"], store=store)
    (name,) = again
    assert name.startswith("pca-k3-")
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_stored_coders_can_be_matched_too(source, store):
    coders = {"a": new("topk", d_in=16, d_sae=32, k=2)}
    sweep(coders, source, TrainConfig(tokens=1024, batch=256), store)
    assert set(matched(coders, source, ["pca"], store=store)) == {"pca-k2"}


def test_levels_close_together_share_one():
    assert _levels([(32, 8), (21, 4), (47, 8), (49, 16), (64, 2), (65, 4), (3, 1), (4, 1)]) == {
        3: 1,
        4: 1,
        21: 4,
        32: 8,
        47: 16,
        64: 4,
    }


HOW = TrainConfig(tokens=8192, batch=512, lr=3e-3, held_out_vectors=0, l0=3, revive="resample", dead_after=1024)


def test_frozen_decoders_are_trained_at_each_level(trained, source, store):
    levels = {sparsity(coder, sample(source)) for coder in trained.values()}
    found = matched(trained, source, ["frozen_decoder"], train=HOW)
    assert set(found) == {f"frozen_decoder-k{k}" for k in levels}
    for name, coder in found.items():
        assert not coder.training
        assert coder.encode(sample(source, seed=9, size=256)).latents.l0().max() == int(name.rpartition("k")[2])
    kept = matched(trained, source, ["frozen_decoder"], train=HOW, store=store, about={"site": "resid_post.1"})
    for name, coder in kept.items():
        for key, value in coder.state_dict().items():
            torch.testing.assert_close(value, found[name].state_dict()[key], msg=f"{name} {key}")
        about = store.manifest("coders", name)["about"]
        assert (about["kind"], about["site"], about["train"]["tokens"]) == ("baseline", "resid_post.1", 8192)


def test_frozen_decoders_are_trained_once(trained, source, store):
    one, two = {"a": trained["a"]}, {"a": trained["a"], "c": trained["c"]}
    (name,) = matched(one, source, ["frozen_decoder"], train=HOW, store=store)
    path = store.path("coders", name) / "weights.safetensors"
    before = path.stat().st_mtime_ns
    more = matched(two, source, ["frozen_decoder"], train=HOW, store=store)
    assert len(more) == 2 and name in more
    assert path.stat().st_mtime_ns == before
    longer = replace(HOW, tokens=16_384)
    (other,) = matched(one, source, ["frozen_decoder"], train=longer, store=store)
    assert other.startswith(f"{name}-") and path.stat().st_mtime_ns == before
    assert set(matched(one, source, ["frozen_decoder"], train=longer, store=store)) == {other}


def test_frozen_decoders_need_to_be_told_how(trained, source):
    assert not [name for name in matched(trained, source) if "frozen" in name]
    assert [name for name in matched(trained, source, train=HOW) if "frozen" in name]
    with pytest.raises(BadInput, match=r"Pass train=TrainConfig\(…\)"):
        matched(trained, source, ["frozen_decoder"])
