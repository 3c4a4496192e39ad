"""Tensors: vectors that are already there, as a tensor, an array, a memory map or a file. They may come from anywhere."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from assay.activations.matrix import Matrix
from assay.activations.matrix import read as opened
from assay.activations.read_ahead import Tell, quiet
from assay.activations.shards import finite
from assay.activations.shuffle import HELD_OUT, held_out, shuffled, spare
from assay.coders.base import Batch
from assay.errors import BadInput, NotFinite, WidthMismatch
from assay.shapes import Tensor
from assay.store import digest

RUN = 16
"""Neighbouring vectors that are read from a memory map together. They are parted again by the shuffle within a block."""
CHUNK = 8192
"""Vectors that are checked and hashed at a time."""


class Tensors:
    """The rows of a matrix `x` [n, d_in], and of `y` [n, d_out] where something else is to be predicted.

    [n, context, d] is taken as [n · context, d]. Reads all of it once to check that it is finite and to take its hash. Matrices of
    up to `buffer` vectors are permuted as a whole. The last rows, a share `held_out_share`, are held out. `names` are for errors.
    """

    def __init__(
        self,
        x: Matrix,
        y: Matrix | None = None,
        *,
        buffer: int = 65_536,
        held_out_share: float = HELD_OUT,
        names: tuple[str, str] = ("x", "y"),
    ):
        self._x, self._y = _as_matrix(x, names[0]), None if y is None else _as_matrix(y, names[1])
        if self._y is not None and len(self._x) != len(self._y):
            raise WidthMismatch(f"{names[0]} has {len(self._x)} vectors, {names[1]} has {len(self._y)}; they must be as many.")
        self.d_in = self._x.shape[1]
        self.d_out = self.d_in if self._y is None else self._y.shape[1]
        self._held = spare(len(self._x), held_out_share)
        self.tokens: int | None = len(self._x) - self._held
        self.buffer = buffer
        self._shape = tuple(x.shape)
        self._hashes = [_checked_hash(part, name) for part, name in zip((self._x, self._y), names) if part is not None]
        self.fingerprint = digest(["tensors", self._hashes, buffer, self._held])[:16]

    @classmethod
    def read(cls, x: str | Path, y: str | Path | None = None, **settings: Any) -> Tensors:
        """From files: .npy, .npz, .safetensors, .parquet, .pt, .pth; FILE:NAME is one array of several in a file.

        .npy, .safetensors and .pt stay on disk: in memory are about `buffer` vectors. The others are read whole.
        """
        return cls(opened(x), None if y is None else opened(y), names=(str(x), str(y)), **settings)

    def batches(self, size: int, seed: int, start: int = 0) -> Iterator[Batch]:
        """See ActivationSource. Tensors on a GPU stay there."""
        n = len(self._x) - self._held
        counts = np.minimum(RUN, n - np.arange(0, n, RUN))

        def load(runs: np.ndarray, tell: Tell = quiet) -> list[Tensor]:
            rows = (runs[:, None] * RUN + np.arange(RUN)).ravel()
            return self._load(rows[rows < n])

        stream = shuffled(counts, load, size=size, seed=seed, start=start, buffer_rows=-(-self.buffer // RUN))
        return (Batch.of(*tensors) for tensors in stream)

    def held_out(self, size: int) -> Batch | None:
        """See ActivationSource."""
        n = len(self._x)
        tensors = held_out(np.broadcast_to(1, n), n - self._held, self._load, size)
        return None if tensors is None else Batch.of(*tensors)

    def describe(self) -> dict[str, Any]:
        """What a manifest should say of the data."""
        about = {"tokens": self.tokens, "held_out": self._held, "shape": list(self._shape)}
        dtype = str(self._x.dtype).removeprefix("torch.")
        return {"kind": "tensors"} | about | {"dtype": dtype, "sha256": self._hashes, "buffer": self.buffer}

    def _load(self, rows: np.ndarray, tell: Tell = quiet) -> list[Tensor]:
        return [_rows(part, rows) for part in (self._x, self._y) if part is not None]


def _as_matrix(data: Matrix, name: str) -> Matrix:
    rule = f"{name} must be a matrix of floating-point numbers (16, 32 or 64 bits) [n, d] or [n, context, d], at least 1 × 1"
    if not isinstance(data, Tensor | np.ndarray):
        files = " Files are opened by Tensors.read." if isinstance(data, str | Path) else ""
        raise BadInput(f"{rule}; got {type(data).__name__}.{files}")
    floats = data.is_floating_point() if isinstance(data, Tensor) else data.dtype.kind == "f"
    if not floats or data.dtype.itemsize not in (2, 4, 8) or data.ndim not in (2, 3) or 0 in data.shape:
        raise BadInput(f"{rule}; got {str(data.dtype).removeprefix('torch.')} {tuple(data.shape)}.")
    data = data.detach() if isinstance(data, Tensor) else data
    return data if data.ndim == 2 else data.reshape(-1, data.shape[2])


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
