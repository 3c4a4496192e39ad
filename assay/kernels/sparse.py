"""Sparse products with exact gradients, from torch's embedding bag. Each costs O(nnz · d), forward and backward.

A batch of codes is a CSR matrix Z [n, d_sae] (values, indices, offsets). Products with Zᵀ reuse the same bag kernel after
sorting the non-zeros by latent: summing "token rows into latents" is the same act as summing "latent rows into tokens".
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from assay.shapes import Tensor


def bag(table: Tensor, indices: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """out[i] = Σ_j weights[j] · table[indices[j]] over j in offsets[i]:offsets[i+1]."""
    return F.embedding_bag(indices, table, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True)


def row_of(offsets: Tensor, nnz: int) -> Tensor:
    """Row of each non-zero."""
    return torch.repeat_interleave(torch.arange(len(offsets) - 1, device=offsets.device), offsets.diff(), output_size=nnz)


def transpose(indices: Tensor, offsets: Tensor, weights: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """(rows, offsets, weights) of the transposed matrix, sorted by column; `width` columns."""
    order = torch.argsort(indices, stable=True)
    rows = row_of(offsets, len(indices))[order]
    ends = torch.bincount(indices, minlength=width).cumsum(0)
    return rows, torch.cat([ends.new_zeros(1), ends]), weights[order]


def dots(a: Tensor, table: Tensor, rows: Tensor, indices: Tensor, offsets: Tensor) -> Tensor:
    """out[j] = a[rows[j]] · table[indices[j]], without gathering rows: the bag's gradient for its weights."""
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(a, table, indices, offsets, rows, 0, -1)


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, indices: Tensor, offsets: Tensor, W_dec: Tensor) -> Tensor:
        ctx.save_for_backward(values, indices, offsets, W_dec)
        return bag(W_dec, indices, offsets, values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        values, indices, offsets, W_dec = ctx.saved_tensors
        grad = grad.contiguous()
        d_values = d_W = None
        if ctx.needs_input_grad[0]:
            d_values = dots(grad, W_dec, row_of(offsets, len(indices)), indices, offsets)
        if ctx.needs_input_grad[3]:
            d_W = bag(grad, *transpose(indices, offsets, values, W_dec.shape[0]))
        return d_values, None, None, d_W


def decode(values: Tensor, indices: Tensor, offsets: Tensor, W_dec: Tensor) -> Tensor:
    """Z @ W_dec: [n, d_out]."""
    return _Decode.apply(values, indices, offsets, W_dec)  # type: ignore[no-any-return]


class _Select(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, W_enc: Tensor, bias: Tensor, pre: Tensor, indices: Tensor, offsets: Tensor) -> Tensor:
        rows = row_of(offsets, len(indices))
        ctx.save_for_backward(x, W_enc, indices, offsets)
        return pre[rows, indices]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, W_enc, indices, offsets = ctx.saved_tensors
        d_sae = W_enc.shape[1]
        d_x = d_W = d_bias = None
        if ctx.needs_input_grad[0]:
            d_x = bag(W_enc.t().contiguous(), indices, offsets, grad)
        if ctx.needs_input_grad[1]:
            d_W = bag(x, *transpose(indices, offsets, grad, d_sae)).t()
        if ctx.needs_input_grad[2]:
            d_bias = grad.new_zeros(d_sae).index_add(0, indices, grad)
        return d_x, d_W, d_bias, None, None, None


def select(x: Tensor, W_enc: Tensor, bias: Tensor, pre: Tensor, indices: Tensor, offsets: Tensor) -> Tensor:
    """The entries (indices, offsets) of pre = x @ W_enc + bias, with gradients to x, W_enc and bias through those alone.

    `pre` is the product already computed (without gradient): selection needs all of it, learning only what was selected.
    """
    return _Select.apply(x, W_enc, bias, pre, indices, offsets)  # type: ignore[no-any-return]
