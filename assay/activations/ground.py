"""Planted sources by name, as `--planted` takes them, and from what a manifest says of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from assay.activations.circles import Circles
from assay.activations.compiled import Compiled
from assay.activations.composed import Composed
from assay.activations.planted import Planted
from assay.activations.synthetic import Synthetic
from assay.activations.toy_model import ToyModel
from assay.activations.tree import PlantedTree
from assay.activations.truth import PlantedSource
from assay.errors import BadInput, UnknownName
from assay.store import digest

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

KINDS: dict[str, type[PlantedSource]] = {
    cls.kind: cls for cls in (Planted, PlantedTree, ToyModel, Compiled, Circles, Composed, Synthetic)
}


def planted(name: str, seed: int = 0) -> PlantedSource:
    """The planted source of a name, at its usual size; `seed` says which of its kind."""
    if name not in PLANTED:
        raise UnknownName.among("planted source", name, PLANTED)
    return PLANTED[name](seed=seed)


def rebuilt(about: Mapping[str, Any]) -> PlantedSource:
    """The planted source of which `describe` said this, e.g. `about["source"]` of a coder's manifest.

    `BadInput` for other data: nobody knows what true features they have.
    """
    kind = about.get("kind")
    if kind not in KINDS:
        raise BadInput(
            f"The data are {kind!r}, not planted: their true features are not known. Known are those of {', '.join(KINDS)}."
        )
    source = KINDS[kind].described(about)
    if source.fingerprint != digest(dict(about))[:16]:
        raise BadInput(f"This version of Assay makes another {kind} source than the one described. Train on it anew.")
    return source
