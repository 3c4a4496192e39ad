"""Optimisers and schedules. The trainer owns time; nothing here knows what a coder is beyond its parameters."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn


def adam(parameters: Iterable[nn.Parameter], lr: float, beta1: float) -> torch.optim.Adam:
    """Adam with β2 = .999, in one fused pass over memory."""
    return torch.optim.Adam(list(parameters), lr=lr, betas=(beta1, 0.999), eps=1e-8, fused=True)


def lr_factor(step: int, steps: int, warm_up: float, decay: float) -> float:
    """Share of the full learning rate at `step` (from 0): linear warm-up over the first, linear decay over the last share."""
    rise = (step + 1) / (warm_up * steps) if warm_up > 0 else 1.0
    fall = (steps - step) / (decay * steps) if decay > 0 else 1.0
    return min(1.0, rise, fall)
