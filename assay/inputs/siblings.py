"""Siblings: coders that differ in the seed alone, among those of one call."""

from __future__ import annotations

from typing import Any, ClassVar

from assay.coders.base import SparseCoder
from assay.evals.needs import Siblings, SiblingsInput
from assay.inputs.base import Reads, Supply
from assay.store import digest


class SiblingsSupply(Supply[Siblings]):
    """Nothing is gathered: the coders are there. This is the one kind of input that depends on which coders are evaluated along."""

    reads: ClassVar[Reads] = "nothing"

    def fingerprint(self, coder: str) -> str:
        """One for all coders of a call, so that their scores can stand side by side: of all that have siblings, or seem to."""
        return digest(sorted(key for key in self.bench.coders if len(self._alike(key)) > 1))[:16]

    def given(self, coder: str) -> SiblingsInput:
        alike = self._alike(coder)
        reason = "no other coder of this call differs from it in the seed alone" if len(alike) < 2 else ""
        if len({one.seed for one in alike.values()}) < len(alike):
            reason = "coders of its kind share a seed, so they differ in something else (data, learning rate, …)"
        return SiblingsInput(coder, {} if reason else {key: one for key, one in alike.items() if key != coder}, reason)

    def _alike(self, coder: str) -> dict[str, SparseCoder[Any]]:
        """The coders of this one's architecture and configuration, itself among them."""
        coders = self.bench.coders
        own = coders[coder]
        return {key: one for key, one in coders.items() if type(one) is type(own) and one.config == own.config}
