"""P-anneal: a ReLU coder whose penalty Σ f^p moves from p = 1 towards p = 0 during training (Karvonen et al. 2024, arXiv 2408.00113).

L1 is easy to optimise but shrinks; a small p costs large activations next to nothing and counts latents instead (γ near 1).
Whenever p changes, the weight is changed too, so that the penalty keeps its value. The `gated` architecture can be annealed as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from assay.coders import losses
from assay.coders.base import Batch, Code, CoderConfig, Step
from assay.coders.linear import LinearCoder
from assay.errors import BadInput
from assay.shapes import Float, Tensor

WINDOW = 10  # batches whose mean penalty stays the same when p changes
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
        if self.training:
            self._observe(f.detach(), fraction, tokens)
        return self.factor.to(f.dtype) * power_sum(f, self.p(int(self.stage))) / tokens

    @torch.no_grad()
    def _observe(self, f: Float[Tensor, ...], fraction: float, tokens: int) -> None:
        stage, slot = int(self.stage), int(self.seen) % WINDOW
        if stage == self.steps:
            return
        for row, p in enumerate((self.p(stage), self.p(stage + 1))):
            self.recent[row, slot] = power_sum(f, p) / tokens
        self.seen += 1
        if stage < self.due(fraction):
            now, then = self.recent.sum(1)  # unused slots are 0
            if now > 0 and then > 0:  # else nothing fired
                self.factor *= now / then
            self.recent.zero_()
            self.seen.zero_()
            self.stage += 1


def power_sum(f: Float[Tensor, ...], p: float) -> Float[Tensor, ""]:
    """Σ f^p, softened at 0."""
    return (f if p == 1.0 else ((f + SOFT).pow(p) - SOFT**p) * (f > 0)).sum()  # the mask: 0 costs exactly 0


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
