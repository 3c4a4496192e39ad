"""Planted sources by name, as `--planted` takes them."""

from __future__ import annotations

from collections.abc import Callable

from assay.activations.circles import Circles
from assay.activations.compiled import Compiled
from assay.activations.composed import Composed
from assay.activations.planted import Planted
from assay.activations.synthetic import Synthetic
from assay.activations.toy_model import ToyModel
from assay.activations.tree import PlantedTree
from assay.activations.truth import PlantedSource
from assay.errors import UnknownName

PLANTED: dict[str, Callable[..., PlantedSource]] = {
    "superposition": Planted,
    "tree": PlantedTree,
    "toy_model": ToyModel,
    "compiled": Compiled,
    "circles": Circles,
    "composed": Composed,
    "synthetic": Synthetic,
    "synthetic-small": Synthetic.small,
}


def planted(name: str, seed: int = 0) -> PlantedSource:
    """The planted source of a name, at its usual size; `seed` says which of its kind."""
    if name not in PLANTED:
        raise UnknownName.among("planted source", name, PLANTED)
    return PLANTED[name](seed=seed)
