"""The floor: the parts of a step that no exact implementation gets around, each alone, with its output allocated beforehand.

Sparse: one dense encoder product, the choice of latents, four sparse products (decode; the gradients of latents, W_dec and W_enc),
a fused Adam step. Dense ("C"): five dense products instead of the first six parts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as Assay does: what the hardware allows

import torch
import torch.nn.functional as F

from benchmarks._clock import of_parts
from benchmarks._data import Shape, bias_for

Parts = dict[str, Callable[[], Any]]


def load(spec: dict[str, Any]) -> str | None:
    """Nothing to import."""
    return None


def make(spec: dict[str, Any], shape: Shape, data: list[torch.Tensor]) -> tuple[Any, ...]:
    """What measures the parts once for each batch, what L0 they have, and what tells their times."""
    dtype = torch.bfloat16 if spec.get("dtype") == "bf16" else torch.float32
    share = spec.get("share")
    parts = dense(shape, data[0], dtype) if "dense" in spec["contender"] else sparse(shape, data[0], share, dtype)
    found: list[dict[str, tuple[float, float]]] = []

    def run(stream: Iterable[torch.Tensor], steps: int) -> None:
        found[:] = [of_parts(parts, x.is_cuda) for x in stream]

    def times() -> dict[str, dict[str, list[float]]]:
        return {name: {"wall": [f[name][0] for f in found], "cpu": [f[name][1] for f in found]} for name in parts}

    return run, lambda: share * shape.d_sae if share else float(shape.k), times


@torch.no_grad()
def sparse(shape: Shape, x: torch.Tensor, share: float | None = None, dtype: torch.dtype = torch.float32) -> Parts:
    """Parts of a step whose codes are the k largest latents of each vector, or those of the given share of latents."""
    n, d, s = len(x), shape.d_in, shape.d_sae
    W_enc = torch.randn(d, s, generator=torch.Generator().manual_seed(1)).to(x) / d**0.5
    W_dec = W_enc.t().contiguous()
    low, low_W = x.to(dtype), W_enc.to(dtype)
    pre = torch.empty(n, s, dtype=dtype, device=x.device)
    torch.mm(low, low_W, out=pre)
    values, chosen = torch.topk(pre, shape.k, sorted=False)
    if share is None:
        indices, offsets = chosen.flatten(), torch.arange(0, n * shape.k + 1, shape.k, device=x.device)
        weights = values.flatten().float().relu()
    else:
        bias = bias_for(pre.float(), share)
        fires = pre > -bias
        rows, indices = fires.nonzero(as_tuple=True)
        offsets = torch.cat([rows.new_zeros(1), fires.sum(1).cumsum(0)])
        weights = pre[rows, indices].float()
    rows = torch.repeat_interleave(torch.arange(n, device=x.device), offsets.diff())
    order = indices.argsort(stable=True)
    by_latent, ends = rows[order], torch.cat([offsets.new_zeros(1), torch.bincount(indices, minlength=s).cumsum(0)])
    sorted_weights, grad = weights[order], torch.randn_like(x) / n
    parts: Parts = {"encoder product": lambda: torch.mm(low, low_W, out=pre)}
    if share is None:
        parts["selection"] = lambda: torch.topk(pre, shape.k, sorted=False, out=(values, chosen))
    return parts | {
        "decode": lambda: _bag(W_dec, indices, offsets, weights),
        "gradient of latents": lambda: torch.ops.aten._embedding_bag_per_sample_weights_backward(
            grad, W_dec, indices, offsets, rows, 0, -1
        ),
        "gradient of W_dec": lambda: _bag(grad, by_latent, ends, sorted_weights),
        "gradient of W_enc": lambda: _bag(x, by_latent, ends, sorted_weights),
        "Adam": adam(shape, x.device),
    }


@torch.no_grad()
def dense(shape: Shape, x: torch.Tensor, dtype: torch.dtype = torch.float32) -> Parts:
    """Five dense products and Adam: what a step costs that makes no use of sparsity."""
    n, d, s = len(x), shape.d_in, shape.d_sae
    x = x.to(dtype)
    W = torch.randn(d, s, dtype=dtype, device=x.device) / d**0.5
    W_dec, pre, y = W.t().contiguous(), torch.empty(n, s, dtype=dtype, device=x.device), torch.empty_like(x)
    grad_W, grad_D = torch.empty_like(W), torch.empty_like(W_dec)

    def products() -> None:
        torch.mm(x, W, out=pre)
        torch.mm(pre, W_dec, out=y)
        torch.mm(pre.t(), y, out=grad_D)
        torch.mm(y, W_dec.t(), out=pre)
        torch.mm(x.t(), pre, out=grad_W)

    return {"five products": products, "Adam": adam(shape, x.device)}


def adam(shape: Shape, device: torch.device) -> Callable[[], Any]:
    """One fused step over both matrices and both biases."""
    sizes = [(shape.d_sae, shape.d_in), (shape.d_sae, shape.d_in), (shape.d_sae,), (shape.d_in,)]
    parameters = [torch.nn.Parameter(torch.full(size, 0.01, device=device)) for size in sizes]
    for p in parameters:
        p.grad = torch.full_like(p, 1e-3)
    return torch.optim.Adam(parameters, lr=1e-6, fused=True).step


def _bag(table: torch.Tensor, indices: torch.Tensor, offsets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return F.embedding_bag(indices, table, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True)
