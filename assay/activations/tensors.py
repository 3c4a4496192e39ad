"""Tensors: vectors that are already there, as a tensor, an array, a memory map or a .npy file. They may come from anywhere."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from assay.activations.shards import finite
from assay.activations.shuffle import shuffled
from assay.coders.base import Batch
from assay.errors import BadInput, MissingFile, NotFinite, WidthMismatch
from assay.shapes import Tensor
from assay.store import digest

RUN = 16
"""Neighbouring vectors that are read from a memory map together. They are parted again by the shuffle within a block."""
CHUNK = 8192
"""Vectors that are checked and hashed at a time."""

Data = Tensor | np.ndarray | str | Path


class Tensors:
    """The rows of a matrix `x` [n, d_in], and of `y` [n, d_out] where something else is to be predicted.

    Reads all of it once to check that it is finite and to take its hash. A path is opened as a memory-mapped .npy file; in
    memory are then about `buffer` vectors. Matrices of up to `buffer` vectors are permuted as a whole.
    """

    def __init__(self, x: Data, y: Data | None = None, *, buffer: int = 65_536):
        self._x, self._y = _opened(x, "x"), None if y is None else _opened(y, "y")
        if self._y is not None and len(self._x) != len(self._y):
            raise WidthMismatch(f"x has {len(self._x)} vectors, y has {len(self._y)}; they must be as many.")
        self.d_in = self._x.shape[1]
        self.d_out = self.d_in if self._y is None else self._y.shape[1]
        self.tokens: int | None = len(self._x)
        self.buffer = buffer
        self._hashes = [_checked_hash(part, name) for part, name in ((self._x, "x"), (self._y, "y")) if part is not None]
        self.fingerprint = digest(["tensors", self._hashes, buffer])[:16]

    def batches(self, size: int, seed: int, start: int = 0) -> Iterator[Batch]:
        """See ActivationSource. Tensors on a GPU stay there."""
        n = len(self._x)
        counts = np.minimum(RUN, n - np.arange(0, n, RUN))

        def load(runs: np.ndarray) -> list[Tensor]:
            rows = (runs[:, None] * RUN + np.arange(RUN)).ravel()
            rows = rows[rows < n]
            return [_rows(part, rows) for part in (self._x, self._y) if part is not None]

        stream = shuffled(counts, load, size=size, seed=seed, start=start, buffer_rows=-(-self.buffer // RUN))
        return (Batch.of(*tensors) for tensors in stream)

    def describe(self) -> dict[str, Any]:
        """What a manifest should say of the data."""
        dtype = str(self._x.dtype).removeprefix("torch.")
        return {"kind": "tensors", "tokens": self.tokens, "dtype": dtype, "sha256": self._hashes, "buffer": self.buffer}


def _opened(data: Data, name: str) -> Tensor | np.ndarray:
    matrix = _mapped(data) if isinstance(data, str | Path) else data
    rule = f"{name} must be a matrix of floating-point numbers [n, d], at least 1 × 1"
    if not isinstance(matrix, Tensor | np.ndarray):
        raise BadInput(f"{rule}; got {type(matrix).__name__}.")
    floats = matrix.is_floating_point() if isinstance(matrix, Tensor) else matrix.dtype.kind == "f"
    if not floats or matrix.ndim != 2 or 0 in matrix.shape:
        raise BadInput(f"{rule}; got {matrix.dtype} {tuple(matrix.shape)}.")
    return matrix.detach() if isinstance(matrix, Tensor) else matrix


def _mapped(path: str | Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise MissingFile(f"{path} does not exist.") from None
    except (ValueError, EOFError) as error:
        raise BadInput(f"{path} is not a .npy file of numbers ({error}). Write it with numpy.save.") from None


def _rows(data: Tensor | np.ndarray, rows: np.ndarray | slice) -> Tensor:
    """Some rows as a tensor; never a view of a read-only memory map."""
    if isinstance(data, Tensor):
        return data[torch.from_numpy(rows).to(data.device) if isinstance(rows, np.ndarray) else rows]
    part = np.asarray(data[rows]) if isinstance(rows, np.ndarray) else np.array(data[rows])
    return torch.from_numpy(part.astype(part.dtype.newbyteorder("="), copy=False))


def _checked_hash(data: Tensor | np.ndarray, name: str) -> str:
    """sha256 of dtype, shape and values; `NotFinite` names the first row and column that is not finite."""
    found = hashlib.sha256(f"{str(data.dtype).removeprefix('torch.')} {tuple(data.shape)}".encode())
    for start in range(0, len(data), CHUNK):
        part = _rows(data, slice(start, start + CHUNK)).cpu().contiguous()
        if not finite(part):
            row, column = (int(i) for i in (~torch.isfinite(part)).nonzero()[0])
            value = float(part[row, column])
            raise NotFinite(f"{name} holds {value} in row {start + row}, column {column}. Clean the data first.")
        found.update(part.view(torch.uint8).numpy().data)
    return found.hexdigest()
