"""Time and memory of a process: by the clock, of its main thread, on a GPU."""

from __future__ import annotations

import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

_MAIN = getattr(time, "pthread_getcpuclockid", lambda _: None)(threading.main_thread().ident)
Times = dict[str, list[float]]


def cpu() -> float:
    """Processor time of the main thread, whichever thread asks."""
    return time.thread_time() if _MAIN is None else time.clock_gettime(_MAIN)


class Timed:
    """Batches, in a circle, that note when each was asked for: what lies between two is a step."""

    def __init__(self, data: list[torch.Tensor]):
        self.data, self.at, self.cuda = data, 0, data[0].is_cuda
        self.stamps: list[tuple[float, float, Any]] = []

    def take(self, count: int) -> Iterator[torch.Tensor]:
        self.stamps = []
        for _ in range(count):
            self._stamp()
            self.at += 1
            yield self.data[self.at % len(self.data)]
        self._stamp()

    def steps(self, count: int) -> Times:
        """Seconds of each of the `count` steps just made: by the clock (a GPU's own), and of the main thread."""
        if len(self.stamps) == count:  # the end was never asked for
            self._stamp()
        pairs = list(zip(self.stamps[:-1], self.stamps[1:], strict=True))
        own = [b[1] - a[1] for a, b in pairs]
        if not self.cuda:
            return {"wall": [b[0] - a[0] for a, b in pairs], "cpu": own}
        torch.cuda.synchronize()
        return {"wall": [a[2].elapsed_time(b[2]) / 1e3 for a, b in pairs], "cpu": own}

    def _stamp(self) -> None:
        event = torch.cuda.Event(enable_timing=True) if self.cuda else None
        if event:
            event.record()
        self.stamps.append((time.perf_counter(), cpu(), event))


@torch.no_grad()
def of_parts(parts: dict[str, Callable[[], Any]], cuda: bool = False) -> dict[str, tuple[float, float]]:
    """Seconds that each part takes: by the clock, and of the main thread."""
    times = {}
    for name, part in parts.items():
        if cuda:
            torch.cuda.synchronize()
        wall, own = time.perf_counter(), cpu()
        part()
        if cuda:
            torch.cuda.synchronize()
        times[name] = time.perf_counter() - wall, cpu() - own
    return times


def memory(cuda: bool = False) -> tuple[int, int]:
    """Bytes held now, and at most so far: of this process, or on the GPU."""
    if cuda:
        return torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * resource.getpagesize(), peak
    except FileNotFoundError:
        return peak, peak
