"""Optimisers and schedules. The trainer owns time; nothing here knows what a coder is beyond its parameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import cos, pi
from typing import Any

import torch
from torch import nn
from torch.optim.adam import adam

from assay.shapes import Tensor
from assay.training.config import TrainConfig

MUON_LR = 0.2  # Muon's steps are then as long, entry for entry, as Adam's (Liu et al. 2025): one lr serves both


class Adam(torch.optim.Optimizer):
    """Adam (Kingma & Ba 2015) by torch's fused kernel: one pass over memory, also for matrices that lie transposed in it."""

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8
    ):
        super().__init__(list(parameters), {"lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            learning = [p for p in group["params"] if p.grad is not None]
            for p in learning:
                if not self.state[p]:
                    start = torch.zeros((), dtype=torch.float32, device=p.device)
                    self.state[p] |= {"step": start, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
            states = [self.state[p] for p in learning]
            adam(
                [_lying(p) for p in learning], [_lying(p.grad, p) for p in learning],  # type: ignore[arg-type]
                [_lying(s["exp_avg"]) for s in states], [_lying(s["exp_avg_sq"]) for s in states], [], [s["step"] for s in states],
                fused=True, amsgrad=False, maximize=False, weight_decay=0.0, lr=group["lr"], eps=group["eps"],
                beta1=group["beta1"], beta2=group["beta2"],
            )  # fmt: skip


def _lying(t: Tensor, like: Tensor | None = None) -> Tensor:
    """A view whose entries are in the order of memory: the kernel copies what is not contiguous. `like`: in that one's order."""
    if like is not None and t.stride() != like.stride():
        t = torch.empty_like(like).copy_(t)
    return t if t.is_contiguous() else t.t()


class Signum(torch.optim.Optimizer):
    """Steps of ± lr by the sign of averaged gradients (Bernstein et al. 2018, arXiv 1802.04434)."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, momentum: float):
        super().__init__(list(parameters), {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                average = self.state[p].setdefault("exp_avg", torch.zeros_like(p))
                average.lerp_(p.grad, 1 - group["momentum"])
                p.add_(average.sign(), alpha=-group["lr"])


class Optimiser:
    """One or two torch optimisers over the parameters of a coder, as one."""

    def __init__(self, parameters: list[nn.Parameter], cfg: TrainConfig):
        self.parameters = parameters
        matrices = [p for p in parameters if p.ndim == 2]
        rest = parameters
        self.parts: list[torch.optim.Optimizer] = []
        if cfg.optimiser == "signum":
            self.parts.append(Signum(parameters, cfg.lr, cfg.beta1))
        else:
            if cfg.optimiser == "muon" and matrices:
                self.parts.append(
                    torch.optim.Muon(matrices, lr=cfg.lr, momentum=cfg.beta1, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
                )
                rest = [p for p in parameters if p.ndim != 2]
            if rest:
                self.parts.append(Adam(rest, cfg.lr, cfg.beta1, cfg.beta2, cfg.eps))

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    @torch.no_grad()
    def clip(self, most: float) -> Tensor:
        """Bring the norm of all gradients down to `most` where it is larger (0: leave it); gives the norm there was."""
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        if most and (norm.is_cuda or norm > most):  # a pass over memory saved; on a GPU asking would cost more
            torch.nn.utils.clip_grads_with_norm_(self.parameters, most, norm)
        return norm

    def step(self, lr: float) -> None:
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = lr
            part.step()

    def state(self, parameter: nn.Parameter) -> dict[str, Any]:
        """What is remembered of a parameter: its moments."""
        return next(part.state[parameter] for part in self.parts if parameter in part.state) if self.has(parameter) else {}

    def has(self, parameter: nn.Parameter) -> bool:
        """Whether anything is remembered of a parameter."""
        return any(parameter in part.state for part in self.parts)

    def tensors(self) -> dict[str, Tensor]:
        """All state, by name."""
        return {f"{n}.{i}.{k}": torch.as_tensor(v) for n, i, state in self._states() for k, v in state.items()}

    def _states(self) -> Iterator[tuple[int, int, dict[str, Any]]]:
        for n, part in enumerate(self.parts):
            for i, state in part.state_dict()["state"].items():
                yield n, i, state

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take up what `tensors` gave."""
        states: list[dict[int, dict[str, Tensor]]] = [{} for _ in self.parts]
        for key, value in tensors.items():
            n, i, name = key.split(".")
            states[int(n)].setdefault(int(i), {})[name] = value
        for part, state in zip(self.parts, states):
            part.load_state_dict(part.state_dict() | {"state": state})
        for p in self.parameters:  # as the parameter lies in memory: a fused step goes through all of them side by side
            for name, value in self.state(p).items():
                alike = isinstance(value, Tensor) and value.shape == p.shape
                self.state(p)[name] = torch.empty_like(p).copy_(value) if alike else value.to(p.device)


def lr_factor(step: int, steps: int, warm_up: float, decay: float, schedule: str = "linear") -> float:
    """Share of the full learning rate at `step` (from 0): linear warm-up over the first share, a fall to 0 over the last."""
    rise = (step + 1) / (warm_up * steps) if warm_up > 0 else 1.0
    left = min(1.0, (steps - step) / (decay * steps)) if decay > 0 else 1.0
    return min(1.0, rise) * (0.5 - 0.5 * cos(pi * left)) if schedule == "cosine" else min(1.0, rise, left)
