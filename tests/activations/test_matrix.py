"""Files of vectors: all kinds give the same matrix, and none is trusted."""

from __future__ import annotations

import contextlib
import os
import pickle

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from assay.activations import Tensors
from assay.activations.matrix import read
from assay.errors import AssayError, BadFile, BadInput, DamagedFile, MissingFile, UnknownName

X = np.random.default_rng(0).standard_normal((3000, 5)).astype(np.float32)
T = torch.from_numpy(X)


def write_npy(path):
    np.save(path / "a.npy", X)
    return "a.npy"


def write_npz(path):
    np.savez_compressed(path / "a.npz", vectors=X)
    return "a.npz"


def write_npz_of_two(path):
    np.savez(path / "b.npz", x=X, y=X[:, :2])
    return "b.npz:x"


def write_safetensors(path):
    save_file({"resid_post.3": T}, path / "a.safetensors")
    return "a.safetensors"


def write_safetensors_of_two(path):
    save_file({"resid_post.3": T, "row": torch.arange(3000)}, path / "b.safetensors")
    return "b.safetensors:resid_post.3"


def write_parquet_of_columns(path):
    pd.DataFrame(X, columns=list("abcde")).to_parquet(path / "a.parquet", row_group_size=700)
    return "a.parquet"


def write_parquet_of_lists(path):
    pd.DataFrame({"id": range(3000), "text": "t", "v": list(X)}).to_parquet(path / "b.parquet", row_group_size=700)
    return "b.parquet"


def write_parquet_of_fixed_lists(path):
    lists = pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), 5)
    pq.write_table(pa.table({"v": lists, "w": lists}), path / "c.parquet")
    return "c.parquet:v"


def write_pt(path):
    torch.save(T, path / "a.pt")
    return "a.pt"


def write_old_pt(path):
    torch.save(torch.nn.Parameter(T.clone()), path / "old.pt", _use_new_zipfile_serialization=False)
    return "old.pt"


def write_pth_of_one(path):
    torch.save({"acts": T, "layer": 3}, path / "b.pth")
    return "b.pth"


def write_pt_of_two(path):
    torch.save({"acts:in": T, "out": T[:, :2]}, path / "c.pt")
    return "c.pt:acts:in"


KINDS = [value for name, value in sorted(globals().items()) if name.startswith("write_")]


@pytest.mark.parametrize("write", KINDS, ids=lambda w: w.__name__.removeprefix("write_"))
def test_all_kinds_of_files_give_the_matrix(write, tmp_path):
    ref = tmp_path / write(tmp_path)
    got = read(ref)
    assert np.array_equal(np.asarray(got), X)
    assert got.dtype in (torch.float32, np.float32)
    batch = next(Tensors.read(ref).batches(500, seed=1))
    assert torch.equal(batch.x, next(Tensors(X).batches(500, seed=1)).x)


def test_a_file_whose_name_has_a_colon_is_there(tmp_path):
    np.save(tmp_path / "a.npy:b.npy", X)
    assert np.array_equal(read(tmp_path / "a.npy:b.npy"), X)


def test_large_files_stay_on_disk(tmp_path):
    """A few rows are read, not the gigabytes: the file is mostly holes."""
    big = np.lib.format.open_memmap(tmp_path / "big.npy", mode="w+", dtype=np.float32, shape=(4_000_000, 256))
    big[-1] = 1
    del big
    assert (tmp_path / "big.npy").stat().st_size > 4e9
    assert read(tmp_path / "big.npy")[-1].sum() == 256


CUT = [write_npy, write_npz, write_safetensors, write_parquet_of_columns, write_pt, write_old_pt]


