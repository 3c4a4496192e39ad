"""train: many coders over one stream of activations. Rows come out; who prints or plots them is not its business.

Resuming is exact: batch i is a pure function of (source, seed, i), and a checkpoint holds everything else.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from assay import store
from assay.activations.base import ActivationSource
from assay.codec import SCHEMAS
from assay.coders.base import Batch, SparseCoder, Step
from assay.errors import BadInput, DamagedFile, NotFinite, WidthMismatch
from assay.optim import adam, lr_factor
from assay.shapes import Tensor


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train. One configuration for all coders of a run."""

    tokens: int = 1_000_000
    """Vectors to learn from; a finite source is gone through again as often as needed."""
    batch: int = 2048
    """Vectors a step."""
    lr: float = 0.001
    """Adam's learning rate at its height."""
    beta1: float = 0.9
    """Adam's momentum; 0 is recommended by some for very long runs."""
    warm_up: float = 0.05
    """Share of the steps over which the learning rate rises from 0."""
    decay: float = 0.2
    """Share of the steps, at the end, over which it falls to 0."""
    clip: float = 1.0
    """Largest gradient norm of one coder; 0 turns clipping off."""
    dead_after: int = 1_000_000
    """A latent is dead once it has not fired for this many vectors."""
    normalise: bool = True
    """Scale activations so that E‖x‖² = 1 while training; the scale is folded into the weights at the end."""
    log_every: int = 50
    """Steps between rows."""
    checkpoint_seconds: float = 30.0
    """Seconds between checkpoints. When they are taken changes no number."""
    seed: int = 0
    """Names the order of the data."""

    def __post_init__(self) -> None:
        if self.batch < 1 or self.tokens < self.batch:
            raise BadInput(f"Training needs at least one batch: got tokens={self.tokens}, batch={self.batch}.")
        bounds = {
            "lr": (0 < self.lr < float("inf"), "above 0 and finite"), "beta1": (0 <= self.beta1 < 1, "at least 0 and below 1"),
            "warm_up": (0 <= self.warm_up <= 1, "between 0 and 1"), "decay": (0 <= self.decay <= 1, "between 0 and 1"),
            "clip": (0 <= self.clip < float("inf"), "0 or more"), "dead_after": (self.dead_after >= 1, "at least 1"),
            "log_every": (self.log_every >= 1, "at least 1"), "checkpoint_seconds": (self.checkpoint_seconds >= 0, "0 or more"),
            "seed": (self.seed >= 0, "0 or more"),
        }  # fmt: skip
        for name, (fine, expected) in bounds.items():
            if not fine:
                raise BadInput(f"{name} must be {expected}, got {getattr(self, name)}.")

    @property
    def steps(self) -> int:
        return self.tokens // self.batch


@dataclass(frozen=True)
class Row:
    """What is known of one coder at one step."""

    step: int
    tokens: int
    coder: str
    metrics: dict[str, float]
    """loss and its terms, fvu (unexplained share of the variance, in training mode), l0, dead (share), lr, grad_norm."""


