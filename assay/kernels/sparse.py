"""Sparse products with exact gradients, from torch's embedding bag or Triton. Each costs O(nnz · d), forward and backward.

A batch of codes is a CSR matrix Z [n, d_sae] (values, indices, offsets). Products with Zᵀ reuse the same bag kernel after
sorting the non-zeros by latent: summing "token rows into latents" is the same act as summing "latent rows into tokens".
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from assay.kernels import launch
from assay.shapes import Tensor


def bag(table: Tensor, indices: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """out[i] = Σ_j weights[j] · table[indices[j]] over j in offsets[i]:offsets[i+1]."""
    if launch.usable(table):
        from assay.kernels import triton_sparse

        return triton_sparse.bag(table, indices, offsets, weights)
    return plain_bag(table, indices, offsets, weights)


def plain_bag(table: Tensor, indices: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """`bag`, by torch's embedding bag."""
    return F.embedding_bag(indices, table, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True)


def row_of(offsets: Tensor, nnz: int) -> Tensor:
    """Row of each non-zero."""
    return torch.repeat_interleave(torch.arange(len(offsets) - 1, device=offsets.device), offsets.diff(), output_size=nnz)


def transpose(indices: Tensor, offsets: Tensor, weights: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """(rows, offsets, weights) of the transposed matrix, sorted by column; `width` columns."""
    order = torch.argsort(indices, stable=True)
    rows = row_of(offsets, len(indices))[order]
    starts = torch.searchsorted(indices[order], torch.arange(width + 1, device=indices.device))  # bincount would wait for a GPU
    return rows, starts, weights[order]


def dots(a: Tensor, table: Tensor, rows: Tensor, indices: Tensor, offsets: Tensor) -> Tensor:
    """out[j] = a[rows[j]] · table[indices[j]], without gathering rows."""
    if launch.usable(table):
        from assay.kernels import triton_sparse

        return triton_sparse.dots(a, table, rows, indices, offsets)
    return plain_dots(a, table, rows, indices, offsets)


def plain_dots(a: Tensor, table: Tensor, rows: Tensor, indices: Tensor, offsets: Tensor) -> Tensor:
    """`dots`, by the embedding bag's gradient for its weights."""
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(a, table, indices, offsets, rows, 0, -1)


def row_dots(a: Tensor, b: Tensor) -> Tensor:
    """out[i] = a[i] · b[i], in one pass over memory where torch would write the products first."""
    if a.is_cuda or a.dtype != torch.float32:
        return torch.linalg.vecdot(a, b)
    every = torch.arange(len(a) + 1, device=a.device)
    return dots(a, b, every[:-1], every[:-1], every)


def without_zeros(values: Tensor, indices: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same matrix without entries of 0, where that saves work: a JumpReLU's window holds many that only thresholds learn from."""
    if values.is_cuda:  # how many there are, the host would have to wait for
        return values, indices, offsets
    keep = values != 0
    if int(keep.count_nonzero()) > 0.8 * len(values):
        return values, indices, offsets
    before = torch.cat([offsets.new_zeros(1), keep.cumsum(0)])
    return values[keep], indices[keep], before[offsets]


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, indices: Tensor, offsets: Tensor, W_dec: Tensor) -> Tensor:
        ctx.save_for_backward(values, indices, offsets, W_dec)
        values, indices, offsets = without_zeros(values, indices, offsets)
        return bag(W_dec, indices, offsets, values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        values, indices, offsets, W_dec = ctx.saved_tensors
        grad = grad.contiguous()
        d_values = d_W = None
        if ctx.needs_input_grad[0]:
            d_values = dots(grad, W_dec, row_of(offsets, len(indices)), indices, offsets)
        if ctx.needs_input_grad[3]:
            values, indices, offsets = without_zeros(values, indices, offsets)
            d_W = bag(grad, *transpose(indices, offsets, values, W_dec.shape[0]))
        return d_values, None, None, d_W


def decode(values: Tensor, indices: Tensor, offsets: Tensor, W_dec: Tensor) -> Tensor:
    """Z @ W_dec: [n, d_out]."""
    return _Decode.apply(values, indices, offsets, W_dec)  # type: ignore[no-any-return]


class _Select(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, centre: Tensor | None, W_enc: Tensor, bias: Tensor,
        values: Tensor, indices: Tensor, offsets: Tensor,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(x, centre, W_enc, indices, offsets)
        return values.clone()  # a new tensor: its history is this function

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, centre, W_enc, indices, offsets = ctx.saved_tensors
        d_x = d_centre = d_W = d_bias = None
        if ctx.needs_input_grad[0]:
            d_x = bag(W_enc.t().contiguous(), indices, offsets, grad)
        if ctx.needs_input_grad[3] or (centre is not None and ctx.needs_input_grad[1]):
            d_bias = grad.new_zeros(W_enc.shape[1]).index_add(0, indices, grad)
        if ctx.needs_input_grad[2]:
            grad, indices, offsets = without_zeros(grad, indices, offsets)
            d_W = bag(x if centre is None else x - centre, *transpose(indices, offsets, grad, W_enc.shape[1])).t()
        if centre is not None and ctx.needs_input_grad[1]:
            d_centre = -(W_enc @ d_bias)
        return d_x, d_centre, d_W, d_bias if ctx.needs_input_grad[3] else None, None, None, None


def select(
    x: Tensor, centre: Tensor | None, W_enc: Tensor, bias: Tensor, values: Tensor, indices: Tensor, offsets: Tensor
) -> Tensor:
    """The entries (indices, offsets) of (x − centre) @ W_enc + bias, with gradients to all four through those alone.

    `values` are these entries, already computed without gradient. The gradient of W_enc [d, d_sae] lies in memory as [d_sae, d].
    """
    return _Select.apply(x, centre, W_enc, bias, values, indices, offsets)  # type: ignore[no-any-return]
