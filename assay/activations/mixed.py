"""Mixed: batches with fixed shares of vectors from several sources, e.g. new text with some of the old, for fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from assay.activations.base import ActivationSource
from assay.coders.base import Batch
from assay.errors import BadInput, WidthMismatch
from assay.store import digest


class Mixed:
    """Each batch holds the same share of each source: `Mixed([(chat, 0.7), (web, 0.3)])`. Shares are relative to their sum.

    A pass (`tokens`) ends where the first source starts over. Held-out vectors are mixed in the same shares, and there are none
    where a source has none.
    """

    def __init__(self, parts: Sequence[tuple[ActivationSource, float]]):
        self.sources = [source for source, _ in parts]
        shares = [share for _, share in parts]
        if not parts or not all(0 < share < float("inf") for share in shares):
            raise BadInput(f"A mixture needs at least one source, and shares above 0; got {shares or 'none'}.")
        if len({source.fingerprint for source in self.sources}) < len(parts):
            raise BadInput(
                "A source is named twice in a mixture: its batches would hold the same vectors twice. Add up its shares."
            )
        widths = [(source.d_in, source.d_out) for source in self.sources]
        if len(set(widths)) > 1:
            raise WidthMismatch(f"Sources of one mixture must be equally wide (d_in, d_out); got {widths}.")
        self.d_in, self.d_out = widths[0]
        self.shares = [share / sum(shares) for share in shares]
        passes = [source.tokens / share for source, share in zip(self.sources, self.shares) if source.tokens is not None]
        self.tokens: int | None = max(1, int(min(passes))) if passes else None
        self.fingerprint = digest(["mixed", [source.fingerprint for source in self.sources], self.shares])[:16]

    def batches(self, size: int, seed: int, start: int = 0) -> Iterator[Batch]:
        """See ActivationSource. Vectors stand source by source within a batch."""
        sizes = self._sizes(size)
        if 0 in sizes:
            share = self.shares[sizes.index(0)]
            raise BadInput(f"Batches of {size} vectors hold none of a source whose share is {share:.3g}. Take larger ones.")
        streams = [source.batches(n, seed, start) for source, n in zip(self.sources, sizes)]
        return (_joined(batches) for batches in zip(*streams))

    def held_out(self, size: int) -> Batch | None:
        """See ActivationSource."""
        sizes = self._sizes(size)
        if 0 in sizes:
            return None
        there = [batch for source, n in zip(self.sources, sizes) if (batch := source.held_out(n)) is not None]
        if len(there) < len(self.sources):
            return None
        most = min(len(batch.x) / share for batch, share in zip(there, self.shares))
        sizes = self._sizes(min(size, int(most)))
        return None if 0 in sizes else _joined([_first(batch, n) for batch, n in zip(there, sizes)])

    def describe(self) -> dict[str, Any]:
        """What a manifest should say of the data."""
        parts = [{"share": share} | source.describe() for source, share in zip(self.sources, self.shares)]
        return {"kind": "mixed", "tokens": self.tokens, "parts": parts}

    def _sizes(self, size: int) -> list[int]:
        """How many of `size` vectors come from each source: largest remainders first."""
        exact = [share * size for share in self.shares]
        sizes = [int(n) for n in exact]
        for i in sorted(range(len(exact)), key=lambda i: sizes[i] - exact[i])[: size - sum(sizes)]:
            sizes[i] += 1
        return sizes


def _first(batch: Batch, n: int) -> Batch:
    return batch if len(batch.x) == n else Batch.of(batch.x[:n], None if batch.y is batch.x else batch.y[:n])


def _joined(batches: Sequence[Batch]) -> Batch:
    if any(batch.ahead is not None for batch in batches):
        raise BadInput("End-to-end sources cannot be mixed: what comes after a reconstruction belongs to one stretch of text.")
    x = torch.cat([batch.x.to(batches[0].x.device) for batch in batches])
    alike = all(batch.y is batch.x for batch in batches)
    return Batch.of(x, None if alike else torch.cat([batch.y.to(x.device) for batch in batches]))
