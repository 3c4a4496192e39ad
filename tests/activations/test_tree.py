"""PlantedTree: the statistics of the toy T2 and the measure of absorption."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from assay.activations.base import ActivationSource
from assay.activations.tree import Node, PlantedTree, forest, parent_recall
from assay.errors import BadInput

JSON = {
    "active_prob": 1.0,
    "is_read_out": False,
    "children": [
        {
            "active_prob": 0.5,
            "mutually_exclusive_children": True,
            "children": [
                {"active_prob": 0.2, "children": [{"active_prob": 0.5}]},
                {"active_prob": 0.1},
                {"active_prob": 0.1, "is_read_out": False, "children": [{"active_prob": 0.25}]},
            ],
        },
        {"active_prob": 0.1},
    ],
}


def test_structure_and_frequencies():
    source = PlantedTree(8, Node.read(JSON))
    assert source.parents.tolist() == [-1, 0, 1, 0, 0, -1]
    torch.testing.assert_close(source.probabilities, torch.tensor([0.5, 0.25, 0.125, 0.125, 0.03125, 0.1]))
    _, z = source.codes(40_000, seed=3)
    assert set(z.unique().tolist()) == {0.0, 1.0}
    expected = source.probabilities
    assert ((z.mean(0) - expected).abs() < 5 * (expected / len(z)).sqrt()).all()


def test_children_fire_only_under_their_parent_and_exclude_each_other():
    source = PlantedTree()
    _, z = source.codes(20_000, seed=3)
    active = z > 0
    for child, parent in enumerate(source.parents.tolist()):
        if parent >= 0:
            assert not (active[:, child] & ~active[:, parent]).any()
    for parent in set(source.parents.tolist()) - {-1}:
        siblings = active[:, source.parents == parent].sum(1)
        assert siblings.max() == 1 and (siblings[active[:, parent]] == 0).any()
    free = Node(1.0, (Node(0.5, (Node(0.5), Node(0.5))),), is_read_out=False)
    _, z = PlantedTree(4, free).codes(1000, seed=0)
    assert (z[:, 1] * z[:, 2]).any(), "without exclusion siblings meet"


def test_codes_are_the_truth_behind_the_batches():
    source = PlantedTree(spread=0.2)
    assert isinstance(source, ActivationSource)
    for number, batch in enumerate(islice(source.batches(32, seed=1), 3)):
        x, z = source.codes(32, seed=1, start=number)
        assert torch.equal(x, batch.x)
        torch.testing.assert_close(x, z @ source.directions)
        assert z[z > 0].min() >= 0.8 and z.max() <= 1.2
    later = next(source.batches(32, seed=1, start=2))
    assert torch.equal(later.x, source.codes(32, 1, 2)[0])


def test_directions():
    torch.testing.assert_close(PlantedTree(20).directions @ PlantedTree(20).directions.T, torch.eye(20), atol=1e-5, rtol=0)
    crowded = PlantedTree(10).directions
    torch.testing.assert_close(crowded.norm(dim=1), torch.ones(20))
    assert not torch.equal(PlantedTree(20, seed=1).directions, PlantedTree(20).directions)


def test_identity():
    a, b = PlantedTree(), PlantedTree(tree=forest(lone=3))
    assert a.fingerprint == PlantedTree().fingerprint
    assert len({a.fingerprint, b.fingerprint, PlantedTree(seed=1).fingerprint, PlantedTree(spread=0.1).fingerprint}) == 4
    assert not torch.equal(a.codes(64, 0)[1], a.codes(64, 1)[1])


def test_parent_recall_tells_absorption():
    source = PlantedTree(20)
    _, z = source.codes(4000, seed=2)
    honest = parent_recall(source, source.directions, z, z)
    assert set(honest) == {0, 4, 8}
    assert all(found == (parent, 1.0, 1.0) for parent, found in honest.items())
    absorbed = z.clone()
    for child, parent in enumerate(source.parents.tolist()):
        if parent >= 0:
            absorbed[z[:, child] > 0, parent] = 0
    for parent, (latent, all_of_it, with_child) in parent_recall(source, source.directions, absorbed, z).items():
        assert latent == parent and with_child == 0
        assert all_of_it == pytest.approx(0.4, abs=0.1)


def test_bad_trees():
    with pytest.raises(BadInput, match=r"active_prob must lie between 0 and 1, got 1\.5"):
        Node(1.5)
    with pytest.raises(BadInput, match="Mutually exclusive children need a probability above 0"):
        Node(0.5, (Node(0.0),), mutually_exclusive_children=True)
    with pytest.raises(BadInput, match=r"got \['active_prob', 'kids'\]"):
        Node.read({"active_prob": 0.5, "kids": []})
    with pytest.raises(BadInput, match="no feature that is read out"):
        PlantedTree(4, Node(1.0, is_read_out=False))
    with pytest.raises(BadInput, match="d ≥ 1"):
        PlantedTree(0)
