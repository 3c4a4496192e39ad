"""train: many coders over one stream of activations. Rows come out; who prints or plots them is not its business.

Resuming is exact: batch i is a pure function of (source, seed, i), and a checkpoint holds everything else.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from assay.activations.base import ActivationSource
from assay.coders.base import Batch, SparseCoder
from assay.errors import BadInput, NotFinite, OutOfMemory, WidthMismatch
from assay.provenance import peak_memory
from assay.shapes import Tensor
from assay.timeline import part
from assay.training import checkpoint
from assay.training.config import STREAM, Row, TrainConfig
from assay.training.trainee import Trainee, held_out_look

__all__ = ["Row", "TrainConfig", "train"]


def train(
    coders: Mapping[str, SparseCoder[Any]],
    source: ActivationSource,
    cfg: TrainConfig,
    *,
    each: Mapping[str, TrainConfig] | None = None,
    resume: Path | None = None,
) -> Generator[Row, None, None]:
    """Train all `coders` (in place) over one stream; yields a row a coder every `log_every` steps.

    `each` gives some coders settings of their own. `resume` is a checkpoint file: read when it exists, written as training goes
    on. When the iterator ends or is closed, the coders are in eval mode and work on unscaled activations. A coder that diverges
    stops with a row that says why, and the others go on; `NotFinite` when none is left.
    """
    check_widths(coders, source)
    trainees = [Trainee(name, coder, own) for (name, coder), own in zip(coders.items(), _settings(coders, cfg, each or {}))]
    device = next(iter(coders.values())).W_dec.device
    look = source.held_out(cfg.held_out_vectors) if cfg.held_out_vectors else None
    start, scales = checkpoint.read(resume, trainees, source.fingerprint) if resume and resume.exists() else (0, None)
    if scales is None:
        scales = _begin(trainees, source, cfg, device)
    clock, stream = _Clock(start), source.batches(cfg.batch, cfg.seed, start)
    try:
        for number in range(start, cfg.steps):
            with part("read"):
                batch = next(stream)
            last = number == cfg.steps - 1
            log = number % cfg.log_every == 0 or last
            with part("transfer"):
                batch = scaled(batch, scales, device)
            speed = clock.speed(number, cfg.batch) if log else {}
            for trainee in trainees:
                if row := _stepped(trainee, trainees, batch, number, scales, look if log else None, log):
                    yield replace(row, speed=speed)
            if resume and (clock.since_saved() >= cfg.checkpoint_seconds or last):
                checkpoint.write(resume, trainees, source.fingerprint, number + 1, scales)
                clock.saved()
    finally:
        for trainee in trainees:
            trainee.finish(scales)


def _settings(
    coders: Mapping[str, SparseCoder[Any]], cfg: TrainConfig, each: Mapping[str, TrainConfig]
) -> Iterator[TrainConfig]:
    """Settings of each coder; what is of the stream must agree."""
    for name in each:
        if name not in coders:
            raise BadInput(f"There are settings for a coder {name!r}, but no such coder.")
    for name in coders:
        own = each.get(name, cfg)
        for setting in STREAM:
            if getattr(own, setting) != getattr(cfg, setting):
                raise BadInput(
                    f"Coder {name!r} asks for {setting}={getattr(own, setting)}, the run for {getattr(cfg, setting)}. "
                    f"All coders of a run share {', '.join(STREAM)}: give one of the two the other's value."
                )
        yield own


def _stepped(
    trainee: Trainee, all_of: list[Trainee], batch: Batch, number: int, scales: tuple[float, float], look: Batch | None, log: bool
) -> Row | None:  # fmt: skip
    """One step of one coder, and its row when one is due."""
    if trainee.stopped:
        return None
    done, name = (number + 1) * len(batch.x), trainee.name
    try:
        metrics, density = trainee.step(batch, number, scales, log)
        if log:
            with part("logging"):
                metrics |= {} if look is None else held_out_look(trainee.as_saved(scales), look)
                trainee.judge(metrics, number)
    except NotFinite as error:
        trainee.stopped = str(error)
        if all(t.stopped for t in all_of):
            raise
        return Row(number, done, name, {}, stopped=trainee.stopped)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _too_large(trainee, batch) from error
    except RuntimeError as error:
        if "can't allocate memory" in str(error) or "not enough memory" in str(error):
            raise _too_large(trainee, batch) from error
        raise
    return Row(number, done, name, metrics, density) if log else None


def _too_large(trainee: Trainee, batch: Batch) -> OutOfMemory:
    """Which tensor is the largest, and which setting makes it smaller."""
    coder, n = trainee.coder, len(batch.x)
    weights = sum(p.numel() for p in trainee.parameters)
    sizes = {
        f"pre-activations [batch {n}, d_sae {coder.d_sae}] (lower batch, or d_sae)": 4 * n * coder.d_sae,
        f"weights with gradients and moments of {weights:,} parameters (lower d_sae)": 16 * weights,
    }
    (what, size), (other, less) = sorted(sizes.items(), key=lambda item: -item[1])
    return OutOfMemory(
        f"Memory ran out while training {trainee.name!r}. Largest: {what}, {size / 1e9:.2f} GB each time it is needed; "
        f"next: {other}, {less / 1e9:.2f} GB. Fewer coders in one run need less, too; the last checkpoint is kept."
    )


class _Clock:
    """Time of this process's part of a run."""

    def __init__(self, start: int):
        self.start, self.begun, self.last_save = start, time.monotonic(), time.monotonic()

    def speed(self, number: int, batch: int) -> dict[str, float]:
        """Vectors a second since training began here (for all coders together), and peak memory in bytes."""
        rate = (number - self.start) * batch / max(time.monotonic() - self.begun, 1e-9)
        return {"peak_memory": float(peak_memory())} | ({"tokens_per_second": rate} if number > self.start else {})

    def since_saved(self) -> float:
        return time.monotonic() - self.last_save

    def saved(self) -> None:
        self.last_save = time.monotonic()


