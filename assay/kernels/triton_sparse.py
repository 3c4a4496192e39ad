"""Sparse products on CUDA, in Triton: what `sparse.bag` and `sparse.dots` do, for rows of any and unequal lengths.

A bag is computed slice by slice of the table's columns, all rows within a slice, so that the slice stays in L2. A row longer
than CHUNK is cut: its leading whole chunks are summed by programs of their own and added, in order, by the program that sums
its end. The order of every sum is fixed by shapes and offsets alone: no atomics, the same bits each time, no wait for the GPU.
Sums are in fp32, of fp32 or bf16 tables. Import this where Triton is (with torch's CUDA build), never on the way to `assay`.
"""

from __future__ import annotations

from typing import no_type_check

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]

from assay.kernels.launch import launch
from assay.shapes import Tensor

CHUNK = 256  # non-zeros that one program sums at most
TOGETHER = 8  # rows of the table in flight at once


@triton.jit
@no_type_check
def gathered(table, indices, weights, start, end, columns, D, TOGETHER: tl.constexpr, BLOCK: tl.constexpr):
    """Σ_j weights[j] · table[indices[j], columns] over j in start:end."""
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(start, end, TOGETHER):
        j = first + tl.arange(0, TOGETHER)
        index = tl.load(indices + j, mask=j < end, other=0).to(tl.int64)
        weight = tl.load(weights + j, mask=j < end, other=0.0).to(tl.float32)
        mask = (j < end)[:, None] & (columns < D)[None, :]
        rows = tl.load(table + index[:, None] * D + columns[None, :], mask=mask, other=0.0)
        total += tl.sum(weight[:, None] * rows.to(tl.float32), 0)
    return total


@triton.jit
@no_type_check
def _chunks(
    table, indices, offsets, weights, ends, owners, parts, n, D,
    CHUNK: tl.constexpr, TOGETHER: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """parts[p]: the sum of the p-th whole chunk of a long row. `ends` counts the chunks up to each row, `owners` their rows."""
    part = tl.program_id(0)
    row = tl.load(owners + part)
    if row < n:  # the others are spare: how many are needed, only the GPU knows
        start, end = tl.load(offsets + row), tl.load(offsets + row + 1)
        first = tl.load(ends + row) - (end - start - 1) // CHUNK
        start += (part - first) * CHUNK
        columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        total = gathered(table, indices, weights, start, start + CHUNK, columns, D, TOGETHER, BLOCK)
        tl.store(parts + part.to(tl.int64) * D + columns, total, mask=columns < D)


@triton.jit
@no_type_check
def _rows(
    table, indices, offsets, weights, ends, parts, out, D,
    CUT: tl.constexpr, CHUNK: tl.constexpr, TOGETHER: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """out[row]: the chunks of the row, then what is left of it."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    start, end = tl.load(offsets + row), tl.load(offsets + row + 1)
    total = tl.zeros((BLOCK,), tl.float32)
    if CUT and end - start > CHUNK:
        whole = (end - start - 1) // CHUNK
        last = tl.load(ends + row)
        for part in range(last - whole, last):
            total += tl.load(parts + part * D + columns, mask=columns < D, other=0.0)
        start += whole * CHUNK
    total += gathered(table, indices, weights, start, end, columns, D, TOGETHER, BLOCK)
    tl.store(out + row * D + columns, total, mask=columns < D)


@triton.jit(do_not_specialize=["nnz"])
@no_type_check
def _dots(a, table, rows, indices, out, nnz, D, TOGETHER: tl.constexpr, BLOCK: tl.constexpr):
    """A few non-zeros a program, whichever rows they are of."""
    j = tl.program_id(0) * TOGETHER + tl.arange(0, TOGETHER)
    left = a + tl.load(rows + j, mask=j < nnz, other=0).to(tl.int64)[:, None] * D
    right = table + tl.load(indices + j, mask=j < nnz, other=0).to(tl.int64)[:, None] * D
    total = tl.zeros((TOGETHER, BLOCK), tl.float32)
    for start in range(0, D, BLOCK):
        columns = (start + tl.arange(0, BLOCK))[None, :]
        mask = (j < nnz)[:, None] & (columns < D)
        one, other = tl.load(left + columns, mask=mask, other=0.0), tl.load(right + columns, mask=mask, other=0.0)
        total += one.to(tl.float32) * other.to(tl.float32)
    tl.store(out + j, tl.sum(total, 1), mask=j < nnz)


def _block(width: int) -> int:
    """Columns of a slice: the power of two, 128 to 1,024, that leaves the fewest lanes idle; the largest such."""
    if width <= 128:
        return max(16, triton.next_power_of_2(width))
    return min((1024, 512, 256, 128), key=lambda block: triton.cdiv(width, block) * block)


def bag(
    table: Tensor, indices: Tensor, offsets: Tensor, weights: Tensor, dtype: torch.dtype | None = None, *, cut: bool = True
) -> Tensor:
    """out[i] = Σ_j weights[j] · table[indices[j]] over j in offsets[i]:offsets[i+1]; in the table's type or another.

    Where all rows are short, as in TopK's codes, `cut=False` saves the small launches that look for long ones.
    """
    n, D, nnz = len(offsets) - 1, table.shape[1], len(indices)
    out = table.new_empty(n, D, dtype=dtype)
    if n == 0 or D == 0:
        return out
    table, block = table.contiguous(), _block(D)
    slices, shape = triton.cdiv(D, block), {"CHUNK": CHUNK, "TOGETHER": TOGETHER, "BLOCK": block}
    shape["num_warps"] = max(1, block * table.element_size() // 512)  # a thread loads 16 bytes of a row, a program whole rows
    spare = nnz // CHUNK if cut else 0  # whole chunks there can be at most, with something left of each row for its own program
    ends = parts = offsets
    if spare:
        ends = ((offsets.diff() - 1).clamp_min(0) // CHUNK).cumsum(0)
        owners = torch.searchsorted(ends, torch.arange(spare, device=ends.device, dtype=ends.dtype), right=True)
        parts = table.new_empty(spare, D, dtype=torch.float32)
        launch(_chunks, (spare, slices), table, table, indices, offsets, weights, ends, owners, parts, n, D, **shape)
    launch(_rows, (n, slices), table, table, indices, offsets, weights, ends, parts, out, D, CUT=spare > 0, **shape)
    return out


def dots(a: Tensor, table: Tensor, rows: Tensor, indices: Tensor, offsets: Tensor) -> Tensor:
    """out[j] = a[rows[j]] · table[indices[j]], in the type of `a`. `offsets` is not needed here: programs share non-zeros."""
    nnz, D = len(indices), a.shape[1]
    out = a.new_empty(nnz)
    if nnz:
        a, table, block = a.contiguous(), table.contiguous(), min(256, _block(D))
        grid = (triton.cdiv(nnz, TOGETHER),)
        launch(_dots, grid, a, a, table, rows, indices, out, nnz, D, TOGETHER=TOGETHER, BLOCK=block)
    return out
