"""rows: some rows of a text, the same with BOS otherwise, and the activations that a model has on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from assay.activations.forward import read_rows, row_counts
from assay.models.base import Model, Site
from assay.randomness import numpy_generator
from assay.shapes import Tensor

if TYPE_CHECKING:
    from assay.corpora.pack import Tokens

PIECE = 1024  # tokens read at once
FIRSTS = 256  # rows whose first tokens tell about BOS


def drawn(text: Tokens, vectors: int, seed: int) -> Tokens:
    """Some rows of a text, in memory: as many as hold so many tokens."""
    counts = row_counts(text)
    order = numpy_generator("check", seed).permutation(len(counts))
    rows = np.sort(order[: int(np.searchsorted(np.cumsum(counts[order]), vectors)) + 1])
    return cut(
        text, np.asarray(text.tokens[rows]), np.asarray(text.mask[rows]), np.asarray(text.document[rows]), text.packing.bos
    )


def cut(text: Tokens, tokens: Any, mask: Any, document: Any, bos: int | None) -> Tokens:
    packing = replace(text.packing, rows=len(tokens), n_tokens=int(mask.sum()), bos=bos)
    return type(text)(None, packing, tokens, mask, document)


def other(rows: Tokens, model: Model) -> Tokens | None:
    """The same rows without BOS where they have it, with it where not; None where the model has none."""
    bos = getattr(model.tokenizer, "bos_token_id", None)
    if rows.packing.bos is not None:
        return cut(rows, rows.tokens[:, 1:], rows.mask[:, 1:], rows.document[:, 1:], None)
    return None if bos is None else cut(rows, _put(rows.tokens, bos), _put(rows.mask, False), _put(rows.document, -1), bos)


def _put(column: Any, value: Any) -> Any:
    """Rows with a value before each, as long as they were."""
    return np.concatenate([np.full_like(column[:, :1], value), column[:, :-1]], 1)


def pieces(model: Model, text: Tokens, sites: Sequence[Site]) -> Iterator[Mapping[Site, Tensor]]:
    """Activations, a few rows at a time."""
    each = max(1, PIECE // text.tokens.shape[1])
    wanted = sorted(set(sites), key=lambda s: s.depth)
    for start in range(0, len(text.tokens), each):
        rows = np.arange(start, min(start + each, len(text.tokens)))
        found = read_rows(model, text, rows, wanted, batch_rows=each, dtype=torch.float32)
        yield dict(zip(wanted, found))


def firsts(text: Tokens, seed: int) -> Tokens | None:
    """The first token of text of some rows alone, after BOS where they have it; None where no row begins with text."""
    chosen = np.sort(numpy_generator("check", "first", seed).permutation(np.flatnonzero(row_counts(text)))[:FIRSTS])
    at = int(text.packing.bos is not None)
    tokens, mask, document = (np.asarray(c[chosen])[:, : at + 2] for c in (text.tokens, text.mask, text.document))
    alone = np.zeros_like(mask)
    alone[:, at] = mask[:, at]
    return cut(text, tokens, alone, document, text.packing.bos) if alone.any() else None
