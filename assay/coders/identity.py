"""Identity: the model's own neurons (basis directions, both signs), the k largest kept. With every latent kept it is exact.

Two baselines in one. With `k` at a coder's L0 it is "residual neurons": what as many of the model's own coordinates achieve;
`assay.baselines` makes these, as identity-k32. Without `k` nothing is lost: L0 is d_in, loss recovered 1, and probes see the
activations themselves. That is the ceiling, and no rival at a sparse coder's L0; evals report it beside the coder anyway, as the clean
pass and as probes `on=activations`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from assay.coders.base import Batch, CoderConfig
from assay.coders.dictionary import FixedDictionary, signed
from assay.errors import BadInput
from assay.shapes import Float, Tensor

TAG = "baseline"


@dataclass(frozen=True, kw_only=True)
class IdentityConfig(CoderConfig):
    k: int | None = None
    """Latents kept per token, the largest; all of them when left out."""


class Identity(FixedDictionary[IdentityConfig]):
    Config = IdentityConfig

    def __init__(self, config: IdentityConfig, *, seed: int = 0):
        super().__init__(config, seed=seed)
        if config.d_sae != 2 * config.d_in:
            raise BadInput(f"Identity has two latents a neuron: d_sae must be 2·d_in = {2 * config.d_in}, got {config.d_sae}.")
        self.W_dec.copy_(signed(torch.eye(config.d_in)))

    def directions(self, batch: Batch) -> Float[Tensor, "d_sae d_in"]:
        return signed(torch.eye(self.d_in))
