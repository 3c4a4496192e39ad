"""Layout: the columns of features.parquet and examples.parquet, and how both are written.

features.parquet    a row a latent: scalars, and short lists (histograms, logits, neighbours)
examples.parquet    a row an example, sorted by latent; a row group holds the examples of GROUP latents

An example is a pointer into the token rows (STORE/tokens/KEY/) and the activations of its window that are not 0: some 15 bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

GROUP = 256  # latents in a row group of examples.parquet
KINDS = ("top", "interval", "random", "near_miss")
"""What an example can be an example of; the file holds the number."""

F2, F4, F8, I4, I8, U1 = pa.float16(), pa.float32(), pa.float64(), pa.int32(), pa.int64(), pa.uint8()
SCALARS: dict[str, pa.DataType] = {
    "latent": I4, "count": I8, "density": F8, "mean": F8, "max": F4, "dead": pa.bool_(), "dense": pa.bool_(),
    "decoder_norm": F4, "encoder_norm": F4, "cosine": F4, "nearest": I4, "nearest_cosine": F4, "top_token": I4, "purity": F4,
    "x": F4, "y": F4,
}  # fmt: skip
"""Columns with one value a latent. What a latent does not have (a dead one's commonest token) is null, NaN in numpy."""
FURTHER = {"umap_x": F4, "umap_y": F4}
"""Scalar columns that are there only when they were asked for."""
LISTS: dict[str, pa.DataType] = {
    "histogram": I8, "interval_edges": F4, "interval_counts": I8, "top_logits": I4, "top_logit_values": F2, "bottom_logits": I4,
    "bottom_logit_values": F2, "logit_histogram": I4, "logit_range": F4, "neighbours": I4, "neighbour_cosines": F2,
    "correlated": I4, "correlations": F4, "coactive": I4, "coactive_shares": F4,
}  # fmt: skip
"""Columns with a list a latent."""
EXAMPLES: dict[str, pa.DataType] = {
    "latent": I4, "group": U1, "interval": U1, "position": I8, "before": U1, "after": U1, "at": pa.list_(U1),
    "values": pa.list_(F2), "weight": F4,
}  # fmt: skip
"""`before` and `after`: tokens of the window on either side of the position. `interval` and `weight`: null outside intervals."""


def ragged(values: np.ndarray, offsets: np.ndarray, of: pa.DataType) -> pa.Array:
    """Lists out of one flat array: list i is values[offsets[i]:offsets[i+1]]."""
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(values, of))


def column(value: Any, of: pa.DataType) -> pa.Array:
    """One column: a flat array (masked where values are missing), a two-dimensional one, or a list of lists and None."""
    if isinstance(value, pa.Array):
        return value
    if isinstance(value, list):
        return pa.array(value, pa.list_(of))
    if value.ndim == 2:
        flat = np.ascontiguousarray(value).reshape(-1)
        return ragged(flat.astype(of.to_pandas_dtype()), np.arange(len(value) + 1) * value.shape[1], of)
    mask = np.ma.getmaskarray(value) if isinstance(value, np.ma.MaskedArray) else None
    return pa.array(np.asarray(value).astype(of.to_pandas_dtype()), of, mask=mask)


def write_features(path: Path, columns: Mapping[str, Any]) -> None:
    """features.parquet in a directory. `columns` has every scalar and list column; FURTHER may be there."""
    kinds = SCALARS | {name: of for name, of in FURTHER.items() if name in columns} | LISTS
    table = pa.table({name: column(columns[name], of) for name, of in kinds.items()})
    pq.write_table(table, path / "features.parquet", compression="zstd", compression_level=9, row_group_size=512)


def write_examples(path: Path, columns: Mapping[str, Any], d_sae: int) -> None:
    """examples.parquet in a directory, from flat columns sorted by latent; `at` and `values` as arrays of lists."""
    table = pa.table({name: column(columns[name], of) for name, of in EXAMPLES.items()})
    starts = np.searchsorted(np.asarray(columns["latent"]), np.arange(0, d_sae + GROUP, GROUP))
    settings = {
        "compression": "zstd",
        "compression_level": 9,
        "use_dictionary": ["latent", "group", "interval", "before", "after"],
    }
    with pq.ParquetWriter(path / "examples.parquet", table.schema, **settings) as file:
        for start, stop in pairwise(starts):
            file.write_table(table.slice(start, stop - start), row_group_size=max(1, stop - start))
