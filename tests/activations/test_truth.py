"""Every planted source: pure streams, held-out vectors, x = offset + z @ directions, an identity. And the old numbers are the old ones."""

from __future__ import annotations

import hashlib
import json
from itertools import islice

import pytest
import torch

from assay.activations.base import ActivationSource
from assay.activations.circles import Circles
from assay.activations.compiled import Compiled
from assay.activations.composed import Composed
from assay.activations.ground import PLANTED, planted, rebuilt
from assay.activations.planted import Planted
from assay.activations.synthetic import Synthetic, SyntheticConfig
from assay.activations.toy_model import ToyModel
from assay.activations.tree import Node, PlantedTree
from assay.errors import BadInput, UnknownName

SMALL = [name for name in PLANTED if name != "synthetic"]


@pytest.fixture(scope="module", params=SMALL)
def source(request):
    return planted(request.param, seed=3)


def test_codes_are_the_truth_behind_the_batches(source):
    assert source.directions.shape == (source.latents, source.d_in)
    torch.testing.assert_close(source.directions.norm(dim=1), torch.ones(source.latents))
    for number, batch in enumerate(islice(source.batches(64, seed=1), 3)):
        x, z = source.codes(64, seed=1, start=number)
        assert torch.equal(x, batch.x) and torch.equal(x, batch.y)
        assert x.dtype == z.dtype == torch.float32
        torch.testing.assert_close(x, z @ source.directions + source.offset, atol=1e-5, rtol=1e-5)
        assert (z >= 0).all() and 0 < (z > 0).double().mean() < 0.5
    assert torch.equal(next(source.batches(64, seed=1, start=2)).x, source.codes(64, 1, 2)[0])


def test_streams_part(source):
    assert isinstance(source, ActivationSource)
    one, two = (next(source.batches(64, seed)).x for seed in (0, 1))
    later = next(source.batches(64, 0, start=1)).x
    assert not torch.equal(one, two) and not torch.equal(one, later)


def test_held_out_vectors_are_the_same_for_all_and_in_no_batch(source):
    held = source.held_out(1500).x
    assert held.shape == (1500, source.d_in)
    assert torch.equal(source.held_out(40).x, held[:40])
    assert not torch.equal(held[:400], held[1024:1424])
    if source.kind not in ("planted tree", "compiled", "composed"):  # whose vectors are few: equal ones are no leak
        seen = {row.numpy().tobytes() for batch in islice(source.batches(1024, seed=0), 3) for row in batch.x}
        assert not any(row.numpy().tobytes() in seen for row in held[(held != source.offset).any(1)])


@pytest.mark.parametrize("name", SMALL)
def test_identity(name):
    one, again, other = planted(name, seed=3), planted(name, seed=3), planted(name, seed=4)
    assert again.fingerprint == one.fingerprint != other.fingerprint
    assert torch.equal(again.directions, one.directions) and torch.equal(again.codes(8, 0)[1], one.codes(8, 0)[1])
    assert one.describe()["kind"] == one.kind and one.describe()["seed"] == 3 and one.tokens is None


def test_streams_that_cannot_be(source):
    for bad in ((0, 0, 0), (4, -1, 0), (4, 0, -1)):
        with pytest.raises(BadInput, match=r"size ≥ 1, start ≥ 0 and seed ≥ 0"):
            source.batches(*bad)
    with pytest.raises(BadInput, match="size must be ≥ 1, got 0"):
        source.held_out(0)


def test_names():
    assert len({planted(name).fingerprint for name in PLANTED}) == len(PLANTED)
    assert type(planted("synthetic")) is Synthetic
    assert planted("synthetic").latents == 16_384
    with pytest.raises(UnknownName, match="Did you mean 'circles'"):
        planted("circle")
    with pytest.raises(BadInput, match="seed ≥ 0"):
        planted("superposition", seed=-1)


def sha(x: torch.Tensor) -> str:
    return hashlib.sha256(x.numpy().tobytes()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("make", "fingerprint", "codes"),
    [
        (lambda: Planted(), "6939fff726c7f7b9", "955c5e2171e8ac41"),
        (lambda: Planted(8, 16, 3), "c4db6142e5501a92", "a00357d44cd05bda"),
        (lambda: PlantedTree(), "40071e362f22f391", "1b006780239c4c97"),
        (lambda: PlantedTree(10, seed=2, spread=0.2), "30220bf5cdfc181a", "e34c2c7e548727a8"),
    ],
)
def test_the_numbers_of_version_0_1(make, fingerprint, codes):
    """Coders trained before planted sources had a common base name these in their manifests."""
    source = make()
    assert source.fingerprint == fingerprint
    assert sha(source.codes(64, 1, 2)[1]) == codes


@pytest.mark.parametrize("name", sorted(set(PLANTED) - {"toy_model"}))  # below, smaller
def test_a_manifest_is_enough_to_make_the_source_again(name):
    source = planted(name, seed=3)
    twin = rebuilt(json.loads(json.dumps(source.describe())))
    assert twin.fingerprint == source.fingerprint
    if name != "synthetic":  # its directions take a minute
        assert torch.equal(next(twin.batches(64, 5)).x, next(source.batches(64, 5)).x)


@pytest.mark.parametrize(
    "source",
    [
        Planted(8, 12, 1), PlantedTree(16, Node(1.0, (Node(0.3), Node(0.2, (Node(0.5),))), is_read_out=False), spread=0.1),
        Compiled(12, vocabulary=5, length=4, seed=2), Circles(d=16, circles=2), ToyModel(d=4, n=9, sparsity=0.8), Composed(16, 20, 2),
        Synthetic(SyntheticConfig(d=16, latents=40, roots=2, depth=1, scale_children_by_parent=True), seed=2),
    ],
    ids=lambda source: source.kind,
)  # fmt: skip
def test_so_it_is_with_settings_of_ones_own(source):
    twin = rebuilt(json.loads(json.dumps(source.describe())))
    assert twin.describe() == source.describe()
    assert torch.equal(next(twin.batches(64, 5)).x, next(source.batches(64, 5)).x)


def test_other_data_have_no_truth():
    with pytest.raises(BadInput, match="The data are 'stored', not planted"):
        rebuilt({"kind": "stored"})
    with pytest.raises(BadInput, match="another planted source than the one described"):
        rebuilt(Planted(8, 12, 1).describe() | {"law": "of old"})
