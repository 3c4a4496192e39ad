"""Assay's own training step, through its public interface."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from assay import coders
from assay.coders.base import Batch, SparseCoder
from assay.provenance import package_version
from assay.train import TrainConfig, scaled, train
from assay.training.trainee import Trainee
from benchmarks._data import NotOffered, Shape, bias_for

STEPS = 1_000_000  # of the training whose middle is measured: nothing warms up any more, p-annealing is half way
SMALL = 1e-6  # a learning rate at which L0 stays where it was put
PENALTIES = {"relu": {"l1": 1e-3}, "p_anneal": {"l1": 1e-3}, "gated": {"l1": 1e-3}, "jumprelu": {"sparsity": 1e-6}}
Spec = dict[str, Any]
Made = tuple[Callable[[Iterable[torch.Tensor], int], None], Callable[[], float]]


def load(spec: Spec) -> str | None:
    """Everything imported that is needed; the version."""
    coders.registry.CODERS.load(spec["architecture"])
    return package_version()


def make(spec: Spec, shape: Shape, data: list[torch.Tensor]) -> Made:
    """What trains on the batches it is given (and is told their number), and what tells the mean L0 now."""
    if "coders" in spec:
        return _sweep(spec, shape, data)
    coder = _coder(spec, shape).to(data[0].device)
    trainee = Trainee("ours", coder, _config(spec, shape))
    trainee.begin(Batch.of(torch.cat(data[: max(1, 16_384 // shape.batch)])), (1.0, 1.0))
    if spec.get("share"):
        place(coder, data[0], spec["share"])
    count, low = STEPS // 2, spec.get("dtype") == "bf16"

    def run(stream: Iterable[torch.Tensor], steps: int) -> None:
        nonlocal count
        for x in stream:
            with torch.autocast(x.device.type, torch.bfloat16) if low else contextlib.nullcontext():
                trainee.step(scaled(Batch.of(x), (1.0, 1.0), x.device), count, (1.0, 1.0), False)
            count += 1

    @torch.no_grad()
    def l0() -> float:
        return coder.encode(data[0]).latents.l0().mean().item()

    return run, l0


def _coder(spec: Spec, shape: Shape, seed: int = 0) -> SparseCoder[Any]:
    known = {f.name for f in dataclasses.fields(coders.registry.CODERS.load(spec["architecture"]).Config)}
    settings = {k: v for k, v in spec.get("settings", {}).items() if k in known} | PENALTIES.get(spec["architecture"], {})
    if "k" in known:
        settings["k"] = shape.k
    return coders.new(spec["architecture"], seed=seed, d_in=shape.d_in, d_sae=shape.d_sae, **settings)


def _config(spec: Spec, shape: Shape, steps: int = STEPS) -> TrainConfig:
    own = {f.name for f in dataclasses.fields(TrainConfig)}
    coder = {f.name for f in dataclasses.fields(coders.registry.CODERS.load(spec["architecture"]).Config)}
    settings = spec.get("settings", {})
    if unknown := set(settings) - own - coder:
        raise NotOffered(f"no setting {', '.join(sorted(unknown))} in this tree")
    more = {k: v for k, v in settings.items() if k in own}
    return TrainConfig(
        tokens=steps * shape.batch, batch=shape.batch, lr=SMALL if spec.get("share") else 1e-4, warm_up=0.0, decay=0.0,
        dead_after=10**12, held_out_vectors=0, log_every=10**9, **more,
    )  # fmt: skip


@torch.no_grad()
def place(coder: Any, x: torch.Tensor, share: float) -> None:
    """Let each latent fire on `share` of the vectors."""
    bar = coder.threshold if hasattr(coder, "threshold") else 0.0
    coder.b_enc.add_(bias_for(coder.pre_activations(x), share, bar))


class _Stream:
    """A source for one training: first the sample that a training begins with, then batches as they come."""

    def __init__(self, shape: Shape, sample: torch.Tensor, stream: Iterable[torch.Tensor]):
        self.d_in = self.d_out = shape.d_in
        self.fingerprint, self.tokens = "0" * 16, None
        self.parts = [[sample] * 100, stream]

    def batches(self, size: int, seed: int, start: int = 0) -> Iterator[Batch]:
        yield from map(Batch.of, self.parts.pop(0))

    def held_out(self, size: int) -> Batch | None:
        return None

    def describe(self) -> dict[str, Any]:
        return {"kind": "benchmark"}


def _sweep(spec: Spec, shape: Shape, data: list[torch.Tensor]) -> Made:
    """Several coders over one stream, by `train` itself; each call is a training of its own."""
    some = {str(i): _coder(spec, shape, seed=i).to(data[0].device) for i in range(spec["coders"])}

    def run(stream: Iterable[torch.Tensor], steps: int) -> None:
        for _ in train(some, _Stream(shape, data[0], stream), _config(spec, shape, steps)):
            pass

    return run, lambda: float(some["0"].wanted_l0 or 0)
