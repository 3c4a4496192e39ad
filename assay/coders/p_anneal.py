"""P-anneal: a ReLU coder whose penalty Σ f^p moves from p = 1 towards p = 0 during training (Karvonen et al. 2024, arXiv 2408.00113).

L1 is easy to optimise but shrinks; a small p costs large activations next to nothing and counts latents instead (γ near 1).
Whenever p changes, the weight is changed too, so that the penalty keeps its value. The `gated` architecture can be annealed as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from assay.coders import losses
from assay.coders.base import Batch, Code, CoderConfig, Step
from assay.coders.linear import LinearCoder
from assay.errors import BadInput
from assay.shapes import Float, Tensor

WINDOW = 10  # batches whose mean penalty stays the same when p changes
PIECE = 2**18  # activations whose powers are taken at once on a CPU
SOFT = 1e-3  # f^p is (f + SOFT)^p − SOFT^p: the slope at 0 stays finite


class AnnealedPenalty(nn.Module):
    """Σ f^p of each token, averaged, times a factor that starts at 1 and keeps the value where p changes.

    p is 1 up to the share `start` of training, then takes `steps` equal steps to `p_end`, at equal distances; the last step lasts
    to the end. All state is in buffers: a resumed training goes on exactly.
    """

    stage: Tensor
    factor: Tensor
    recent: Tensor
    seen: Tensor

    def __init__(self, p_end: float, start: float, steps: int):
        super().__init__()
        if not 0 < p_end <= 1 or not 0 <= start < 1 or steps < 1:
            raise BadInput(
                "Annealing needs 0 < p_end ≤ 1, anneal_start from 0 to below 1, and at least 1 of anneal_steps; "
                f"got {p_end}, {start} and {steps}."
            )
        self.p_end, self.start, self.steps = p_end, start, steps
        self.register_buffer("stage", torch.zeros((), dtype=torch.int64))  # steps taken
        self.register_buffer("factor", torch.ones((), dtype=torch.float64))
        self.register_buffer("recent", torch.zeros(2, WINDOW, dtype=torch.float64))  # Σ f^p of batches: this p, the next p
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))  # batches since the last step

    def p(self, stage: int) -> float:
        """The exponent after `stage` steps."""
        return 1.0 - (1.0 - self.p_end) * min(stage, self.steps) / self.steps

    def due(self, fraction: float) -> int:
        """Steps that should be taken when `fraction` of the training is done."""
        if fraction < self.start:
            return 0
        return min(self.steps, 1 + int((fraction - self.start) / (1.0 - self.start) * self.steps))

    def forward(self, f: Float[Tensor, ...], fraction: float, tokens: int | None = None) -> Float[Tensor, ""]:
        """The penalty of non-negative activations f: [n, d_sae], or, where zeros are left out, [nnz] of so many tokens.

        In training mode p moves on when it is due, by one step a batch at most.
        """
        tokens = len(f) if tokens is None else tokens
        stage = int(self.stage)
        if not self.training or stage == self.steps:
            return self.factor.to(f.dtype) * power_sum(f, self.p(stage)) / tokens
        moves = stage < self.due(fraction)  # then this batch already pays the next penalty
        paid, other = PowerSums.apply(f, self.p(stage + moves), self.p(stage + (not moves)))
        now, then = (other, paid.detach()) if moves else (paid.detach(), other)
        self._observe(now / tokens, then / tokens, moves)
        return self.factor.to(f.dtype) * paid / tokens

    def _observe(self, now: Float[Tensor, ""], then: Float[Tensor, ""], moves: bool) -> None:
        """Note the penalty of a batch under this p and the next, and go on to that one."""
        self.recent[:, int(self.seen) % WINDOW] = torch.stack([now, then])
        self.seen += 1
        if moves:
            before, after = self.recent.sum(1)  # unused slots are 0
            if before > 0 and after > 0:  # else nothing fired
                self.factor *= before / after
            self.recent.zero_()
            self.seen.zero_()
            self.stage += 1


def power_sum(f: Float[Tensor, ...], p: float) -> Float[Tensor, ""]:
    """Σ f^p, softened at 0."""
    return PowerSums.apply(f, p, p)[0]


class PowerSums(torch.autograd.Function):
    """Σ f^p and, without a gradient, Σ f^q. One logarithm serves both and the gradient too, piece by piece while it is in cache."""

    @staticmethod
    def forward(ctx: Any, f: Float[Tensor, ...], p: float, q: float) -> tuple[Tensor, Tensor]:
        slope, sums = f.new_empty(f.shape), f.new_zeros(2, dtype=torch.float64)
        whole = f.numel() if f.is_cuda else PIECE
        for part, gradient in zip(f.reshape(-1).split(whole or 1), slope.view(-1).split(whole or 1)):
            soft, live = part + SOFT, part > 0  # what is not live costs exactly 0
            logarithm = soft.log()
            for i, power in enumerate((p, q)):
                if power == 1.0:
                    sums[i] += part.sum()
                    if i == 0:
                        gradient.fill_(1.0)
                elif i == 1 and p == q:
                    sums[i] = sums[0]
                else:
                    raised = (logarithm * power).exp_()
                    if i == 0:
                        torch.div(raised, soft, out=gradient).mul_(live).mul_(power)
                    sums[i] += raised.sub_(SOFT**power).mul_(live).sum()
        ctx.save_for_backward(slope)
        now, then = sums.to(f.dtype)
        ctx.mark_non_differentiable(then)
        return now, then

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return slope * grads[0], None, None


@dataclass(frozen=True, kw_only=True)
class PAnnealConfig(CoderConfig):
    l1: float = 0.1
    """Weight of the penalty while p = 1, for activations scaled to E‖x‖² = 1."""
    l1_warm_up: float = 0.1
    """Share of the training over which the penalty grows linearly from 0."""
    p_end: float = 0.2
    """Exponent at the end of training."""
    anneal_start: float = 0.2
    """Share of the training after which p begins to fall."""
    anneal_steps: int = 10
    """Steps in which p falls, spread over the rest of the training."""
    start_norm: float | None = None
    """Length of W_enc's columns at the start; 1 when left out."""


class PAnneal(LinearCoder[PAnnealConfig]):
    Config = PAnnealConfig
    penalised = True

    def __init__(self, config: PAnnealConfig, *, seed: int = 0):
        super().__init__(config, seed=seed)
        losses.check_l1(config.l1, config.l1_warm_up)
        self.penalty = AnnealedPenalty(config.p_end, config.anneal_start, config.anneal_steps)

    def encode(self, x: Float[Tensor, "*n d_in"]) -> Code:
        return Code(self.above(x, 0.0).map(torch.relu), self.b_dec)

    def loss(self, batch: Batch, code: Code, step: Step) -> Mapping[str, Tensor]:
        weight = self.config.l1 * losses.warm_up(step, self.config.l1_warm_up)
        return {
            "mse": losses.mse(batch.y, self.decode(code)),
            "lp": weight * self.penalty(code.latents.values, step.fraction, code.latents.count),
        }
