"""Tensors: matrices from anywhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from assay.activations import Tensors
from assay.errors import BadInput, MissingFile, NotFinite, WidthMismatch

X = np.random.default_rng(0).standard_normal((100, 5))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f8"])
def test_a_memory_map_gives_what_the_array_gives(dtype, tmp_path):
    x = X.astype(dtype)
    np.save(tmp_path / "x.npy", x)
    got = [next(Tensors(data).batches(70, seed=2, start=1)) for data in (tmp_path / "x.npy", str(tmp_path / "x.npy"), x)]
    want = next(Tensors(torch.from_numpy(x.astype(np.dtype(dtype).newbyteorder("=")))).batches(70, seed=2, start=1))
    assert all(torch.equal(one.x, want.x) for one in got)


def test_matrices_within_the_buffer_are_permuted_as_a_whole():
    x = torch.arange(640.0)[:, None]
    got = next(Tensors(x).batches(640, seed=0)).x.ravel()
    assert (got[1:] - got[:-1]).abs().mean() == pytest.approx(640 / 3, rel=0.15)


def test_bfloat16_and_pairs():
    x = torch.from_numpy(X).bfloat16()
    batch = next(Tensors(x, torch.from_numpy(X[:, :2])).batches(100, seed=0))
    assert torch.equal(batch.x[:, :2], batch.y.bfloat16().float())


@pytest.mark.parametrize(
    ("data", "error", "told"),
    [
        (X[0], BadInput, r"matrix.*\(5,\)"),
        (X[None], BadInput, r"\(1, 100, 5\)"),
        (X[:0], BadInput, r"\(0, 5\)"),
        ((X * 10).astype(int), BadInput, "int64"),
        (torch.ones(3, 3, dtype=torch.int32), BadInput, "int32"),
        (X.tolist(), BadInput, "list"),
        ("nowhere.npy", MissingFile, "nowhere"),
    ],
)
def test_what_is_no_matrix_is_refused(data, error, told):
    with pytest.raises(error, match=told):
        Tensors(data)


def test_bad_numbers_are_located_and_pairs_must_fit(tmp_path):
    for value in (np.nan, np.inf):
        x = np.zeros((9000, 3), dtype=np.float32)
        x[8500, 2] = value
        with pytest.raises(NotFinite, match=f"x holds {value} in row 8500, column 2"):
            Tensors(x)
        with pytest.raises(NotFinite, match="y holds"):
            Tensors(np.zeros((9000, 1)), x)
    with pytest.raises(WidthMismatch, match="100 vectors, y has 99"):
        Tensors(X, X[:99])
    (tmp_path / "x.npy").write_text("not numpy at all")
    with pytest.raises(BadInput, match=r"not a \.npy file"):
        Tensors(tmp_path / "x.npy")
    np.save(tmp_path / "o.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(BadInput, match=r"not a \.npy file"):
        Tensors(tmp_path / "o.npy")
