"""Live: vectors computed by the model as training asks for them; nothing is kept on disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from assay.activations.forward import read_rows, row_counts, widths_of
from assay.activations.read_ahead import Tell, quiet
from assay.activations.rows import RowSource
from assay.activations.shuffle import HELD_OUT
from assay.errors import BadInput
from assay.models.base import Model, Site
from assay.shapes import Tensor
from assay.store import digest

if TYPE_CHECKING:
    from assay.corpora.pack import Tokens


class Live(RowSource):
    """Activations of `tokens` in `model`, computed block by block; the model runs again in every pass.

    Several `read` sites are laid side by side (crosscoders); `predict` is the site to be predicted where it is another one
    (transcoders). Batches are on the model's device. In memory: one block of about `buffer_rows` rows in the model's dtype; on a GPU
    two, for there the model reads the next while coders learn from the one at hand. On a CPU both would want the same cores.
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
        widths = widths_of(model, read)
        predicted = None if predict is None else Site.parse(predict)
        super().__init__(row_counts(tokens), tuple(widths), predicted, buffer_rows, held_out_share)
        self.model, self.batch_rows, self._tokens = model, batch_rows, tokens
        self.d_in = sum(widths.values())
        self.d_out = self.d_in if predicted is None else model.d(predicted)
        self.fingerprint = digest(self.describe())[:16]
        self.ahead_on = model.device if model.device.type == "cuda" else None
        self._block: tuple[np.ndarray, list[Tensor]] | None = None

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

    def load(self, rows: np.ndarray, tell: Tell = quiet) -> list[Tensor]:
        """See RowSource. On the model's device; it runs on equal groups of rows, so that equal bits come out."""
        return read_rows(self.model, self._tokens, rows, self.sites, batch_rows=self.batch_rows, tell=tell)

    def load_block(self, rows: np.ndarray, tell: Tell = quiet) -> list[Tensor]:
        """The last block is kept: a trainer that looks at the first batches and starts anew pays for them once."""
        kept = self._block
        if kept is not None and np.array_equal(kept[0], rows):
            return kept[1]
        if self.ahead_on is None:
            self._block = kept = None  # freed before the next one is made
        made = self.load(rows, tell)
        self._block = rows, made
        return made
