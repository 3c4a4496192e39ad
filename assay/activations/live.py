"""Live: vectors computed by the model as training asks for them; nothing is kept on disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from assay.activations.forward import read_rows, row_counts, widths_of
from assay.activations.shards import sites_once
from assay.activations.shuffle import HELD_OUT, held_out, kept_rows, shuffled
from assay.coders.base import Batch
from assay.errors import BadInput
from assay.models.base import Model, Site
from assay.shapes import Tensor
from assay.store import digest

if TYPE_CHECKING:
    from assay.corpora.pack import Tokens


class Live:
    """Activations of `tokens` in `model`, computed block by block; the model runs again in every pass.

    Several `read` sites are laid side by side (crosscoders); `predict` is the site to be predicted where it is another one
    (transcoders). Batches are on the model's device. In memory: one block of about `buffer_rows` rows in the model's dtype.
    The last rows, with at most `held_out_share` of the vectors, are held out.
    """

    def __init__(
        self,
        model: Model,
        tokens: Tokens,
        read: Site | str | Sequence[Site | str],
        predict: Site | str | None = None,
        *,
        buffer_rows: int = 512,
        batch_rows: int = 16,
        held_out_share: float = HELD_OUT,
    ):
        if batch_rows < 1:
            raise BadInput(f"batch_rows is {batch_rows}; a forward pass needs at least one row.")
        self.model, self._tokens = model, tokens
        widths = widths_of(model, read)
        self.read, self.predict = tuple(widths), None if predict is None else Site.parse(predict)
        self.buffer_rows, self.batch_rows = buffer_rows, batch_rows
        self.d_in = sum(widths.values())
        self.d_out = self.d_in if predict is None else model.d(predict)
        self._counts = row_counts(tokens)
        self._kept = kept_rows(self._counts, held_out_share)
        self.tokens: int | None = int(self._counts[: self._kept].sum())
        self.fingerprint = digest(self.describe())[:16]
        self._block: tuple[np.ndarray, list[Tensor]] | None = None

    def batches(self, size: int, seed: int, start: int = 0) -> Iterator[Batch]:
        """See ActivationSource. The model runs on equal groups of rows whatever `start` is, so that equal bits come out."""
        counts = self._counts[: self._kept]
        stream = shuffled(counts, self._load, size=size, seed=seed, start=start, buffer_rows=self.buffer_rows)
        return (self._batch(tensors) for tensors in stream)

    @property
    def block(self) -> int:
        """Vectors that are loaded together, about."""
        return max(1, round(float(self._counts[: self._kept].mean()) * min(self.buffer_rows, self._kept)))

    def held_out(self, size: int) -> Batch | None:
        """See ActivationSource. The model runs once more for them."""
        tensors = held_out(self._counts, self._kept, self._compute, size)
        return None if tensors is None else self._batch(tensors)

    def describe(self) -> dict[str, Any]:
        """What a manifest should say of the data."""
        return {
            "kind": "live",
            "model": {"name": self.model.name, "fingerprint": self.model.fingerprint},
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "read": [str(site) for site in self.read],
            "predict": None if self.predict is None else str(self.predict),
            "corpus": self._tokens.fingerprint,
            "tokens": self.tokens,
            "held_out": int(self._counts[self._kept :].sum()),
            "buffer_rows": self.buffer_rows,
            "batch_rows": self.batch_rows,
        }

    def _load(self, rows: np.ndarray) -> list[Tensor]:
        """A block. The last one is kept: a trainer that looks at the first batches and starts anew pays for them once."""
        if self._block is None or not np.array_equal(self._block[0], rows):
            self._block = None  # freed before the next one is made
            self._block = rows, self._compute(rows)
        return self._block[1]

    def _compute(self, rows: np.ndarray) -> list[Tensor]:
        return read_rows(self.model, self._tokens, rows, sites_once(self.read, self.predict), batch_rows=self.batch_rows)

    def _batch(self, tensors: Sequence[Tensor]) -> Batch:
        return side_by_side(dict(zip(sites_once(self.read, self.predict), tensors)), self.read, self.predict)


def side_by_side(vectors: dict[Site, Tensor], read: Sequence[Site], predict: Site | None) -> Batch:
    """A batch from the vectors of each site: `read` concatenated in its order, `predict` apart."""
    x = vectors[read[0]] if len(read) == 1 else torch.cat([vectors[site].to(vectors[read[0]].device) for site in read], dim=-1)
    return Batch.of(x, None if predict is None else vectors[predict])
