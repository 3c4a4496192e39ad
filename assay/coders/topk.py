"""TopK: keep the k largest latents of each token (Gao et al. 2024, arXiv 2406.04093).

There is no sparsity penalty to tune: L0 is exactly k. Dead latents are revived by AuxK: the largest dead latents learn to
reconstruct what the others missed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from assay.coders import losses
from assay.coders.base import Batch, Code, CoderConfig, Step
from assay.coders.linear import LinearCoder, check_topk, rows_topk
from assay.shapes import Float, Tensor


@dataclass(frozen=True, kw_only=True)
class TopKConfig(CoderConfig):
    k: int = 32
    """Latents kept per token."""
    aux_weight: float = 0.03125
    """Weight of the AuxK loss that revives dead latents; 0 turns it off. The paper uses 1/32."""
    k_aux: int | None = None
    """Dead latents that may help at once; half the width of the input when left out."""


class TopK(LinearCoder[TopKConfig]):
    Config = TopKConfig

    def __init__(self, config: TopKConfig, *, seed: int = 0):
        super().__init__(config, seed=seed)
        check_topk(config)

    def encode(self, x: Float[Tensor, "*n d_in"]) -> Code:
        return self.encode_selected(x, lambda pre: rows_topk(pre, self.config.k))

    def loss(self, batch: Batch, code: Code, step: Step) -> Mapping[str, Tensor]:
        y_hat = self.decode(code)
        terms = {"mse": losses.mse(batch.y, y_hat)}
        if self.config.aux_weight:
            terms["aux_k"] = self.config.aux_weight * losses.aux_k(self, batch, y_hat, step.dead, self.config.k_aux)
        return terms
