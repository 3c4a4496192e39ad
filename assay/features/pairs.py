"""Pairs: which latents are active together and correlate, over the sample of rows, a block of latents at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from assay.progress import Progress, silent

MOST = 10  # partners that are kept of each latent
ENTRIES = 2**22  # numbers of a block that are in memory at once
GROUP = 64  # columns whose largest number is looked at first


def partners(codes: sparse.csr_matrix, progress: Progress = silent) -> dict[str, list[Any]]:
    """For each latent up to ten others: `correlated`, `correlations` (Pearson, above 0) and `coactive`, `coactive_shares`.

    `codes`: [tokens, d_sae]. A share is of the latent's own active tokens. Equal ones come by number.
    """
    n, d_sae = int(codes.shape[0]), int(codes.shape[1])  # type: ignore[index]
    values: Any = codes.astype(np.float64)
    active: Any = sparse.csr_matrix((np.ones(codes.nnz, np.float32), codes.indices, codes.indptr), codes.shape)
    values_of, active_of = values.tocsc(), active.tocsc()
    counts = np.diff(values_of.indptr)
    mean = np.asarray(values.sum(0)).reshape(-1) / max(n, 1)
    square = np.asarray(values.multiply(values).sum(0)).reshape(-1) / max(n, 1)
    deviation = np.sqrt(np.maximum(square - mean**2, 0))
    inverse = np.divide(1, deviation, out=np.zeros(d_sae), where=deviation > 0)
    found: dict[str, list[Any]] = {name: [] for name in ("correlated", "correlations", "coactive", "coactive_shares")}
    for start in range(0, d_sae, step := max(1, ENTRIES // d_sae)):
        some = np.arange(start, min(start + step, d_sae))
        own = np.arange(len(some))
        together = (active_of[:, some].T @ active).toarray()
        together[own, some] = 0
        which, how_often = largest(together, MOST)
        found["coactive"] += which
        found["coactive_shares"] += [[c / counts[i] for c in row] for i, row in zip(some, how_often)]
        table = (values_of[:, some].T @ values).toarray()
        table[own, some] = 0
        table *= inverse / max(n, 1)
        table -= mean[some, None] * (mean * inverse)  # the covariance over the other's deviation; below 0 where never together
        table *= inverse[some, None]
        which, how_much = largest(table, MOST)
        found["correlated"] += which
        found["correlations"] += how_much
        progress(int(some[-1]) + 1, d_sae, "latents paired")
    return found


def largest(table: np.ndarray, count: int) -> tuple[list[list[int]], list[list[float]]]:
    """Columns and values of the `count` largest positive numbers of each row, largest first, equal ones by column."""
    n, width = table.shape
    whole = width // GROUP * GROUP
    peaks = np.concatenate([table[:, :whole].reshape(n, -1, GROUP).max(2), table[:, whole:]], axis=1)
    few = min(count, peaks.shape[1])
    bar = np.partition(peaks, peaks.shape[1] - few, axis=1)[:, -few, None]  # so many numbers at least reach it
    bar = np.where(few == count, np.maximum(bar, np.finfo(table.dtype).tiny), np.finfo(table.dtype).tiny)
    row, column = np.divmod(np.flatnonzero(table >= bar), width)
    value = table[row, column]
    order = np.lexsort((column, -value, row))
    row, column, value = row[order], column[order], value[order]
    first = np.searchsorted(row, np.arange(n))
    last = np.minimum(np.searchsorted(row, np.arange(n), side="right"), first + count)
    return [column[a:b].tolist() for a, b in zip(first, last)], [value[a:b].tolist() for a, b in zip(first, last)]
