"""SideBySide: what several models make of the same tokens, laid side by side: the source of a crosscoder over models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from assay.activations.base import ActivationSource
from assay.coders.base import Batch
from assay.errors import BadInput
from assay.store import digest

ALIKE = ("corpus", "tokens", "held_out", "buffer_rows")
"""What sources must agree on for their n-th vectors to belong to the same token."""


class SideBySide:
    """`SideBySide([base, chat])`: each vector is that of the first source, then that of the second, at one token.

    The sources are `Stored` or `Live` over the same token rows; others are refused, since their order cannot be compared.
    `widths` is what a crosscoder is to be told. Sites of a single model need none of this: one source reads them together.
    """

    def __init__(self, sources: Sequence[ActivationSource]):
        self.sources = list(sources)
        if len(self.sources) < 2:
            raise BadInput(f"Side by side takes two sources or more, got {len(self.sources)}.")
        self._abouts = [source.describe() for source in self.sources]
        for number, about in enumerate(self._abouts):
            differing = [key for key in ALIKE if about.get(key) is None or about.get(key) != self._abouts[0].get(key)]
            if differing:
                found = [{key: a.get(key) for key in differing} for a in (self._abouts[0], about)]
                raise BadInput(
                    f"Source {number} cannot lie beside source 0: they must be Stored or Live, over the same token rows with the "
                    f"same settings; got {found[1]} beside {found[0]}. Gather with both models from the same tokens."
                )
            if about.get("predict"):
                raise BadInput(f"Source {number} predicts {about['predict']}. Side by side, each source only reads.")
        self.widths = tuple(source.d_in for source in self.sources)
        self.d_in = self.d_out = sum(self.widths)
        self.tokens: int | None = self.sources[0].tokens
        self.fingerprint = digest(["side by side", [source.fingerprint for source in self.sources]])[:16]

    def batches(self, size: int, seed: int, start: int = 0) -> Iterator[Batch]:
        """See ActivationSource. On the device of the first source."""
        return (_beside(batches) for batches in zip(*(source.batches(size, seed, start) for source in self.sources)))

    def held_out(self, size: int) -> Batch | None:
        """See ActivationSource."""
        there = [batch for source in self.sources if (batch := source.held_out(size)) is not None]
        return _beside(there) if len(there) == len(self.sources) else None

    def describe(self) -> dict[str, Any]:
        """What a manifest should say of the data."""
        shared = {key: self._abouts[0][key] for key in ALIKE}
        read = [f"{number}:{site}" for number, about in enumerate(self._abouts) for site in about.get("read", ())]
        return {"kind": "side_by_side", **shared, "read": read, "widths": list(self.widths), "of": self._abouts}


def _beside(batches: Sequence[Batch]) -> Batch:
    home = batches[0].x.device
    return Batch.of(torch.cat([batch.x.to(home) for batch in batches], dim=-1))
