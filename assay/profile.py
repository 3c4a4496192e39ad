"""Profile: where the time of a training goes, from its first steps (on copies of the coders)."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from assay.activations.base import ActivationSource
from assay.coders.base import SparseCoder
from assay.errors import BadInput
from assay.timeline import Timeline, watch
from assay.train import train
from assay.training.config import TrainConfig

PARTS = ("read", "transfer", "encoder", "selection", "decode", "backward", "optimiser", "logging", "other")


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Where the seconds of a step go, on average over `steps` of them, a row's logging among them."""

    steps: int
    parts: Mapping[str, float]
    """Seconds a step. read: waiting for the source; transfer: to the device; encoder: the dense product; selection: the choice among
    its entries; decode: reconstruction and loss; optimiser: with norms and constraints; logging: rows and held-out looks."""
    step: float
    syncs: float | None
    """Times a step that the host waited for the GPU, outside logging; None on a CPU, where there is nothing to wait for."""

    def shares(self) -> dict[str, float]:
        """Parts by their share of a step."""
        whole = sum(self.parts.values()) or 1.0
        return {name: seconds / whole for name, seconds in self.parts.items()}


def profile(
    coders: Mapping[str, SparseCoder[Any]],
    source: ActivationSource,
    cfg: TrainConfig,
    each: Mapping[str, TrainConfig] | None = None,
) -> Profile:
    """Where the time of `train(coders, source, cfg)` goes, from its first row to its second. The coders are not touched."""
    device = next(iter(coders.values())).W_dec.device
    twins = {name: coder.clone() for name, coder in coders.items()}
    with closing(train(twins, source, cfg, each=each)) as rows:
        for _ in coders:
            first = next(rows).step
        with watch(device) as line, _waits(device, line) as waits:
            begun, last = time.perf_counter(), first
            for _, row in zip(coders, rows):
                last = row.step
            steps = last - first
            parts = line.seconds()
            seconds = time.perf_counter() - begun
    if not steps:
        raise BadInput(f"A profile needs at least two steps; this run has {cfg.steps}. Give it more --tokens.")
    return Profile(
        steps=steps, parts={name: parts.get(name, 0.0) / steps for name in PARTS}, step=seconds / steps,
        syncs=len(waits) / steps if device.type == "cuda" else None,
    )  # fmt: skip


@contextmanager
def _waits(device: torch.device, line: Timeline) -> Iterator[list[str]]:
    """Where the host waits for the GPU, logging left out."""
    found: list[str] = []
    if device.type != "cuda":
        yield found
        return

    def note(message: Any, *_: Any, **__: Any) -> None:
        if "logging" not in line.parts:
            found.append(str(message))

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")
