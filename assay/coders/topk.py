"""TopK: keep the k largest latents of each token (Gao et al. 2024, arXiv 2406.04093).

There is no sparsity penalty to tune: L0 is exactly k. Dead latents are revived by AuxK: the largest dead latents learn to
reconstruct what the others missed. With one k alone a coder is good at that k only; Multi-TopK (`multi`) lets more latents be
kept later. `anneal_k` starts with many.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from assay.coders import losses
from assay.coders.base import Batch, Code, CoderConfig, SparseCoder, Step
from assay.coders.linear import LinearCoder, check_topk, k_now
from assay.errors import BadInput
from assay.shapes import Float, Tensor


@dataclass(frozen=True, kw_only=True)
class TopKConfig(CoderConfig):
    k: int = 32
    """Latents kept per token."""
    aux_weight: float = 0.03125
    """Weight of the AuxK loss that revives dead latents; 0 turns it off. The paper uses 1/32."""
    k_aux: int | None = None
    """Dead latents that may help at once; half the width of the input when left out."""
    aux: Literal["relative", "absolute"] = "relative"
    """AuxK over the variance of the error, as in the paper; or as it is, times dead latents / k_aux up to 1, as in SAELens."""
    anneal_k: float = 0.0
    """Share of the training over which k falls linearly from `k_start`; 0 keeps it."""
    k_start: int | None = None
    """Where k starts when it is annealed; the width of the input when left out."""
    multi: float = 0.0
    """Weight of Multi-TopK, a second reconstruction error with 4k latents; the paper uses 1/8. 0 turns it off."""
    error: Literal["sum", "fvu"] = "sum"
    """Squared errors summed over the width; or those over the batch's variance, so that AuxK weighs the same at any scale."""
    decoder: Literal["unit", "free"] = "unit"
    """Decoder rows of norm 1; or of any norm (0.1 at the start), by which latents are then weighed when the largest are kept."""


class TopK(LinearCoder[TopKConfig]):
    Config = TopKConfig

    def __init__(self, config: TopKConfig, *, seed: int = 0):
        super().__init__(config, seed=seed)
        check_topk(config)
        if not 0 <= config.multi < float("inf") or config.error not in ("sum", "fvu"):
            raise BadInput(f"multi must be 0 or more and error 'sum' or 'fvu', got {config.multi} and {config.error!r}.")

    def encode(self, x: Float[Tensor, "*n d_in"]) -> Code:
        return self._encode(x, k_now(self))

    def _encode(self, x: Float[Tensor, "*n d_in"], k: int) -> Code:
        return self.encode_chosen(x, lambda product: product.rows_topk(min(k, self.d_sae)))

    def loss(self, batch: Batch, code: Code, step: Step) -> Mapping[str, Tensor]:
        cfg, y_hat = self.config, self.decode(code)
        unit = losses.variance(batch.y) if cfg.error == "fvu" else 1.0
        terms = {"mse": losses.mse(batch.y, y_hat) / unit}
        if cfg.multi:
            terms["multi"] = cfg.multi * losses.mse(batch.y, self.decode(self._encode(batch.x, 4 * k_now(self)))) / unit
        if cfg.aux_weight:
            terms["aux_k"] = cfg.aux_weight * losses.aux_k(self, batch, y_hat, step.dead, cfg.k_aux, cfg.aux)
        return terms

    def folded(self) -> SparseCoder[Any]:
        """With decoder rows of norm 1: their lengths go into the encoder, and so into the latents."""
        return self.with_unit_rows() if self.free else self
