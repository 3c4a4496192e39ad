"""RowSource: what sources over rows of text share. Where the vectors of a row come from is all that Live and Stored add."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from assay.activations.read_ahead import Tell, quiet
from assay.activations.shards import sites_once
from assay.activations.shuffle import held_out, kept_rows, shuffled
from assay.coders.base import Batch
from assay.models.base import Site
from assay.shapes import Tensor


class RowSource(ABC):
    """A finite source: `counts` vectors in each row, at the sites `read` and `predict`, shuffled; the last rows are held out.

    Subclasses set `d_in`, `d_out` and `fingerprint`, and write `load` and `describe`.
    """

    d_in: int
    d_out: int
    fingerprint: str
    ahead_on: torch.device | None = None
    """Device on which the next block is loaded in a thread while batches are taken from the one at hand; None: nothing is read ahead."""

    def __init__(
        self, counts: np.ndarray, read: tuple[Site, ...], predict: Site | None, buffer_rows: int, held_out_share: float
    ):
        self.read, self.predict, self.buffer_rows = read, predict, buffer_rows
        self.sites = sites_once(read, predict)
        self._counts, self._kept = counts, kept_rows(counts, held_out_share)
        self.tokens: int | None = int(counts[: self._kept].sum())

    @abstractmethod
    def load(self, rows: np.ndarray, tell: Tell = quiet) -> list[Tensor]:
        """The vectors of some rows, in the order given: one [n, d] for each of `sites`."""

    def load_block(self, rows: np.ndarray, tell: Tell = quiet) -> list[Tensor]:
        """The same for `batches`, which asks for many rows at once."""
        return self.load(rows, tell)

    @property
    def block(self) -> int:
        """Vectors that are loaded together, about."""
        return max(1, round(float(self._counts[: self._kept].mean()) * min(self.buffer_rows, self._kept)))

    def batches(self, size: int, seed: int, start: int = 0) -> Iterator[Batch]:
        """See ActivationSource."""
        stream = shuffled(
            self._counts[: self._kept], self.load_block,
            size=size, seed=seed, start=start, buffer_rows=self.buffer_rows, ahead_on=self.ahead_on,
        )  # fmt: skip
        return (self._batch(tensors) for tensors in stream)

    def held_out(self, size: int) -> Batch | None:
        """See ActivationSource. These vectors are loaded anew each time."""
        tensors = held_out(self._counts, self._kept, self.load, size)
        return None if tensors is None else self._batch(tensors)

    def _batch(self, tensors: Sequence[Tensor]) -> Batch:
        """Vectors of all sites as a batch: those read side by side, on one device, and those to be predicted."""
        at = dict(zip(self.sites, tensors, strict=True))
        home = at[self.read[0]].device
        x = at[self.read[0]] if len(self.read) == 1 else torch.cat([at[site].to(home) for site in self.read], dim=-1)
        return Batch.of(x, None if self.predict is None else at[self.predict])
