"""When Triton's kernels can take over, and how each is started."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch

from assay.shapes import Tensor

INSTALLED = find_spec("triton") is not None  # it comes with torch's CUDA build


def usable(t: Tensor) -> bool:
    """Whether Triton's kernels can work on a tensor; torch's own do where they cannot."""
    return INSTALLED and t.is_cuda and t.dtype in (torch.float32, torch.bfloat16)


def launch(kernel: Any, grid: tuple[int, ...], on: Tensor, *arguments: Any, **shape: Any) -> None:
    """On the device of `on`, which need not be the current one. Multiply-adds are fused, as in CUDA's own compiler."""
    with torch.cuda.device_of(on):
        kernel[grid](*arguments, enable_fp_fusion=True, **shape)
