"""Later: a yes or no that the GPU finds out, asked for when nobody has to wait for it."""

from __future__ import annotations

import torch

from assay.shapes import Tensor


class Later:
    """`bool()` of a 0-dim tensor. On a GPU it is on its way to the host at once; who asks a step later finds it there."""

    def __init__(self, found: Tensor):
        self.arrived: torch.cuda.Event | None = None
        self.found = found
        if found.is_cuda:
            self.found = torch.empty((), dtype=torch.bool, pin_memory=True)
            self.found.copy_(found, non_blocking=True)
            self.arrived = torch.cuda.Event()
            self.arrived.record()

    def __bool__(self) -> bool:
        if self.arrived is not None:
            self.arrived.synchronize()
        return bool(self.found)
