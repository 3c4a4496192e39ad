"""ActivationSource: where training batches come from. Live from a model, Stored on disk, Tensors in memory, Planted by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from assay.coders.base import Batch


@runtime_checkable
class ActivationSource(Protocol):
    """An endless, reproducible stream of vectors.

    Batch number i of `batches(size, seed)` is a pure function of (source, size, seed, i). Hence resuming is `start=i`, bit for
    bit, and two coders that ask alike see the same data. Finite sources start over with a new permutation each pass.
    """

    @property
    def d_in(self) -> int: ...
    @property
    def d_out(self) -> int: ...
    @property
    def fingerprint(self) -> str:
        """sha256-based identity of the data (16 hex digits): part of a coder's provenance."""
        ...

    @property
    def tokens(self) -> int | None:
        """Vectors in one pass, those that are held out not among them; None when the source never repeats."""
        ...

    def batches(self, size: int, seed: int, start: int = 0) -> Iterator[Batch]:
        """Batches of exactly `size` vectors, fp32, unscaled, from number `start` on, without end."""
        ...

    def held_out(self, size: int) -> Batch | None:
        """Up to `size` vectors, fp32, unscaled, that `batches` never gives: always the same. None when none are held out."""
        ...

    def describe(self) -> dict:
        """What a manifest should say of the data: kind, model, sites, corpus, tokens, held_out, dtype."""
        ...