def check_widths(coders: Mapping[str, SparseCoder[Any]], source: ActivationSource) -> None:
    """Refuse coders that do not fit the source."""
    if not coders:
        raise BadInput("There is no coder to train.")
    for name, coder in coders.items():
        if (coder.d_in, coder.d_out) != (source.d_in, source.d_out):
            raise WidthMismatch(
                f"Coder {name!r} reads {coder.d_in} and predicts {coder.d_out} numbers; "
                f"the activations have {source.d_in} and {source.d_out}. Make it with d_in={source.d_in}."
            )


def scaled(batch: Batch, scales: tuple[float, float], device: torch.device) -> Batch:
    """A batch as coders see it in training."""
    x = _on(device, batch.x) * scales[0]
    y = x if batch.y is batch.x else _on(device, batch.y) * scales[1]
    return replace(batch, x=x, y=y)


def _on(device: torch.device, vectors: Tensor) -> Tensor:
    """On the device, in float32. To a GPU in the type they have, from pinned memory: the host does not wait, and less is moved."""
    if device.type == "cuda" and not vectors.is_cuda:
        vectors = vectors.pin_memory().to(device, non_blocking=True)
    return vectors.to(device, torch.float32)


@torch.no_grad()
def _begin(
    trainees: list[Trainee], source: ActivationSource, cfg: TrainConfig, device: torch.device, sample: int = 16_384
) -> tuple[float, float]:
    """Measure the activations' scale once, and let every coder look at the same sample."""
    some: list[Batch] = []
    for batch in source.batches(cfg.batch, cfg.seed):
        some.append(batch)
        if len(some) * cfg.batch >= min(sample, cfg.tokens):
            break
    scales, alike = scales_of(some, cfg), some[0].y is some[0].x
    x = torch.cat([b.x for b in some])
    batch = scaled(Batch.of(x, None if alike else torch.cat([b.y for b in some])), scales, device)
    for trainee in trainees:
        if trainee.coder.centred and not alike:
            raise BadInput(
                f"Coder {trainee.name!r} takes its output's mean off its input, so it can only predict what it reads; here it is to "
                "predict something else. Train a transcoder: assay train transcoder --of ARCHITECTURE."
            )
        trainee.begin(batch, scales)
    return scales


def scales_of(some: Sequence[Batch], cfg: TrainConfig) -> tuple[float, float]:
    """What x and y are multiplied by in training, from a sample of batches."""
    x = torch.cat([b.x for b in some]).float()
    y = x if some[0].y is some[0].x else torch.cat([b.y for b in some]).float()
    return _scale(x, cfg.normalise), _scale(y, cfg.normalise)


def _scale(x: Tensor, normalise: str) -> float:
    """s such that E‖s·x‖² is 1, or the width of x, or as it is."""
    square = x.double().square().sum(1).mean().item()
    if not square > 0 or square == float("inf"):
        raise NotFinite(
            f"The mean squared norm of the activations is {square}; expected a positive number. "
            "Look for NaN, zeros only, or numbers too large for float32, and rescale the data."
        )
    if (x - x.mean(0)).double().square().sum(1).mean().item() <= 1e-10 * square:
        raise BadInput(f"The activations do not vary: {len(x)} vectors of a sample are all alike. There is nothing to learn.")
    wanted = {"unit": 1.0, "root_d": float(x.shape[1]), "none": square}[normalise]
    return (wanted / square) ** 0.5
