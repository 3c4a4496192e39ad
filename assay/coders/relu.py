"""ReLU: a sparse autoencoder with an L1 penalty and unit-norm decoder rows (Bricken et al. 2023; Cunningham et al. 2023).

The oldest architecture and the baseline of the others. The penalty shrinks activations (γ < 1), and its weight sets L0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from assay.coders import losses
from assay.coders.base import Batch, Code, CoderConfig, Step
from assay.coders.latents import Latents
from assay.coders.linear import LinearCoder
from assay.errors import BadInput
from assay.shapes import Float, Tensor


@dataclass(frozen=True, kw_only=True)
class ReLUConfig(CoderConfig):
    l1: float = 0.1
    """Weight of the L1 penalty, for activations scaled to E‖x‖² = 1."""
    l1_warm_up: float = 0.1
    """Share of the training over which the penalty grows linearly from 0."""


class ReLU(LinearCoder[ReLUConfig]):
    Config = ReLUConfig

    def __init__(self, config: ReLUConfig, *, seed: int = 0):
        super().__init__(config, seed=seed)
        if config.l1 < 0 or not 0 <= config.l1_warm_up <= 1:
            raise BadInput(f"l1 must be ≥ 0 and l1_warm_up between 0 and 1, got {config.l1} and {config.l1_warm_up}.")

    def encode(self, x: Float[Tensor, "*n d_in"]) -> Code:
        return Code(Latents.from_dense(self.pre_activations(x).relu()), self.b_dec)

    def loss(self, batch: Batch, code: Code, step: Step) -> Mapping[str, Tensor]:
        weight = self.config.l1 * min(1.0, step.fraction / self.config.l1_warm_up if self.config.l1_warm_up else 1.0)
        return {
            "mse": losses.mse(batch.y, self.decode(code)),
            "l1": weight * code.latents.values.sum(-1).mean(),
        }