@pytest.mark.parametrize("write", CUT, ids=lambda w: w.__name__.removeprefix("write_"))
def test_files_that_are_cut_short_empty_or_something_else(write, tmp_path):
    path = tmp_path / write(tmp_path)
    whole = path.read_bytes()
    for length in (len(whole) // 2, len(whole) - 2, 300, 9, 1):
        path.write_bytes(whole[:length])
        with pytest.raises(BadFile, match=path.name):
            read(path)
    path.write_bytes(b"")
    with pytest.raises(DamagedFile, match="empty"):
        read(path)
    path.write_text("these are no numbers at all\n" * 9)
    with pytest.raises(BadFile, match=path.name):
        read(path)
    path.unlink()
    with pytest.raises(MissingFile, match="does not exist"):
        read(path)
    path.mkdir()
    with pytest.raises(BadFile, match="cannot be read"):
        read(path)


@pytest.mark.parametrize("write", CUT, ids=lambda w: w.__name__.removeprefix("write_"))
def test_random_damage_gives_numbers_or_an_error_of_ours(write, tmp_path):
    """Never a traceback, whatever bytes are overwritten."""
    path = tmp_path / write(tmp_path)
    whole, random = path.read_bytes(), np.random.default_rng(0)
    for _ in range(60):
        bad = bytearray(whole)
        where = random.integers(0, min(len(bad), 600)) if random.random() < 0.5 else -random.integers(1, min(len(bad), 600))
        bad[where] ^= random.integers(1, 256)
        path.write_bytes(bytes(bad))
        with contextlib.suppress(AssayError):
            Tensors.read(path)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("owned",)


def test_nothing_in_a_file_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, content in {"a.pt": Evil(), "b.pth": {"x": T, "more": Evil()}}.items():
        torch.save(content, name)
        with pytest.raises(BadFile, match=r"asks for (posix|nt)\.mkdir"):
            read(name)
    (tmp_path / "c.pt").write_bytes(pickle.dumps(Evil()))
    np.save("d.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    np.savez("e.npz", x=np.array([Evil()], dtype=object))
    (tmp_path / "f.npy").write_bytes(pickle.dumps(Evil()))
    (tmp_path / "g.npz").write_bytes(pickle.dumps(Evil()))
    for name in ("c.pt", "d.npy", "e.npz", "f.npy", "g.npz"):
        with pytest.raises((BadFile, BadInput)) as caught:
            read(name)
        assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "owned").exists()


def frame(path, table, **settings):
    pq.write_table(pa.table(table), path / "t.parquet", **settings)
    return read(path / "t.parquet")


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"a": [0.5], "b": [1]}, r"b \(int64\)"),
        ({"a": ["x"]}, r"a \(string\)"),
        ({"a": [0.5, None]}, "null"),
        ({"v": [[0.5], None]}, "null"),
        ({"v": [[0.5, None]]}, "null"),
        ({"v": [[0.5], [0.5, 1.5]]}, "lists of 1 to 2"),
        ({"v": [[1], [2]]}, r"v \(list"),
        ({"v": [[0.5]], "w": [[0.5]]}, "Say which"),
        ({}, "no columns"),
    ],
)
def test_tables_that_are_no_matrix(table, told, tmp_path):
    with pytest.raises(BadInput, match=told):
        frame(tmp_path, table)


def test_lists_whose_length_changes_between_groups(tmp_path):
    with pytest.raises(BadInput, match=r"lists of 2 (and|to) 3"):
        frame(tmp_path, {"v": [[0.5] * 2] * 70_000 + [[0.5] * 3] * 70_000}, row_group_size=70_000)


def test_tables_of_no_rows_or_of_mixed_floats(tmp_path):
    with pytest.raises(BadInput, match=r"\(0, "):
        Tensors(frame(tmp_path, {"a": pa.array([], pa.float32())}))
    got = frame(tmp_path, {"a": pa.array([0.5], pa.float32()), "b": pa.array([0.25], pa.float64())})
    assert got.tolist() == [[0.5, 0.25]]


@pytest.mark.parametrize(
    ("ref", "error", "told"),
    [
        ("a.csv", BadInput, "no known kind"),
        ("a", BadInput, "no known kind"),
        ("a.npy:x", BadInput, "no names"),
        ("a.pt:x", BadInput, "no names"),
        ("b.npz", BadInput, r"holds 2 arrays: x, y\. Say which"),
        ("b.npz:z", UnknownName, "Known: x, y"),
        ("b.safetensors", BadInput, r"resid_post\.3, row"),
        ("b.safetensors:resid_pots.3", UnknownName, "Did you mean 'resid_post.3'"),
        ("c.pt", BadInput, "holds 2 tensors"),
        ("c.parquet", BadInput, "Say which"),
        ("a.parquet:a", UnknownName, "column with lists"),
        ("list.pt", BadInput, "a list"),
        ("sparse.pt", BadInput, "sparse"),
        ("nothing.pt", BadInput, "holds 0 tensors: none"),
    ],
)
def test_names_that_do_not_fit(ref, error, told, tmp_path):
    for write in KINDS:
        write(tmp_path)
    torch.save([T], tmp_path / "list.pt")
    torch.save(T.to_sparse(), tmp_path / "sparse.pt")
    torch.save({"layer": 3}, tmp_path / "nothing.pt")
    with pytest.raises(error, match=told):
        read(tmp_path / ref)
