"""ReLU: a sparse autoencoder with an L1 penalty and unit-norm decoder rows (Bricken et al. 2023; Cunningham et al. 2023).

The oldest architecture and the baseline of the others. The penalty shrinks activations (γ < 1), and its weight sets L0.
Two later forms are settings: decoder="free" leaves decoder rows their length and weighs each latent's penalty with it
(Anthropic, April 2024 update); penalty="tanh" saturates, so that large activations are shrunk less (Anthropic, February 2024).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from assay.coders import losses
from assay.coders.base import Batch, Code, CoderConfig, SparseCoder, Step
from assay.coders.latents import Latents
from assay.coders.linear import LinearCoder
from assay.errors import BadInput
from assay.shapes import Float, Tensor


@dataclass(frozen=True, kw_only=True)
class ReLUConfig(CoderConfig):
    l1: float = 0.1
    """Weight of the penalty, for activations scaled to E‖x‖² = 1."""
    l1_warm_up: float = 0.1
    """Share of the training over which the penalty grows linearly from 0."""
    penalty: Literal["l1", "tanh"] = "l1"
    """What a latent of activation f costs: f, or tanh(f · tanh_slope)."""
    tanh_slope: float = 5.0
    """How steeply the tanh penalty rises at 0, for activations scaled to E‖x‖² = 1."""
    decoder: Literal["unit", "free"] = "unit"
    """Decoder rows of norm 1, or of any norm (0.1 at the start), with f in the penalty multiplied by it."""
    start_norm: float | None = None
    """Length of W_enc's columns at the start; that of decoder rows when left out."""
    centred: bool = True
    """Whether b_dec is taken off the input."""


class ReLU(LinearCoder[ReLUConfig]):
    Config = ReLUConfig
    penalised = True

    def __init__(self, config: ReLUConfig, *, seed: int = 0):
        super().__init__(config, seed=seed)
        losses.check_l1(config.l1, config.l1_warm_up)
        if config.penalty not in ("l1", "tanh"):
            raise BadInput(f"penalty must be 'l1' or 'tanh', got {config.penalty!r}.")
        if not config.tanh_slope > 0:
            raise BadInput(f"tanh_slope must be positive, got {config.tanh_slope}.")

    def encode(self, x: Float[Tensor, "*n d_in"]) -> Code:
        return Code(self.above(x, 0.0).map(torch.relu), self.b_dec)

    def loss(self, batch: Batch, code: Code, step: Step) -> Mapping[str, Tensor]:
        weight = self.config.l1 * losses.warm_up(step, self.config.l1_warm_up)
        return {
            "mse": losses.mse(batch.y, self.decode(code)),
            self.config.penalty: weight * code.latents.total(self._cost(code.latents)),
        }

    def _cost(self, latents: Latents) -> Tensor:
        """What each value adds to the penalty."""
        f = self.weigh(latents)
        return (f * self.config.tanh_slope).tanh() if self.config.penalty == "tanh" else f

    def folded(self) -> SparseCoder[Any]:
        """With decoder rows of norm 1: their lengths go into the encoder, and so into the latents."""
        return self.with_unit_rows() if self.free else self
