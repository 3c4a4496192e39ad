"""What probes on examples read: the last token's latents, their mean or largest over all tokens (sparse matrices), all
tokens' vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import torch

from assay.coders.latents import Latents
from assay.evals.needs import LabelledInput
from assay.shapes import Tensor

PIECE = 1024
Encode = Callable[[Tensor], Latents]


def last_latents(data: LabelledInput, encode: Encode, d_sae: int) -> Any:
    """Latents of each example's last token: scipy.sparse [n, d_sae]."""
    from scipy import sparse

    x = torch.from_numpy(data.last)
    found = [nonzeros(encode(x[start : start + PIECE])) for start in range(0, len(x), PIECE)]
    rows = np.concatenate([row + PIECE * i for i, (row, _, _) in enumerate(found)])
    columns, values = (np.concatenate([part[j] for part in found]) for j in (1, 2))
    return sparse.csr_matrix((values, (rows, columns)), shape=(len(x), d_sae))


def pooled_latents(data: LabelledInput, encode: Encode, d_sae: int) -> dict[Literal["mean", "max"], Any]:
    """Mean and maximum of each latent over an example's tokens: scipy.sparse [n, d_sae] each, from one pass."""
    from scipy import sparse

    lengths = np.zeros(len(data.labels))
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for x, example in data.vectors():
        lengths += np.bincount(example, minlength=len(lengths))
        row, column, value = nonzeros(encode(x))
        found.append(_merged(example[row] * d_sae + column, value, value))
    place, total, largest = _merged(*(np.concatenate([part[i] for part in found]) for i in range(3)))
    at, shape = (place // d_sae, place % d_sae), (len(lengths), d_sae)
    mean = (total / lengths[at[0]]).astype(np.float32)
    return {"mean": sparse.csr_matrix((mean, at), shape=shape), "max": sparse.csr_matrix((largest, at), shape=shape)}


def _merged(place: np.ndarray, total: np.ndarray, largest: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One entry a place: sums and maxima over equal places."""
    if not len(place):
        return place, total, largest
    order = np.argsort(place, kind="stable")
    place = place[order]
    starts = np.flatnonzero(np.r_[True, np.diff(place) != 0])
    return place[starts], np.add.reduceat(total[order], starts), np.maximum.reduceat(largest[order], starts)


def nonzeros(latents: Latents) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(token, latent, value) of what is not zero, token by token."""
    if latents.indices is not None:
        row, column, value = latents.rows(), latents.indices, latents.values
        keep = value != 0
        row, column, value = row[keep], column[keep], value[keep]
    else:
        row, column = latents.values.nonzero(as_tuple=True)
        value = latents.values[row, column]
    return row.cpu().numpy().astype(np.int64), column.cpu().numpy().astype(np.int64), value.float().cpu().numpy()


class Ragged:
    """The vectors of all tokens, example after example."""

    def __init__(self, pieces: Iterator[tuple[Tensor, np.ndarray]], examples: int):
        found = list(pieces)
        self.x, owner = torch.cat([x for x, _ in found]), np.concatenate([e for _, e in found])
        if (np.diff(owner) < 0).any():
            order = np.argsort(owner, kind="stable")
            self.x, owner = self.x[torch.from_numpy(order)], owner[order]
        self.lengths = np.bincount(owner, minlength=examples)
        self.starts = np.cumsum(self.lengths) - self.lengths

    def of(self, examples: np.ndarray) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """(vectors of some examples, the place of each in a padded table, the table's shape)."""
        n = self.lengths[examples]
        inner = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)
        rows, place = np.repeat(self.starts[examples], n) + inner, np.repeat(np.arange(len(n)) * n.max(), n) + inner
        return self.x[torch.from_numpy(rows)], torch.from_numpy(place), (len(n), int(n.max()))
