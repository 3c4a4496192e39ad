"""EndToEnd: batches that know what the model makes of a reconstruction, so that coders learn what matters downstream.

Braun et al. 2024 (arXiv 2405.12241) train on the KL divergence between the model's predictions and those it makes from
reconstructions, alone or with squared errors at later sites; Karvonen 2025 (arXiv 2503.17272) fine-tunes with KL beside the usual
error. Nothing but the batches differs, so every architecture can be trained so.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from assay.activations.ahead import Ahead, Weights
from assay.activations.forward import row_counts, widths_of
from assay.activations.shards import finite
from assay.activations.shuffle import HELD_OUT, held_out_rows, kept_rows
from assay.coders.base import Batch
from assay.errors import BadInput, NotFinite
from assay.models.base import Model, Site
from assay.randomness import numpy_generator
from assay.store import digest

if TYPE_CHECKING:
    from assay.corpora.pack import Tokens

Piece = tuple[int, int, int]
"""(row, first, end): some of a row's vectors, counted where its mask is True."""


class EndToEnd:
    """Activations of `site` in reading order, with `Batch.ahead`, which puts reconstructions into the model and runs on.

    `loss` is KL(model ‖ model on reconstructions) or the cross-entropy of the next token, in nats a token, times `weight`;
    "balanced" makes it as large as the `mse` term at each step (Karvonen 2025). `mse` is how much of the squared error stays, and
    `mse_later` the weight of the squared errors at the sites `later` (their mean); both are relative to the mean squared norm.
    The coder's other terms (sparsity, auxiliary) stay as they are.

    A batch is a stretch of whole rows, permuted anew each pass; only its first and last row may be cut. Then the other tokens of
    that row keep their own activations and do not count, like BOS and padding. Sizes that are many rows long waste least.
    The last rows, with at most `held_out_share` of the vectors, are held out. `batch_rows` bounds the memory of a pass with gradients.
    """

    def __init__(
        self,
        model: Model,
        tokens: Tokens,
        site: Site | str,
        *,
        loss: Literal["kl", "ce"] = "kl",
        weight: float | Literal["balanced"] = 1.0,
        mse: float = 0.0,
        later: Sequence[Site | str] = (),
        mse_later: float = 1.0,
        batch_rows: int = 8,
        held_out_share: float = HELD_OUT,
    ):
        ((self.site, width),) = widths_of(model, [site]).items()
        self.d_in = self.d_out = width
        self.model, self._tokens, self.batch_rows = model, tokens, batch_rows
        self.later = tuple(widths_of(model, later)) if later else ()
        self.weights = Weights(loss, weight, mse, mse_later if later else 0.0)
        if early := [str(s) for s in self.later if s.depth <= self.site.depth]:
            raise BadInput(f"Sites to compare at must come after {self.site}; got {', '.join(early)}.")
        if batch_rows < 1:
            raise BadInput(f"batch_rows is {batch_rows}; a forward pass needs at least one row.")
        self._counts = row_counts(tokens)
        self._kept = kept_rows(self._counts, held_out_share)
        self._rows = np.flatnonzero(self._counts[: self._kept])
        self.tokens = int(self._counts[self._rows].sum())
        self.fingerprint = digest(self.describe())[:16]

    def batches(self, size: int, seed: int, start: int = 0) -> Iterator[Batch]:
        """See ActivationSource; vectors come in the order of the text."""
        if size < 1 or start < 0 or seed < 0:
            raise BadInput(f"A stream needs size ≥ 1, start ≥ 0 and seed ≥ 0; got {size}, {start}, {seed}.")
        return (self._batch(pieces) for pieces in self._stretches(size, seed, start))

    def held_out(self, size: int) -> Batch | None:
        """See ActivationSource: the rows that `Live` holds out."""
        rows = held_out_rows(self._counts, self._kept, size)
        before = self._counts[rows].cumsum() - self._counts[rows]
        ends = np.minimum(self._counts[rows], size - before)
        return self._batch([(row, 0, end) for row, end in zip(rows.tolist(), ends.tolist())]) if len(rows) else None

    def describe(self) -> dict[str, Any]:
        """What a manifest should say of the data."""
        return {
            "kind": "end_to_end",
            "model": {"name": self.model.name, "fingerprint": self.model.fingerprint},
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "read": [str(self.site)],
            "predict": None,
            "corpus": self._tokens.fingerprint,
            "tokens": self.tokens,
            "held_out": int(self._counts[self._kept :].sum()),
            "loss": asdict(self.weights) | {"later": [str(site) for site in self.later]},
            "batch_rows": self.batch_rows,
        }

    def _stretches(self, size: int, seed: int, start: int) -> Iterator[list[Piece]]:
        """The pieces of rows that each batch consists of."""
        first, skip = divmod(start * size, self.tokens)
        pieces, missing = [], size
        for epoch in itertools.count(first):
            for row in self._rows[numpy_generator("rows of a pass", seed, epoch).permutation(len(self._rows))].tolist():
                count = int(self._counts[row])
                while skip < count:
                    end = min(count, skip + missing)
                    pieces.append((row, skip, end))
                    missing -= end - skip
                    skip = end
                    if missing == 0:
                        yield pieces
                        pieces, missing = [], size
                skip -= count

    def _batch(self, pieces: list[Piece]) -> Batch:
        rows = np.array([row for row, _, _ in pieces])
        mask, document = np.asarray(self._tokens.mask[rows]), np.asarray(self._tokens.document[rows])
        nth = mask.cumsum(1) - 1
        bounds = np.array(pieces)[:, 1:, None]
        own = mask & (nth >= bounds[:, 0]) & (nth < bounds[:, 1])
        follows = np.zeros_like(mask)
        follows[:, :-1] = own[:, :-1] & mask[:, 1:] & (document[:, :-1] == document[:, 1:])
        ids = np.asarray(self._tokens.tokens[rows]).astype(np.int64)
        width = min(int(np.flatnonzero(own.any(0)).max()) + 2, ids.shape[1])  # one more: the token that is predicted last
        parts = [torch.from_numpy(np.ascontiguousarray(a[:, :width])) for a in (ids, own, follows)]
        ahead = Ahead(self.model, self.site, self.later, self.weights, *parts, batch_rows=self.batch_rows)
        if not finite(ahead.x):
            raise NotFinite(
                f"{self.model.name} gives NaN or infinity at {self.site} in rows {rows.min()} to {rows.max()}. "
                "float16 models overflow: load it as bfloat16 or float32 (--dtype). Otherwise leave these documents out."
            )
        return Batch(ahead.x, ahead.x, ahead=ahead)
