"""Tensors: matrices from anywhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from assay.activations import Tensors
from assay.errors import BadInput, NotFinite, WidthMismatch

X = np.random.default_rng(0).standard_normal((100, 5))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f8"])
def test_a_memory_map_gives_what_the_array_gives(dtype, tmp_path):
    x = X.astype(dtype)
    np.save(tmp_path / "x.npy", x)
    made = [Tensors.read(tmp_path / "x.npy"), Tensors.read(str(tmp_path / "x.npy")), Tensors(x)]
    want = Tensors(torch.from_numpy(x.astype(np.dtype(dtype).newbyteorder("="))))
    for got in made:
        assert torch.equal(next(got.batches(70, 2, 1)).x, next(want.batches(70, 2, 1)).x)
        assert torch.equal(got.held_out(9).x, want.held_out(9).x)
    assert isinstance(made[0]._x, np.memmap)


def test_matrices_within_the_buffer_are_permuted_as_a_whole():
    x = torch.arange(640.0)[:, None]
    got = next(Tensors(x, held_out_share=0).batches(640, seed=0)).x.ravel()
    assert (got[1:] - got[:-1]).abs().mean() == pytest.approx(640 / 3, rel=0.15)


def test_bfloat16_and_pairs():
    x = torch.from_numpy(X).bfloat16()
    batch = next(Tensors(x, torch.from_numpy(X[:, :2])).batches(98, seed=0))
    assert torch.equal(batch.x[:, :2], batch.y.bfloat16().float())


def test_positions_of_contexts_are_vectors():
    x = np.arange(60, dtype=np.float32).reshape(4, 5, 3)
    source = Tensors(x, torch.from_numpy(x[..., :2]), held_out_share=0.25)
    assert (source.d_in, source.d_out, source.tokens) == (3, 2, 15)
    assert source.describe()["shape"] == [4, 5, 3]
    assert sorted(source.held_out(99).x[:, 0].tolist()) == x[3, :, 0].tolist()


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (X[0], r"matrix.*\(5,\)"),
        (X[None, None], r"\(1, 1, 100, 5\)"),
        (X[:0], r"\(0, 5\)"),
        (X[:, :0], r"\(100, 0\)"),
        ((X * 10).astype(int), "int64"),
        (X.astype(np.longdouble), "float128|longdouble"),
        (X.astype(complex), "complex128"),
        (torch.ones(3, 3, dtype=torch.int32), "int32"),
        (torch.ones(3, 3).to(torch.float8_e4m3fn), "float8"),
        (X.tolist(), "list"),
        ("here.npy", r"opened by Tensors\.read"),
    ],
)
def test_what_is_no_matrix_is_refused(data, told):
    with pytest.raises(BadInput, match=told):
        Tensors(data)


def test_bad_numbers_are_located_and_pairs_must_fit(tmp_path):
    for value in (np.nan, np.inf):
        x = np.zeros((9000, 3), dtype=np.float32)
        x[8500, 2] = value
        with pytest.raises(NotFinite, match=f"x holds {value} in row 8500, column 2"):
            Tensors(x)
        with pytest.raises(NotFinite, match="y holds"):
            Tensors(np.zeros((9000, 1)), x)
        np.save(tmp_path / "bad.npy", x)
        with pytest.raises(NotFinite, match=f"bad.npy holds {value} in row 8500"):
            Tensors.read(tmp_path / "bad.npy")
    with pytest.raises(WidthMismatch, match="100 vectors, y has 99"):
        Tensors(X, X[:99])
