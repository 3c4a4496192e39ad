"""Budget: what a training run will take, before it begins: time and which part of it goes where, memory, disk.

Time is measured, not modelled: a few real steps of each coder (on a copy; dense and sparse, where a penalty makes it sparse in time),
and real batches from the source. Memory is what those steps took, and what all coders hold at once.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch

from assay.activations.base import ActivationSource
from assay.coders.base import Batch, SparseCoder
from assay.errors import OutOfMemory, Unavailable
from assay.provenance import peak_memory
from assay.train import check_widths, scaled, scales_of
from assay.training.config import TrainConfig
from assay.training.trainee import Trainee, held_out_look

WARM, TIMED = 2, 5  # steps that are not and that are timed
DENSE_STEPS = 20  # that a penalised coder takes to become sparse, at least, however short the run
SEEN = 512  # vectors from which to tell how active a coder is
WARM_UPS = ("l1_warm_up", "sparsity_warm_up")  # the share of a run in which a penalty grows, and coders become sparse
FRESH = 1.1  # how much of the free memory or disk a run may be predicted to take: predictions are within a quarter, mostly far closer


@dataclass(frozen=True, kw_only=True)
class Budget:
    """A prediction. `parts` says where the seconds go: "data" and each coder."""

    steps: int
    tokens: int
    tokens_per_latent: float
    """Vectors for each latent of the widest coder. Published runs give thousands and more."""
    parts: Mapping[str, float]
    memory: int
    """Bytes: resident on a CPU, allocated on a GPU."""
    memory_free: int
    disk: int
    """Bytes at the fullest moment: checkpoint, the next one beside it, and the finished coders."""

    @property
    def seconds(self) -> float:
        return sum(self.parts.values())

    @property
    def dominant(self) -> str:
        """The part that takes longest, and its share."""
        name = max(self.parts, key=lambda part: self.parts[part])
        return f"{name} {self.parts[name] / max(self.seconds, 1e-9):.0%}"

    def check(self, root: Path) -> None:
        """Refuse a run that will not fit, and say what to lower."""
        if self.memory > FRESH * self.memory_free:
            raise OutOfMemory(
                f"The run needs about {self.memory / 1e9:.1f} GB of memory; {self.memory_free / 1e9:.1f} GB are to be had. "
                "Lower --batch or --d-sae, or train fewer coders at once."
            )
        free = shutil.disk_usage(root).free
        if self.disk > free:
            raise Unavailable(
                f"The run needs about {self.disk / 1e9:.1f} GB of disk in {root}; {free / 1e9:.1f} GB are free. "
                "Make room, choose another --store, or lower --d-sae."
            )


def check_size(weights: int, batch: int, d_sae: int) -> None:
    """Refuse a coder that is larger than memory before it is built: weights, gradients and two moments, and pre-activations."""
    needed, free = 16 * weights + 4 * batch * d_sae, psutil.virtual_memory().available
    if needed > free:
        raise OutOfMemory(
            f"A coder of {d_sae:,} latents needs at least {needed / 1e9:.1f} GB of memory to train; {free / 1e9:.1f} GB are free. "
            "Lower --d-sae or --batch."
        )


def estimate(
    coders: Mapping[str, SparseCoder[Any]],
    source: ActivationSource,
    cfg: TrainConfig,
    each: Mapping[str, TrainConfig] | None = None,
) -> Budget:
    """What `train(coders, source, cfg)` will take from here on. The coders themselves are not touched."""
    check_widths(coders, source)
    home = next(iter(coders.values())).W_dec.device
    batches, first, rest = _drawn(source, cfg)
    scales = scales_of(batches, cfg)
    some = [scaled(batch, scales, home) for batch in batches]
    look = source.held_out(cfg.held_out_vectors) if cfg.held_out_vectors else None
    loads = cfg.tokens / max(cfg.batch, getattr(source, "block", cfg.tokens))  # what loads nothing later has only a first batch
    parts = {"data": first * loads + rest * cfg.steps}
    before = _memory(home)
    for name, coder in coders.items():
        parts[name] = _coder_seconds(name, coder, (each or {}).get(name, cfg), some, scales, look)
    written = sum(12 * p.numel() for c in coders.values() for p in c.parameters())  # a checkpoint is made in memory
    states = written + sum(4 * 4 * p.numel() for c in coders.values() for p in c.parameters()) if len(coders) > 1 else 0
    weights = sum(4 * p.numel() for c in coders.values() for p in c.state_dict().values())
    memory = max(_memory(home), before) + states
    return Budget(
        steps=cfg.steps, tokens=cfg.steps * cfg.batch, tokens_per_latent=cfg.tokens / max(c.d_sae for c in coders.values()),
        parts=parts, memory=memory, memory_free=_free(home, peak_memory()), disk=2 * 3 * weights + weights,
    )  # fmt: skip


def _drawn(source: ActivationSource, cfg: TrainConfig) -> tuple[list[Batch], float, float]:
    """Some batches; seconds until the first, which may have loaded many at once, and for each of the others."""
    stream, found, times = source.batches(cfg.batch, cfg.seed), [], []
    for _ in range(min(WARM + TIMED, cfg.steps)):
        begun = time.perf_counter()
        found += islice(stream, 1)
        times.append(time.perf_counter() - begun)
    rest = median(times[1:]) if len(times) > 1 else times[0]
    return found, max(0.0, times[0] - rest), rest


def _coder_seconds(
    name: str, coder: SparseCoder[Any], cfg: TrainConfig, some: list[Batch], scales: tuple[float, float], look: Batch | None
) -> float:  # fmt: skip
    """Seconds that a coder's steps and held-out looks will take, from some of them on a copy."""
    trainee = Trainee(name, coder.clone(), cfg)
    trainee.begin(
        Batch.of(torch.cat([b.x for b in some]), None if some[0].y is some[0].x else torch.cat([b.y for b in some])), scales
    )
    steps = _step_seconds(trainee, some, scales) * cfg.steps
    if _silenced(trainee.coder, some[0], cfg.l0):
        dense = max([getattr(coder.config, warm_up, 0.0) for warm_up in WARM_UPS] + [min(1.0, DENSE_STEPS / cfg.steps)])
        steps = dense * steps + (1 - dense) * _step_seconds(trainee, some, scales) * cfg.steps
    if look is None:
        return steps
    begun = time.perf_counter()
    held_out_look(trainee.as_saved(scales), look)
    return steps + (time.perf_counter() - begun) * (cfg.steps // cfg.log_every + 1)


def _step_seconds(trainee: Trainee, some: list[Batch], scales: tuple[float, float]) -> float:
    times = []
    for number, batch in enumerate(some):
        begun = time.perf_counter()
        trainee.step(batch, number, scales, log=False)
        _finish(batch.x.device)
        times.append(time.perf_counter() - begun)
    return median(times[WARM:] or times)


@torch.no_grad()
def _silenced(coder: SparseCoder[Any], batch: Batch, l0: float | None) -> bool:
    """Lower the biases of a coder whose penalty has yet to make it sparse, until it is as sparse as `l0` (or one in a hundred);
    False where nothing needs to be done. Such coders begin dense, and take several times as long then."""
    bias = getattr(coder, "b_enc", None)
    if not coder.penalised or bias is None:
        return False
    z = coder.encode(batch.x[:SEEN]).z
    wanted = int((l0 or coder.d_sae / 100) * len(z))
    if (z > 0).sum() <= wanted:
        return False
    bias -= z.flatten().kthvalue(z.numel() - wanted).values
    return True


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _memory(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_memory()


def _free(device: torch.device, mine: int) -> int:
    """Bytes that this process may come to hold in all."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device)
    return psutil.virtual_memory().available + min(mine, psutil.Process().memory_info().rss)
