"""The Triton kernels against plain torch: in Triton's interpreter here, on the device where there is CUDA."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from assay.errors import BadInput
from assay.kernels import sparse
from assay.randomness import generator

triton = pytest.importorskip("triton")

from assay.kernels import triton_select, triton_sparse  # noqa: E402

INTERPRETED = type(triton_sparse._rows).__name__ == "InterpretedFunction"  # as tests/conftest.py asks where CUDA is not
few = settings(max_examples=6, deadline=None, derandomize=True, database=None, phases=[Phase.explicit, Phase.generate])
dtypes = st.sampled_from([torch.float32, torch.bfloat16])


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("cpu", marks=pytest.mark.skipif(not INTERPRETED, reason="needs TRITON_INTERPRET=1")),
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(INTERPRETED or not torch.cuda.is_available(), reason="needs CUDA, not interpreted"),
            ],
        ),
    ],
)
def device(request) -> str:
    return request.param


def ragged(n, S, D, lengths, dtype, index=torch.long):
    """A table [S, D], a matrix [n, D], and the CSR of a matrix [n, S] whose rows have these lengths."""
    random = generator("triton", n, S, D, sum(lengths))
    nnz = sum(lengths)
    table, a = (torch.randn(rows, D, generator=random).to(dtype) for rows in (S, n))
    indices = torch.randint(max(S, 1), (nnz,), generator=random).to(index)
    offsets = torch.tensor([0, *torch.tensor(lengths, dtype=torch.long).cumsum(0).tolist()]).to(index)
    return table, a, indices, offsets, torch.randn(nnz, generator=random).to(dtype)


def summed(table, indices, offsets, weights):
    """What a bag is, row by row, in double precision."""
    terms = weights.double()[:, None] * table.double()[indices.long()]
    return torch.zeros(len(offsets) - 1, table.shape[1], dtype=torch.double).index_add(
        0, sparse.row_of(offsets.long(), len(indices)), terms
    )


def close(got, want, dtype=torch.float32):
    """To 1e-5 of the largest number; where bf16 is written to its last place, which the interpreter cuts off unrounded."""
    assert got.dtype == dtype
    if want.numel():
        error = (got.cpu().double() - want).abs().max() / want.abs().max().clamp_min(1e-30)
        assert error <= (1e-5 if dtype == torch.float32 else 2**-7 if INTERPRETED else 2**-8)


shapes = st.tuples(
    st.lists(st.integers(0, 21), max_size=4),
    st.integers(1, 9),
    st.integers(1, 300),
    dtypes,
    st.sampled_from([torch.int32, torch.long]),
)


@few
@given(shapes)
@example(([3, 0, 9], 5, 300, torch.float32, torch.long))
def test_bag(device, shape):
    lengths, S, D, dtype, index = shape
    table, _, indices, offsets, weights = ragged(len(lengths), S, D, lengths, dtype, index)
    want = summed(table, indices, offsets, weights)
    given_ = [t.to(device) for t in (table, indices, offsets, weights)]
    close(triton_sparse.bag(*given_), want, dtype)
    close(triton_sparse.bag(*given_, dtype=torch.float32), want)


def test_long_rows_are_cut_and_put_together(device, monkeypatch):
    """A latent that fires on every token, beside latents that hardly fire: whole chunks, one more, one less, none."""
    monkeypatch.setattr(triton_sparse, "CHUNK", 16)
    lengths = [0, 1, 15, 16, 17, 32, 33, 0, 100, 64, 0]
    table, _, indices, offsets, weights = ragged(len(lengths), 7, 20, lengths, torch.float32)
    given_ = [t.to(device) for t in (table, indices, offsets, weights)]
    once = triton_sparse.bag(*given_)
    close(once, summed(table, indices, offsets, weights))
    assert torch.equal(once, triton_sparse.bag(*given_)), "not the same bits twice"
    close(triton_sparse.bag(*given_, cut=False), summed(table, indices, offsets, weights))


def test_bag_of_the_transpose_is_the_weight_gradient(device):
    _, grad, indices, offsets, values = ragged(6, 5, 33, [3, 0, 5, 1, 4, 2], torch.float32)
    z = torch.zeros(6, 5, dtype=torch.double)
    z.index_put_((sparse.row_of(offsets, len(indices)), indices), values.double(), accumulate=True)
    turned = [t.to(device) for t in sparse.transpose(indices, offsets, values, 5)]
    close(triton_sparse.bag(grad.to(device), *turned), z.T @ grad.double())


@few
@given(shapes)
@example(([3, 0, 9], 5, 300, torch.float32, torch.long))
def test_dots(device, shape):
    lengths, S, D, dtype, index = shape
    table, a, indices, offsets, _ = ragged(len(lengths), S, D, lengths, dtype, index)
    rows = sparse.row_of(offsets.long(), len(indices)).to(index)
    got = triton_sparse.dots(*(t.to(device) for t in (a, table, rows, indices, offsets)))
    close(got, (a.double()[rows.long()] * table.double()[indices.long()]).sum(1), dtype)


def numbers(kind, *shape):
    """Numbers that are hard to select from."""
    random = generator("numbers", kind, *shape)
    if kind == "ties":
        return (
            torch.randint(-2, 3, shape, generator=random).float()
            * torch.tensor([1.0, -0.0])[torch.randint(2, shape, generator=random)]
        )
    if kind == "close":
        return 1 + torch.randint(60, shape, generator=random) * 2**-23
    x = torch.randn(*shape, generator=random)
    return {"normal": x, "negative": -x.abs() - 1e-3, "equal": torch.zeros(shape), "wide": x * 10 ** (8 * x), "relu": x.relu()}[
        kind
    ]


kinds = st.sampled_from(["normal", "negative", "ties", "equal", "wide", "relu", "close"])


def largest(pre, k):
    """The k largest of each row by a stable sort, in the order of their columns."""
    indices = pre.float().sort(dim=1, descending=True, stable=True).indices[:, :k].sort(1).values
    return pre.gather(1, indices), indices


def check_rows(device, pre, k):
    values, indices = triton_select.rows_topk(pre.to(device), k)
    want_values, want_indices = largest(pre, k)
    assert values.dtype == pre.dtype
    assert torch.equal(indices.cpu(), want_indices)
    assert torch.equal(values.cpu(), want_values)


@settings(few, max_examples=16)
@given(kinds, st.integers(0, 2), st.integers(1, 200), st.floats(0, 1), dtypes)
@example("close", 1, 90, 0.3, torch.float32)
def test_rows_topk(device, kind, n, S, share, dtype):
    check_rows(device, numbers(kind, n, S).to(dtype), max(1, round(share * S)))


@pytest.mark.parametrize("k", [0, 1, 65, 130])
def test_rows_topk_at_the_ends(device, k):
    check_rows(device, numbers("ties", 2, 130), k)
    check_rows(device, numbers("normal", 0, 130), k)


def test_rows_topk_gives_k_whatever_comes(device):
    """NaN of either sign has a place, too: no index is left unwritten."""
    pre = torch.full((1, 40), -1, dtype=torch.int32).view(torch.float32)
    pre[0, ::3] = torch.nan
    _, indices = triton_select.rows_topk(pre.to(device), 20)
    assert indices.tolist() == [sorted([*range(0, 40, 3), 1, 2, 4, 5, 7, 8])]


def test_rows_topk_keeps_infinity(device):
    pre = numbers("normal", 1, 70)
    pre[0, 3], pre[0, 5:60] = torch.inf, -torch.inf
    check_rows(device, pre, 2)
    check_rows(device, pre, 30)


@pytest.mark.parametrize("kind", ["normal", "relu", "ties", "crowded", "crowded below zero"])
def test_rows_longer_than_the_lanes(device, kind, monkeypatch):
    """More columns than lanes; the large entries spread over the lanes, equal, or all in one lane."""
    monkeypatch.setattr(triton_select, "LANES", 64)
    pre = numbers("normal" if "crowded" in kind else kind, 1, 64 * 18 + 1)
    if "crowded" in kind:
        pre[0, 5::64] += 10  # 18 entries, and there is room for 16
    check_rows(device, pre - 30 if "zero" in kind else pre, 5)


@settings(few, max_examples=10)
@given(kinds, st.integers(1, 700), st.floats(0, 1), dtypes)
def test_kth_largest(device, kind, size, share, dtype):
    flat, count = numbers(kind, size).to(dtype), max(1, round(share * size))
    got = triton_select.kth_largest(flat.to(device), count)
    assert got.dtype == dtype and got.shape == ()
    assert got.item() == flat.float().sort(descending=True).values[count - 1].item()


def test_kth_largest_by_several_programs(device):
    flat = numbers("normal", 20_001)
    for count in (1, 77, 20_001):
        got = triton_select.kth_largest(flat.view(3, -1).to(device), count)
        assert got.item() == flat.sort(descending=True).values[count - 1].item()


@settings(few, max_examples=10)
@given(kinds, st.integers(1, 4), st.integers(1, 90), st.floats(0, 1), dtypes)
def test_batch_topk(device, kind, n, S, share, dtype):
    pre, count = numbers(kind, n, S).to(dtype), round(share * n * S)
    values, indices, offsets = triton_select.batch_topk(pre.to(device), count)
    want_values, flat = largest(pre.reshape(1, -1), count)
    assert torch.equal(values.cpu(), want_values[0])
    assert torch.equal(sparse.row_of(offsets, count).cpu() * S + indices.cpu(), flat[0])


@few
@given(kinds, st.integers(0, 4), st.integers(1, 150), st.sampled_from(["one", "tensor", "each", "none", "all"]), dtypes)
@example("ties", 3, 40, "one", torch.float32)
def test_above(device, kind, n, S, how, dtype):
    pre = numbers(kind, n, S).to(dtype)
    threshold = {"one": 1.0, "tensor": torch.tensor(0.0), "each": numbers("normal", S), "none": 1e30, "all": -1e30}[how]
    keep = (pre.float() > threshold).nonzero()
    there = threshold.to(device) if isinstance(threshold, torch.Tensor) else threshold
    indices, offsets = triton_select.compact_above(pre.to(device), there)
    counts = torch.bincount(keep[:, 0], minlength=n)
    assert torch.equal(indices.cpu(), keep[:, 1])
    assert torch.equal(offsets.cpu(), torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)]))
    assert torch.equal(triton_select.count_above(pre.to(device), there).cpu(), counts)


def test_above_in_rows_longer_than_the_lanes(device, monkeypatch):
    monkeypatch.setattr(triton_select, "LANES", 64)
    pre, threshold = numbers("normal", 2, 300), numbers("normal", 300) + 1
    indices, _ = triton_select.compact_above(pre.to(device), threshold.to(device))
    assert torch.equal(indices.cpu(), (pre > threshold).nonzero()[:, 1])
    for kind in ("normal", "equal", "ties"):
        pre = numbers(kind, 2, 300)
        values, indices, offsets = triton_select.batch_topk(pre.to(device), 150)
        want_values, flat = largest(pre.reshape(1, -1), 150)
        assert torch.equal(values.cpu(), want_values[0])
        assert torch.equal(sparse.row_of(offsets, 150).cpu() * 300 + indices.cpu(), flat[0])


def test_what_cannot_be_is_said():
    x = torch.zeros(2, 5)
    with pytest.raises(BadInput, match="6 largest of rows of 5"):
        triton_select.rows_topk(x, 6)
    with pytest.raises(BadInput, match="11-th largest of 10"):
        triton_select.kth_largest(x, 11)
    with pytest.raises(BadInput, match=r"each of 5 columns, got \(2,\)"):
        triton_select.count_above(x, torch.zeros(2))


def test_nothing_else_needs_triton():
    """Who has no CUDA has no Triton: no other file of the package imports it, or these kernels, when it is imported."""
    package = Path(triton_sparse.__file__).parents[1]
    for path in set(package.rglob("*.py")) - set(package.glob("kernels/triton_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [
                getattr(node, "module", None) or "",
                *(a.name for a in getattr(node, "names", []) if isinstance(a, ast.alias)),
            ]
            assert not any("triton" in name for name in names), f"{path.name}:{node.lineno} imports Triton"


@pytest.mark.slow
def test_every_kernel_compiles_for_hopper(tmp_path):
    """To machine code, which needs no GPU: no spilt registers, and 16 bytes a load where memory is what counts."""
    env = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, str(Path(__file__).parent / "hopper.py")]
    done = subprocess.run(command, env=env | {"TRITON_CACHE_DIR": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
