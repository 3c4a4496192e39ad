"""Timeline: what a loop is busy with, from moment to moment. Code says so with `part`; nothing is measured unless someone watches."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch

_watching: ContextVar[Timeline | None] = ContextVar("timeline", default=None)  # of this thread alone


class Timeline:
    """Moments at which the part changed. On a GPU they are marks in its queue, so nothing waits."""

    def __init__(self, device: torch.device):
        self.on_gpu = device.type == "cuda"
        self.moments: list[tuple[Any, str]] = []
        self.parts = ["other"]

    def change(self) -> None:
        """The part on top is what follows."""
        if self.on_gpu:
            moment = torch.cuda.Event(enable_timing=True)
            moment.record()
        else:
            moment = time.perf_counter()
        self.moments.append((moment, self.parts[-1]))

    def seconds(self) -> dict[str, float]:
        """Seconds of each part, what it was interrupted by left out."""
        self.change()
        found: dict[str, float] = {}
        if self.on_gpu:
            torch.cuda.synchronize()
        for (start, name), (end, _) in zip(self.moments, self.moments[1:]):
            took = start.elapsed_time(end) / 1e3 if self.on_gpu else end - start
            found[name] = found.get(name, 0.0) + took
        return found


@contextmanager
def watch(device: torch.device) -> Iterator[Timeline]:
    """Write down, within this block, what the loops of this thread are busy with."""
    line = Timeline(device)
    before = _watching.set(line)
    line.change()
    try:
        yield line
    finally:
        _watching.reset(before)


@contextmanager
def part(name: str) -> Iterator[None]:
    """What follows is `name`, until a part within it begins."""
    line = _watching.get()
    if line is None:
        yield
        return
    line.parts.append(name)
    line.change()
    try:
        yield
    finally:
        line.parts.pop()
        line.change()
