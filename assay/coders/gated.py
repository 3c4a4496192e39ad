"""Gated: one question decides whether a latent fires, another how much (Rajamanoharan et al. 2024, arXiv 2404.16014).

The sparsity penalty acts on the gate alone, so magnitudes are not shrunk (γ = 1). The gate has no gradient through its step; it
learns from the penalty and from an auxiliary reconstruction with its positive part, which uses the decoder but cannot move it.
At inference this is a JumpReLU: pre-activations e^r_mag · (x − b_dec) @ W_enc + b_mag, thresholds b_mag − e^r_mag · b_enc.
With `p_end` below 1 the penalty is annealed as in p_anneal (Karvonen et al. 2024: gated p-anneal).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from assay.coders import losses
from assay.coders.base import Batch, Code, CoderConfig, Step
from assay.coders.jumprelu import JumpReLU
from assay.coders.linear import LinearCoder
from assay.coders.p_anneal import AnnealedPenalty
from assay.shapes import Float, Tensor


@dataclass(frozen=True, kw_only=True)
class GatedConfig(CoderConfig):
    l1: float = 0.3
    """Weight of the L1 penalty on the gate's positive part, for activations scaled to E‖x‖² = 1."""
    l1_warm_up: float = 0.1
    """Share of the training over which the penalty grows linearly from 0."""
    p_end: float = 1.0
    """Exponent of the penalty at the end of training, as in p-anneal; 1 leaves it at L1."""
    anneal_start: float = 0.2
    """Share of the training after which p begins to fall, where p_end is below 1."""
    anneal_steps: int = 10
    """Steps in which p falls, spread over the rest of the training."""
    decoder: Literal["unit", "free"] = "unit"
    """Decoder rows of norm 1; or of any norm (0.1 at the start), with the gate's positive part in the penalty multiplied by it."""


class Gated(LinearCoder[GatedConfig]):
    """W_enc and `b_enc` (b_gate in the paper) make the gate; r_mag and b_mag, [d_sae] each, turn its input into magnitudes."""

    Config = GatedConfig
    penalised = True

    def __init__(self, config: GatedConfig, *, seed: int = 0):
        super().__init__(config, seed=seed)
        losses.check_l1(config.l1, config.l1_warm_up)
        self.r_mag = nn.Parameter(torch.zeros(self.d_sae))
        self.b_mag = nn.Parameter(torch.zeros(self.d_sae))
        self.penalty = AnnealedPenalty(config.p_end, config.anneal_start, config.anneal_steps) if config.p_end != 1 else None

    def encode(self, x: Float[Tensor, "*n d_in"]) -> Code:
        gate = self.above(x, 0.0)
        gain, away, bias = (gate.spread(v) for v in (self.r_mag.exp(), self.b_enc, self.b_mag))
        latents = gate.map(lambda pre: (pre > 0) * (gain * (pre - away) + bias).relu())
        return Code(latents, self.b_dec, pre=gate.values if self.training else None)

    def loss(self, batch: Batch, code: Code, step: Step) -> Mapping[str, Tensor]:
        weight = self.config.l1 * losses.warm_up(step, self.config.l1_warm_up)
        gate = self.above(batch.x, 0.0) if code.pre is None else replace(code.latents, values=code.pre)
        f_gate = gate.map(torch.relu)
        y_gate = f_gate.decode(self.W_dec.detach()) + self.b_dec.detach()
        paid = self.weigh(f_gate)
        sparsity = self.penalty(paid, step.fraction, f_gate.count) if self.penalty else f_gate.total(paid)
        return {
            "mse": losses.mse(batch.y, self.decode(code)),
            "l1": weight * sparsity,
            "gate": losses.mse(batch.y, y_gate),
        }

    @torch.no_grad()
    def rescale(self, x_scale: float, y_scale: float) -> None:
        super().rescale(x_scale, y_scale)
        self.b_mag.div_(x_scale)

    @torch.no_grad()
    def folded(self) -> JumpReLU:
        """The JumpReLU coder that this is at inference. Thresholds below 0 mean that the magnitude alone decides."""
        gain = self.r_mag.exp()
        twin = JumpReLU.of(self, self.b_mag - gain * self.b_enc)
        twin.W_enc.mul_(gain)
        twin.b_enc.copy_(self.b_mag)
        if self.free:
            twin.absorb_norms()
        return twin
