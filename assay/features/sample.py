"""RowSample: whole rows of text with their codes, drawn by chance, as many as fit. Pairs of latents are counted on these.

A row is in the sample when its hash is below a bar, which is halved whenever the sample outgrows its bound. So which rows are in it
depends on the text and the codes alone. Where a text has no more codes than the bound, the sample is the whole text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

import numpy as np

from assay.features.chance import mixed
from assay.features.stretch import Codes, Stretch


class RowSample:
    """At most `bound` latents that are not 0, of whole rows."""

    def __init__(self, d_sae: int, bound: int):
        self.d_sae, self.bound, self.bar, self.size = d_sae, bound, 2**32, 0
        self._parts: list[tuple[Stretch, Codes]] = []

    def add(self, stretch: Stretch, codes: Codes) -> None:
        """Rows that may be in the sample."""
        part = self._below(stretch, codes)
        self._parts.append(part)
        self.size += len(part[1].values)
        while self.size > self.bound and self.bar > 1:
            self.bar //= 2
            self._parts = [self._below(*part) for part in self._parts]
            self.size = sum(len(codes.values) for _, codes in self._parts)

    def merge(self, other: RowSample) -> None:
        """Take in the sample of other rows of the same text."""
        self.bar = min(self.bar, other.bar)
        mine, self._parts, self.size = self._parts, [], 0
        for part in (*mine, *other._parts):
            self.add(*part)

    def whole(self) -> tuple[Stretch, Codes]:
        """The sample in the order of the text."""
        if not self._parts:
            nothing = np.empty(0, np.int64)
            return Stretch(*[nothing] * len(fields(Stretch))), Codes(nothing, nothing, np.zeros(1, np.int64), self.d_sae)
        stretch, codes = Stretch.joined([s for s, _ in self._parts]), Codes.joined([c for _, c in self._parts])
        order = np.argsort(stretch.position, kind="stable")
        self._parts = [(stretch.take(order), codes.take(order))]
        return self._parts[0]

    def _below(self, stretch: Stretch, codes: Codes) -> tuple[Stretch, Codes]:
        if self.bar == 2**32:
            return stretch, codes
        places = np.flatnonzero(mixed(stretch.row, "row") < self.bar)
        return stretch.take(places), codes.take(places)

    def state(self) -> dict[str, np.ndarray]:
        """All there is to keep."""
        stretch, codes = self.whole()
        found = {f"stretch.{f.name}": getattr(stretch, f.name) for f in fields(Stretch)}
        return found | {"values": codes.values, "latents": codes.latents, "offsets": codes.offsets, "bar": np.array(self.bar)}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """As it was when `state` was asked for."""
        stretch = Stretch(*(state[f"stretch.{f.name}"] for f in fields(Stretch)))
        codes = Codes(state["values"], state["latents"], state["offsets"], self.d_sae)
        self._parts, self.size, self.bar = [(stretch, codes)], len(codes.values), int(state["bar"])
