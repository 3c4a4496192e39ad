"""Optimisers and schedules. The trainer owns time; nothing here knows what a coder is beyond its parameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import cos, pi
from typing import Any

import torch
from torch import nn

from assay.shapes import Tensor
from assay.training.config import TrainConfig

MUON_LR = 0.2  # Muon's steps are then as long, entry for entry, as Adam's (Liu et al. 2025): one lr serves both


def adam(
    parameters: Iterable[nn.Parameter], lr: float, beta1: float, beta2: float = 0.999, eps: float = 1e-8
) -> torch.optim.Adam:
    """Adam in one fused pass over memory."""
    return torch.optim.Adam(list(parameters), lr=lr, betas=(beta1, beta2), eps=eps, fused=True)


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
                self.parts.append(adam(rest, cfg.lr, cfg.beta1, cfg.beta2, cfg.eps))

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none=True)

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


def lr_factor(step: int, steps: int, warm_up: float, decay: float, schedule: str = "linear") -> float:
    """Share of the full learning rate at `step` (from 0): linear warm-up over the first share, a fall to 0 over the last."""
    rise = (step + 1) / (warm_up * steps) if warm_up > 0 else 1.0
    left = min(1.0, (steps - step) / (decay * steps)) if decay > 0 else 1.0
    return min(1.0, rise) * (0.5 - 0.5 * cos(pi * left)) if schedule == "cosine" else min(1.0, rise, left)
