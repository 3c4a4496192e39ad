"""Compiles every Triton kernel for compute capability 9.0 as its wrapper would launch it, without a GPU; prints what each takes.

Run by test_triton.py in a process of its own, where Triton must not be interpreted.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from assay.kernels import triton_select, triton_sparse

COMPILED: dict[str, Any] = {}
compile_or_run = JITFunction.run


class Hopper:
    """What Triton asks a driver before it compiles."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
    kernel = compile_or_run(self, *args, grid=grid, warmup=True, **options)
    COMPILED[f"{self.__name__} {str(args[0].dtype)[6:]} {options}"] = kernel


def resources(cubin: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        tool = os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia", "bin", "cuobjdump")
        told = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    return next(line.strip() for line in told.splitlines() if "REG:" in line)


def launch_all() -> None:
    """At the width of the targets; the tensors are small or without memory, as nothing runs."""
    n, S, D, nnz = 2, 65536, 2304, 2000
    long = torch.zeros(nnz, dtype=torch.long)
    offsets = torch.tensor([0, nnz, nnz])
    for dtype in (torch.float32, torch.bfloat16):
        pre, table = torch.zeros(n, S, dtype=dtype), torch.zeros(8, D, dtype=dtype)
        triton_select.rows_topk(pre, 80)
        triton_select.batch_topk(pre, 160)
        for threshold in (0.5, torch.zeros(S)):
            triton_select.count_above(pre, threshold)
        triton_sparse.bag(table, long, offsets, torch.zeros(nnz, dtype=dtype))
        triton_sparse.bag(table, long, offsets, torch.zeros(nnz, dtype=dtype), cut=False)
        triton_sparse.dots(table, table, long, long, offsets)
    for each in (False, True):
        shape = {"EACH": each, "WRITE": True, "enable_fp_fusion": True, "LANES": 2048, "num_warps": 4}
        triton_select._above[(n,)](pre, torch.zeros(S), long, offsets, long, S, **shape)
    triton_sparse.bag(torch.zeros(8, 300), long.int(), offsets.int(), torch.zeros(nnz))


def main() -> None:
    triton.runtime.driver.set_active(Hopper())
    JITFunction.run = compile_only
    launch_all()
    wrong = []
    for name, kernel in COMPILED.items():
        takes = resources(kernel.asm["cubin"])
        loads = sorted(set(re.findall(r"ld\.global[.a-z0-9]*", kernel.asm["ptx"])))
        sys.stdout.write(f"{name}: {takes.split(' TEXTURE')[0]} {' '.join(loads)}\n")
        if "STACK:0" not in takes or "LOCAL:0" not in takes:
            wrong.append(f"{name} spills registers: {takes}")
        if (
            "ld.global.v4.b32" not in loads and "_descend" not in name and "128" not in name
        ):  # 300 columns: rows begin where they begin
            wrong.append(f"{name} loads less than 16 bytes at a time")
    sys.exit("\n".join(wrong) or 0)


if __name__ == "__main__":
    main()
