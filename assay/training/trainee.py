"""Trainee: one coder with everything that its training needs: optimiser, dead counters, averages, controller."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from assay.activations.score import bias
from assay.coders.base import Batch, Code, SparseCoder, Step
from assay.errors import BadInput, NotFinite
from assay.shapes import Tensor
from assay.timeline import part
from assay.training import revive, start
from assay.training.config import TrainConfig
from assay.training.control import Controller
from assay.training.later import Later
from assay.training.optim import Optimiser, lr_factor

BINS = 14  # of firing frequencies: never, below 10⁻⁶, then half decades up to 1
PIECE = 2048
WORSE = 100.0  # times its best FVU: a coder that is as bad as this has diverged


class Trainee:
    """A coder that learns. `since` counts vectors since each latent last fired, `fires` how often it did since the last row."""

    def __init__(self, name: str, coder: SparseCoder[Any], cfg: TrainConfig):
        self.name, self.coder, self.cfg = name, coder.train(), cfg
        coder.rough = cfg.candidates == "bfloat16"
        self.parameters = [p for p in coder.parameters() if p.requires_grad] if coder.trained else []
        self.optimiser = Optimiser(self.parameters, cfg) if self.parameters else None
        home = coder.W_dec.device
        self.since = torch.zeros(coder.d_sae, dtype=torch.int64, device=home)
        self.fires = torch.zeros(coder.d_sae, dtype=torch.int64, device=home)
        self.some_dead = Later(self.dead.any())
        self.seen = torch.zeros((), dtype=torch.int64)  # vectors since the last row
        self.best = torch.full((), float("inf"), dtype=torch.float64)  # lowest FVU of any row
        self.average = [p.detach().clone() for p in self.parameters] if cfg.ema else []
        self.resampled = torch.full((), -1, dtype=torch.int64)  # step of the last resampling
        if cfg.revive in ("aux_k", "ghost", "resample") and coder.trained:
            revive.inner(coder)  # refuses what it cannot serve
        self.controller = _controller(name, coder, cfg) if self.optimiser else None
        self.stopped: str | None = None

    def begin(self, batch: Batch, scales: tuple[float, float]) -> None:
        """The start: from the data, or (fine-tuning) from the weights there are, brought into the trainer's scale."""
        cfg, coder = self.cfg, self.coder
        if not coder.trained:
            coder.initialise(batch)
        elif cfg.fine_tune:
            start.adopt(coder, scales)
        else:
            start.begin(coder, batch, cfg.b_dec, cfg.tied)
        for kept, p in zip(self.average, self.parameters):
            kept.copy_(p.detach())

    def step(
        self, batch: Batch, number: int, scales: tuple[float, float], log: bool
    ) -> tuple[dict[str, float], tuple[int, ...]]:
        """One update (or, for a baseline, one look). Metrics only when asked: they cost a synchronisation."""
        cfg, coder = self.cfg, self.coder
        dead = self.dead
        if number in cfg.resample_steps and self.optimiser:
            dead = self._resampled(batch, dead, number)
        coder.fraction = 1.0 if cfg.fine_tune else number / cfg.steps  # what was annealed stays so
        with torch.set_grad_enabled(bool(self.optimiser)):
            with part("encoder"):
                code = coder.encode(batch.x)
            with part("decode"):
                terms = self._terms(batch, code, number, dead if self.some_dead else None, scales)
                loss = torch.stack([t.reshape(()) for t in terms.values()]).sum()
        self._count(code, len(batch.x))
        metrics: dict[str, float] = {}
        if log:
            with part("logging"):
                losses = {f"{k}_loss" if k == "l0" else k: t.item() for k, t in terms.items()}  # l0 is the number of latents
                metrics = {"loss": loss.item()} | losses
                metrics |= _quality(coder, batch, code) | {"dead": dead.float().mean().item()}
        if self.optimiser:
            lr, norm = self._update(loss, number)
            if self.controller:
                metrics |= {"pressure": self.controller.pressure} if log else {}
                self.controller.observe(metrics["l0"] if log else code.latents.l0().mean().item())
            metrics |= {"lr": lr, "grad_norm": norm.item()} if log else {}
        return metrics, self._density() if log else ()

    def _resampled(self, batch: Batch, dead: Tensor, number: int) -> Tensor:
        """Dead latents made anew; gives those that are dead still: none."""
        assert self.optimiser is not None
        if revive.resample(self.coder, self.optimiser, batch, dead, self.coder.seed, number):
            self.resampled.fill_(number)
            self.since[dead] = 0
            for kept, p in zip(self.average, self.parameters):  # an average with what is gone is of no use
                kept.copy_(p.detach())
            self.some_dead = Later(self.dead.any())
        return torch.zeros_like(dead)

    @property
    def dead(self) -> Tensor:
        """Which latents have not fired for long."""
        return self.since >= self.cfg.dead_after

    def _terms(
        self, batch: Batch, code: Code, number: int, dead: Tensor | None, scales: tuple[float, float]
    ) -> Mapping[str, Tensor]:
        cfg, coder = self.cfg, self.coder
        pressure = self.controller.pressure if self.controller else 1.0
        step = Step((number + 1) / cfg.steps, None if cfg.revive in ("none", "ghost", "resample") else dead, pressure)
        terms = dict(coder.loss(batch, code, step))
        if cfg.revive in ("aux_k", "ghost") and coder.trained:
            terms |= revive.terms(cfg.revive, coder, batch, code, terms, dead)
        if batch.ahead and coder.trained:
            terms.pop("mse", None)
            terms |= batch.ahead(coder.decode(code) / scales[1])
        return terms

    def _count(self, code: Code, size: int) -> None:
        firing = code.latents.firing()
        self.since += size
        self.since[firing > 0] = 0
        self.some_dead = Later(self.dead.any())
        self.fires += firing
        self.seen += size

    def _density(self) -> tuple[int, ...]:
        """Latents by how often they fired since the last row."""
        frequency = self.fires.double() / int(self.seen)
        bins = ((2 * frequency.log10()).floor() + BINS).clamp(1, BINS - 1).long()
        counts = torch.bincount(torch.where(self.fires > 0, bins, 0), minlength=BINS)
        self.fires.zero_()
        self.seen.zero_()
        return tuple(counts.tolist())

    def judge(self, metrics: dict[str, float], number: int) -> None:
        """Refuse to go on with a coder that is no longer finite, or far worse than it was."""
        finite = all(v == v and abs(v) != float("inf") for v in metrics.values())
        if not finite or not all(bool(torch.isfinite(p).all()) for p in self.parameters):
            raise NotFinite(
                f"Coder {self.name!r} is no longer finite at step {number} "
                f"({', '.join(k for k, v in metrics.items() if v != v or abs(v) == float('inf')) or 'its weights'}). "
                "Lower lr, or check the activations for outliers."
            )
        fvu = metrics.get("fvu", 0.0)
        if fvu > max(1.0, float(self.best)) * WORSE:
            raise NotFinite(
                f"Coder {self.name!r} has diverged: at step {number} its FVU is {fvu:.3g}, it was {float(self.best):.3g}. "
                "Lower lr or lengthen warm_up."
            )
        self.best.fill_(min(float(self.best), fvu))

    def _update(self, loss: Tensor, number: int) -> tuple[float, Tensor]:
        assert self.optimiser is not None
        self.optimiser.zero_grad()
        with part("backward"):
            loss.backward()
        with part("optimiser"):
            return self._moved(number)

    def _moved(self, number: int) -> tuple[float, Tensor]:
        """The step itself, from the gradients there are."""
        assert self.optimiser is not None
        cfg = self.cfg
        self.coder.constrain_gradient()
        norm = self.optimiser.clip(cfg.clip)
        lr = cfg.lr * lr_factor(number, cfg.steps, cfg.warm_up, cfg.decay, cfg.schedule)
        if self.resampled >= 0 and cfg.warm_up:  # after a resampling the learning rate rises anew
            lr *= min(1.0, (number - int(self.resampled) + 1) / (cfg.warm_up * cfg.steps))
        self.optimiser.step(lr)
        self.coder.constrain()
        for kept, p in zip(self.average, self.parameters):
            kept.lerp_(
                p.detach(), 1 - min(cfg.ema, (1 + number) / (10 + number))
            )  # early on, a shorter memory: the start is random
        return lr, norm

    @torch.no_grad()
    def as_saved(self, scales: tuple[float, float]) -> SparseCoder[Any]:
        """A copy of the coder as it would be saved now: averaged, unscaled, in eval mode."""
        return self._settled(self.coder.clone(), scales)

    @torch.no_grad()
    def finish(self, scales: tuple[float, float]) -> None:
        """Leave the coder itself as it is to be saved. In place: this also happens where memory has run out."""
        self._settled(self.coder, scales)

    def _settled(self, coder: SparseCoder[Any], scales: tuple[float, float]) -> SparseCoder[Any]:
        if self.average:
            for kept, p in zip(self.average, (p for p in coder.parameters() if p.requires_grad)):
                p.copy_(kept)
            coder.constrain()
        coder.rescale(*scales)
        coder.fraction = 1.0
        return coder.eval()

    def _own(self) -> dict[str, Tensor]:
        own = {"since": self.since, "fires": self.fires, "seen": self.seen, "best": self.best, "resampled": self.resampled}
        own |= {f"average.{i}": kept for i, kept in enumerate(self.average)}
        return own | ({"controller": self.controller.state} if self.controller else {})

    def tensors(self) -> dict[str, Tensor]:
        """Everything a checkpoint must hold of this coder."""
        found = {f"coder.{k}": v for k, v in self.coder.state_dict().items()} | self._own()
        if self.optimiser:
            found |= {f"optimiser.{k}": v for k, v in self.optimiser.tensors().items()}
        return {f"{self.name}/{k}": v.detach().cpu().contiguous() for k, v in found.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what `tensors` gave."""
        own = {k.removeprefix(f"{self.name}/"): v for k, v in tensors.items() if k.startswith(f"{self.name}/")}
        self.coder.load_state_dict({k.removeprefix("coder."): v for k, v in own.items() if k.startswith("coder.")})
        for key, value in self._own().items():
            value.copy_(own[key])
        self.some_dead = Later(self.dead.any())
        if self.optimiser:
            self.optimiser.restore({k.removeprefix("optimiser."): v for k, v in own.items() if k.startswith("optimiser.")})


def _controller(name: str, coder: SparseCoder[Any], cfg: TrainConfig) -> Controller | None:
    """The controller that `l0` asks for; None where none is needed, because the architecture is exact."""
    if cfg.l0 is None:
        return None
    if cfg.l0 >= coder.d_sae:
        raise BadInput(f"Coder {name!r} has {coder.d_sae} latents; an L0 of {cfg.l0:g} would be all of them or more.")
    if coder.penalised and 0 in (getattr(coder.config, "l1", None), getattr(coder.config, "sparsity", None)):
        raise BadInput(
            f"Coder {name!r} has a penalty of weight 0: no controller can bring it to an L0 of {cfg.l0:g}. Give it a weight."
        )
    if coder.penalised:
        return Controller(cfg.l0, cfg.steps, signed=coder.rewardable)
    if coder.wanted_l0 != cfg.l0:
        raise BadInput(
            f"Coder {name!r} was made for an L0 of {coder.wanted_l0 or 0:g}, the training asks for {cfg.l0:g}. "
            "For this architecture make the coder with that L0 (k), or leave l0 out."
        )
    return None


@torch.no_grad()
def _quality(coder: SparseCoder[Any], batch: Batch, code: Code) -> dict[str, float]:
    error = (batch.y - coder.decode(code)).double().square().sum()
    variance = (batch.y - batch.y.mean(0)).double().square().sum()
    l0 = {"l0": code.latents.l0().mean().item()}
    return ({"fvu": (error / variance).item()} if variance > 0 else {}) | l0  # of one vector there is no variance


@torch.no_grad()
def held_out_look(coder: SparseCoder[Any], batch: Batch) -> dict[str, float]:
    """What a coder in eval mode makes of unscaled vectors, in its inference form: FVU, L0 and γ (about the vectors' mean)."""
    form = coder.folded().eval()
    home, n = coder.W_dec.device, len(batch.x)
    parts = [(x.to(home), y.to(home)) for x, y in zip(batch.x.split(PIECE), batch.y.split(PIECE))]
    codes = [form.encode(x) for x, _ in parts]
    y, y_hat = torch.cat([y for _, y in parts]), torch.cat([form.decode(code) for code in codes])
    mean = y.double().mean(0)
    error, variance = (y.double() - y_hat).square().sum(), (y - mean).square().sum()
    l0 = sum(code.latents.l0().sum().item() for code in codes) / n
    gamma = bias(y, y_hat, mean)
    found = {"held_out_l0": l0} | ({"held_out_fvu": (error / variance).item()} if variance > 0 else {})
    return found | ({"gamma": gamma} if gamma == gamma else {})  # none where x̂ does not vary
