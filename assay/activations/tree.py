"""PlantedTree: an endless stream made from a known hierarchy of features, the test of absorption.

The toy T2 (after Nabeshima 2024): a child feature is active only where its parent is, and of some parents' children exactly one may
be. A sparse coder saves latents when a child's latent takes over ("absorbs") its parent's direction and the parent's own latent
falls silent; against the truth known here that is a drop in the parent's recall.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import torch

from assay.activations.truth import PlantedSource, Stream
from assay.errors import BadInput
from assay.randomness import numpy_generator
from assay.shapes import Float, Int, Tensor


@dataclass(frozen=True)
class Node:
    """A feature, or a mere group of features (`is_read_out` False), and what may be active below it."""

    active_prob: float
    """Probability given that the parent is active; among mutually exclusive siblings, relative to theirs."""
    children: tuple[Node, ...] = ()
    mutually_exclusive_children: bool = False
    """Exactly one child is active where the node is. A child that is not read out stands for "none of them"."""
    is_read_out: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.active_prob <= 1:
            raise BadInput(f"active_prob must lie between 0 and 1, got {self.active_prob}.")
        if self.mutually_exclusive_children and not sum(child.active_prob for child in self.children) > 0:
            raise BadInput("Mutually exclusive children need a probability above 0 in all.")

    @classmethod
    def read(cls, tree: Mapping[str, Any]) -> Node:
        """A tree from JSON: {active_prob, is_read_out, mutually_exclusive_children, children: [...]}."""
        known = {"active_prob", "is_read_out", "mutually_exclusive_children", "children"}
        if "active_prob" not in tree or set(tree) - known:
            raise BadInput(
                f"A node has active_prob and perhaps {', '.join(sorted(known - {'active_prob'}))}; got {sorted(tree)}."
            )
        return cls(**{**tree, "children": tuple(cls.read(child) for child in tree.get("children", ()))})


def forest(parents: int = 3, children: int = 3, lone: int = 8) -> Node:
    """Features of probability .12 with exclusive children (one of them: .6), and lone ones of .05: 20 in all, .98 active."""
    below = (*[Node(0.6 / children)] * children, Node(0.4, is_read_out=False))
    parent = Node(0.12, below, mutually_exclusive_children=True)
    return Node(1.0, (*[parent] * parents, *[Node(0.05)] * lone), is_read_out=False)


class PlantedTree(PlantedSource):
    """The features of `tree` in `d` dimensions, orthonormal where they fit, else unit rows in random position.

    `directions` [latents, d], `parents` (nearest feature above each, or −1), `probabilities` and `codes` are the truth. Active
    features have magnitude 1, or U(1 − spread, 1 + spread). Features are numbered depth first.
    """

    kind = "planted tree"

    def __init__(self, d: int = 32, tree: Node | None = None, seed: int = 0, spread: float = 0.0):
        self.tree, self.spread = tree or forest(), spread
        truth = list(_features(self.tree))
        if not truth:
            raise BadInput("The tree has no feature that is read out.")
        if not 0 <= spread < 1:
            raise BadInput(f"spread must lie in [0, 1), got {spread}.")
        super().__init__(d, len(truth), seed)
        self.parents: Int[Tensor, " latents"] = torch.tensor([parent for parent, _ in truth])
        self.probabilities: Float[Tensor, " latents"] = torch.tensor([p for _, p in truth])
        rows = numpy_generator("tree directions", seed).standard_normal((self.latents, d))
        rows = np.linalg.qr(rows.T)[0].T if self.latents <= d else rows / np.linalg.norm(rows, axis=1, keepdims=True)
        self.directions: Float[Tensor, "latents d"] = torch.from_numpy(np.ascontiguousarray(rows)).float()

    def codes(self, size: int, seed: Stream, start: int = 0) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n latents"]]:
        random = numpy_generator("tree codes", self.seed, seed, start)
        active = np.stack(list(_sample(self.tree, np.ones(size, dtype=bool), random)), axis=1)
        z = active * random.uniform(1 - self.spread, 1 + self.spread, size=active.shape)
        codes = torch.from_numpy(z).float()
        return codes @ self.directions, codes

    def settings(self) -> dict[str, Any]:
        return {"spread": self.spread, "tree": asdict(self.tree)}

    @classmethod
    def described(cls, about: Mapping[str, Any]) -> Self:
        return super().described({**about, "tree": Node.read(about["tree"])})


def _features(
    node: Node, above: int = -1, chance: float = 1.0, number: int = 0, share: float = 1.0
) -> Iterator[tuple[int, float]]:
    """(parent, probability) of each feature of a tree, depth first; `number` of them come before, `share` scales the node's."""
    chance *= node.active_prob * share
    if node.is_read_out:
        yield above, chance
        above, number = number, number + 1
    share = 1 / sum(c.active_prob for c in node.children) if node.mutually_exclusive_children else 1.0
    for child in node.children:
        for found in _features(child, above, chance, number, share):
            yield found
            number += 1


def _sample(
    node: Node, may: np.ndarray, random: np.random.Generator, is_active: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """Where each feature of a tree is active, depth first, given where the parent is (`may`)."""
    active = is_active if is_active is not None else may & (random.random(len(may)) < node.active_prob)
    if node.is_read_out:
        yield active
    if not node.mutually_exclusive_children:
        for child in node.children:
            yield from _sample(child, active, random)
        return
    chances = np.cumsum([child.active_prob for child in node.children])
    one = np.searchsorted(chances / chances[-1], random.random(len(may)), side="right")
    for i, child in enumerate(node.children):
        yield from _sample(child, active, random, active & (one == i))


def parent_recall(
    source: PlantedTree, W_dec: Float[Tensor, "d_sae d"], z: Float[Tensor, "n d_sae"], truth: Float[Tensor, "n latents"]
) -> dict[int, tuple[int, float, float]]:
    """Of each feature that has children: (its latent, that one's recall, its recall where a child is active too).

    Its latent is the one with the nearest decoder row. Recall is the share of the feature's tokens on which the latent fires; where
    children absorb their parent the second recall falls towards 0.
    """
    found = {}
    rows = torch.nn.functional.normalize(W_dec.detach().double(), dim=-1)
    for parent in sorted(set(source.parents.tolist()) - {-1}):
        latent = int((rows @ source.directions[parent].double()).argmax())
        active = truth[:, parent] > 0
        with_child = active & (truth[:, source.parents == parent] > 0).any(1)
        fires = (z[:, latent] > 0).double()
        found[parent] = (latent, fires[active].mean().item(), fires[with_child].mean().item())
    return found
