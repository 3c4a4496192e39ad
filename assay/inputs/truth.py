"""A planted source: vectors made from known features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch

from assay.activations.score import truths
from assay.activations.truth import PlantedSource
from assay.coders.base import SparseCoder
from assay.evals.needs import Truth, TruthInput
from assay.inputs.base import Reads, Supply


class TruthSupply(Supply[Truth]):
    """Vectors of the source that the coders learnt from."""

    reads: ClassVar[Reads] = "planted"

    def fingerprint(self, coder: str) -> str:
        return self.bench.planted.fingerprint

    def gather(self, coders: Mapping[str, SparseCoder[Any]]) -> None:
        self.ready = truth(self.bench.planted, self.need)

    def given(self, coder: str) -> TruthInput:
        return self.ready


def truth(source: PlantedSource, need: Truth) -> TruthInput:
    """Vectors of a source, made once for all coders. Of what is true of them only the places of the features are kept."""
    kept = [(x, there.nonzero(as_tuple=True)) for x, there in truths(source, need.vectors, need.seed)]

    def pieces() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for x, places in kept:
            there = torch.zeros(len(x), source.latents, dtype=torch.bool)
            there[places] = True
            yield x, there

    return TruthInput(
        source=source.describe(), directions=source.directions.cpu(), parents=getattr(source, "parents", None), pieces=pieces
    )  # fmt: skip