class _Trainee:
    """One coder with all that training it needs. `since` counts vectors since each latent last fired."""

    def __init__(self, name: str, coder: SparseCoder[Any], cfg: TrainConfig):
        self.name, self.coder, self.cfg = name, coder.train(), cfg
        self.parameters = [p for p in coder.parameters() if p.requires_grad] if coder.trained else []
        self.optimiser = adam(self.parameters, cfg.lr, cfg.beta1) if self.parameters else None
        self.since = torch.zeros(coder.d_sae, dtype=torch.int64, device=coder.W_dec.device)

    def step(self, batch: Batch, number: int, log: bool) -> dict[str, float]:
        """One update (or, for a baseline, one look). Metrics only when asked: they cost a synchronisation."""
        cfg, coder = self.cfg, self.coder
        dead = self.since >= cfg.dead_after
        with torch.set_grad_enabled(bool(self.optimiser)):
            code = coder.encode(batch.x)
            terms = coder.loss(batch, code, Step((number + 1) / cfg.steps, dead))
            loss = torch.stack([t.reshape(()) for t in terms.values()]).sum()
        self.since += len(batch.x)
        self.since[code.latents.fired()] = 0
        metrics = {}
        if log:
            metrics = {"loss": loss.item()} | {k: t.item() for k, t in terms.items()}
            metrics |= _quality(coder, batch, code) | {"dead": dead.float().mean().item()}
            if not all(v == v and abs(v) != float("inf") for v in metrics.values()):
                raise NotFinite(
                    f"Coder {self.name!r}: the loss is no longer finite at step {number} ({metrics}). "
                    "Lower lr, or check the activations for outliers; the last checkpoint is kept."
                )
        if self.optimiser:
            norm = self._update(loss, number)
            metrics |= {"lr": self.optimiser.param_groups[0]["lr"], "grad_norm": norm.item()} if log else {}
        return metrics

    def _update(self, loss: Tensor, number: int) -> Tensor:
        assert self.optimiser is not None
        cfg = self.cfg
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.coder.constrain_gradient()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, cfg.clip or float("inf"))
        for group in self.optimiser.param_groups:
            group["lr"] = cfg.lr * lr_factor(number, cfg.steps, cfg.warm_up, cfg.decay)
        self.optimiser.step()
        self.coder.constrain()
        return norm

    def tensors(self) -> dict[str, Tensor]:
        """Everything a checkpoint must hold of this coder."""
        found = {f"coder.{k}": v for k, v in self.coder.state_dict().items()} | {"since": self.since}
        if self.optimiser:
            for i, state in self.optimiser.state_dict()["state"].items():
                found |= {f"adam.{i}.{k}": v for k, v in state.items()}
        return {f"{self.name}/{k}": v.detach().cpu().contiguous() for k, v in found.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        own = {k.removeprefix(f"{self.name}/"): v for k, v in tensors.items() if k.startswith(f"{self.name}/")}
        self.coder.load_state_dict({k.removeprefix("coder."): v for k, v in own.items() if k.startswith("coder.")})
        self.since.copy_(own["since"])
        if self.optimiser:
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in own.items():
                if key.startswith("adam."):
                    _, i, name = key.split(".")
                    state.setdefault(int(i), {})[name] = value
            self.optimiser.load_state_dict(self.optimiser.state_dict() | {"state": state})


@torch.no_grad()
def _quality(coder: SparseCoder[Any], batch: Batch, code: Any) -> dict[str, float]:
    error = (batch.y - coder.decode(code)).double().square().sum()
    variance = (batch.y - batch.y.mean(0)).double().square().sum()
    return {"fvu": (error / variance).item(), "l0": code.latents.l0().mean().item()}


def train(
    coders: Mapping[str, SparseCoder[Any]],
    source: ActivationSource,
    cfg: TrainConfig,
    *,
    resume: Path | None = None,
) -> Generator[Row, None, None]:
    """Train all `coders` (in place) over one stream; yields a row a coder every `log_every` steps.

    `resume` is a checkpoint file: read when it exists, written as training goes on. When the iterator ends or is closed, the
    coders are in eval mode and work on unscaled activations.
    """
    _check_widths(coders, source)
    trainees = [_Trainee(name, coder, cfg) for name, coder in coders.items()]
    device = next(iter(coders.values())).W_dec.device
    start, scales = _restore(resume, trainees, cfg) if resume and resume.exists() else (0, None)
    if scales is None:
        scales = _begin(trainees, source, cfg, device)
    saved = time.monotonic()
    try:
        for number, batch in enumerate(source.batches(cfg.batch, cfg.seed, start), start):
            if number >= cfg.steps:
                break
            log = number % cfg.log_every == 0 or number == cfg.steps - 1
            batch = _scaled(batch, scales, device)
            for trainee in trainees:
                metrics = trainee.step(batch, number, log)
                if log:
                    yield Row(number, (number + 1) * cfg.batch, trainee.name, metrics)
            if resume and (time.monotonic() - saved >= cfg.checkpoint_seconds or number == cfg.steps - 1):
                _save(resume, trainees, cfg, number + 1, scales)
                saved = time.monotonic()
    finally:
        for trainee in trainees:
            trainee.coder.rescale(*scales)
            trainee.coder.eval()


def _check_widths(coders: Mapping[str, SparseCoder[Any]], source: ActivationSource) -> None:
    if not coders:
        raise BadInput("There is no coder to train.")
    for name, coder in coders.items():
        if (coder.d_in, coder.d_out) != (source.d_in, source.d_out):
            raise WidthMismatch(
                f"Coder {name!r} reads {coder.d_in} and predicts {coder.d_out} numbers; "
                f"the activations have {source.d_in} and {source.d_out}. Make it with d_in={source.d_in}."
            )


def _scaled(batch: Batch, scales: tuple[float, float], device: torch.device) -> Batch:
    x = batch.x.to(device, torch.float32) * scales[0]
    y = x if batch.y is batch.x else batch.y.to(device, torch.float32) * scales[1]
    return Batch(x, y, batch.tokens)


@torch.no_grad()
def _begin(
    trainees: list[_Trainee], source: ActivationSource, cfg: TrainConfig, device: torch.device, sample: int = 16_384
) -> tuple[float, float]:
    """Measure the activations' scale once, and let every coder look at the same sample."""
    some: list[Batch] = []
    for batch in source.batches(cfg.batch, cfg.seed):
        some.append(batch)
        if len(some) * cfg.batch >= min(sample, cfg.tokens):
            break
    alike = some[0].y is some[0].x
    x = torch.cat([b.x for b in some]).float()
    y = x if alike else torch.cat([b.y for b in some]).float()
    scales = (_scale(x), _scale(y)) if cfg.normalise else (1.0, 1.0)
    batch = _scaled(Batch.of(x, y), scales, device)
    for trainee in trainees:
        trainee.coder.initialise(batch)
    return scales


def _scale(x: Tensor) -> float:
    """s such that E‖s·x‖² = 1."""
    square = x.double().square().sum(1).mean().item()
    if not square > 0 or square == float("inf"):
        raise NotFinite(f"The mean squared norm of the activations is {square}; expected a positive number.")
    if (x - x.mean(0)).double().square().sum(1).mean().item() <= 1e-10 * square:
        raise BadInput(f"The activations do not vary: {len(x)} vectors of a sample are all alike. There is nothing to learn.")
    return square**-0.5


def _identity(trainees: list[_Trainee], cfg: TrainConfig) -> str:
    """What a checkpoint must agree on to be continued."""
    parts = {t.name: [type(t.coder).__name__, asdict(t.coder.config), t.coder.seed] for t in trainees}
    return store.digest({"coders": parts, "cfg": asdict(cfg) | {"checkpoint_seconds": None}})


def _save(path: Path, trainees: list[_Trainee], cfg: TrainConfig, step: int, scales: tuple[float, float]) -> None:
    about = {"schema": SCHEMAS["checkpoint"], "step": step, "scales": scales, "identity": _identity(trainees, cfg)}
    tensors = {k: v for t in trainees for k, v in t.tensors().items()}
    store.write_atomic(path, save(tensors, metadata={"assay": json.dumps(about)}))


def _restore(path: Path, trainees: list[_Trainee], cfg: TrainConfig) -> tuple[int, tuple[float, float]]:
    try:
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["assay"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise DamagedFile(f"{path} is no readable checkpoint ({error}). Delete it to start over.") from None
    if about["identity"] != _identity(trainees, cfg):
        raise BadInput(
            f"{path} belongs to a run with other coders or settings. Delete it to start over, or use those settings."
        )
    for trainee in trainees:
        trainee.restore(tensors)
    return about["step"], tuple(about["scales"])


def last_step(path: Path) -> int:
    """Steps a checkpoint has behind it; 0 where there is none."""
    if not path.exists():
        return 0
    try:
        with safe_open(path, "pt") as file:
            return int(json.loads(file.metadata()["assay"])["step"])
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise DamagedFile(f"{path} is no readable checkpoint ({error}). Delete it to start over.") from None
