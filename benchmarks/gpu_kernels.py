"""Triton kernels against torch's own on a CUDA device, and the share of the memory's speed that they reach.

    python -m benchmarks gpu_kernels

At d_in 2,304, d_sae 65,536, k 80, batch 4,096. A time is the median of 20 runs, L2 emptied before each. "Of the limit" divides
the bytes that have to be moved once (each operand read, each result written; a row of a table for each non-zero) by the time
and by the speed of a plain copy measured in the same run: above 100 % the L2 cache has answered. Batch top-k needs at least
two readings by its nature, and is counted as one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import median

import torch

from assay.kernels import sparse
from assay.randomness import generator
from assay.shapes import Tensor

D_IN, D_SAE, K, BATCH, RUNS = 2304, 65536, 80, 4096, 20
Case = tuple[str, Callable[[], object], Callable[[], object], int]


def milliseconds(act: Callable[[], object], cold: Tensor) -> float:
    """Median time on the device, after three runs that compile and warm up."""
    times = []
    for run in range(RUNS + 3):
        cold.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        act()
        end.record()
        torch.cuda.synchronize()
        if run >= 3:
            times.append(start.elapsed_time(end))
    return median(times)


def selection(pre: Tensor) -> Iterator[Case]:
    from assay.kernels import triton_select

    size, count, kind = pre.nbytes, BATCH * K, str(pre.dtype)[6:]
    threshold = triton_select.kth_largest(pre, count)
    yield f"row top-k, {kind}", lambda: triton_select.rows_topk(pre, K), lambda: pre.topk(K, sorted=False), size
    flat = pre.flatten()
    yield f"batch top-k, {kind}", lambda: triton_select.batch_topk(pre, count), lambda: flat.topk(count, sorted=False), size
    yield (
        f"entries above a threshold, {kind}",
        lambda: triton_select.compact_above(pre, threshold),
        lambda: (pre > threshold).nonzero(),
        size,
    )


def products(pre: Tensor, dtype: torch.dtype) -> Iterator[Case]:
    """As many non-zeros as in training; in `pre` sixteen latents fire on every token."""
    from assay.kernels import triton_select, triton_sparse

    values, indices = (t.flatten() for t in triton_select.rows_topk(pre, K))
    values, offsets = values.to(dtype), torch.arange(0, len(values) + 1, K, device=values.device)
    W = torch.randn(D_SAE, D_IN, device=pre.device, dtype=dtype)
    grad, rows = torch.randn(BATCH, D_IN, device=pre.device, dtype=dtype), sparse.row_of(offsets, len(indices))
    turned = sparse.transpose(indices, offsets, values, D_SAE)
    gathered, kind = len(indices) * D_IN * W.element_size(), str(dtype)[6:]
    decode, gradient, dots = (W, indices, offsets, values), (grad, *turned), (grad, W, rows, indices, offsets)
    yield (
        f"decode, {kind}",
        lambda: triton_sparse.plain_bag(*decode, cut=False),
        lambda: sparse.plain_bag(*decode),
        gathered + grad.nbytes,
    )
    yield (
        f"weight gradient, {kind}",
        lambda: triton_sparse.plain_bag(*gradient),
        lambda: sparse.plain_bag(*gradient),
        gathered + W.nbytes,
    )
    yield (
        f"value gradient, {kind}",
        lambda: triton_sparse.plain_dots(*dots),
        lambda: sparse.plain_dots(*dots),
        gathered + grad.nbytes,
    )


def cases(device: torch.device) -> Iterator[Case]:
    pre = torch.randn(BATCH, D_SAE, generator=generator("benchmark", "gpu")).to(device)
    pre[:, :: D_SAE // 16] += 10
    for dtype in (torch.float32, torch.bfloat16):
        yield from selection(pre.to(dtype))
        yield from products(pre, dtype)


def main() -> None:
    if not torch.cuda.is_available():
        print("No CUDA device: nothing to measure. tests/kernels/test_triton.py checks the kernels in Triton's interpreter.")
        return
    import triton  # pyright: ignore[reportMissingImports]

    device = torch.device("cuda")
    cold = torch.empty(2**28, device=device)  # 1 GiB, more than any L2
    limit = 2 * cold.nbytes / milliseconds(cold.clone, cold[:1]) / 1e6
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}; a copy moves {limit:,.0f} GB/s\n"
    )
    print("| | torch ms | Triton ms | ratio | GB/s | of the limit |\n| --- | --- | --- | --- | --- | --- |")
    for name, ours, theirs, size in cases(device):
        before, now = milliseconds(theirs, cold), milliseconds(ours, cold)
        speed = size / now / 1e6
        print(f"| {name} | {before:.3f} | {now:.3f} | {before / now:.1f}× | {speed:,.0f} | {speed / limit:.0%} |", flush=True)


if __name__ == "__main__":
    main()
