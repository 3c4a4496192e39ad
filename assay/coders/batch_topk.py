"""BatchTopK: keep the n·k largest latents of a batch of n tokens (Bussmann et al. 2024, arXiv 2412.06410).

Tokens may use more or fewer than k latents. At inference a single threshold takes the place of the batch: the mean, over the
latest training batches, of the smallest activation kept. It is estimated without start-up bias, so that even the first save is right.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from assay.coders import losses
from assay.coders.base import Batch, Code, CoderConfig, SparseCoder, Step
from assay.coders.linear import LinearCoder, check_topk, k_now
from assay.shapes import Float, Tensor


@dataclass(frozen=True, kw_only=True)
class BatchTopKConfig(CoderConfig):
    k: int = 32
    """Latents kept per token, on average over a batch."""
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
    decoder: Literal["unit", "free"] = "unit"
    """Decoder rows of norm 1; or of any norm (0.1 at the start), by which latents are then weighed when the largest are kept."""
    threshold_window: int = 25
    """Batches over which the inference threshold is averaged."""


class BatchTopK(LinearCoder[BatchTopKConfig]):
    Config = BatchTopKConfig
    threshold: Tensor
    threshold_batches: Tensor

    def __init__(self, config: BatchTopKConfig, *, seed: int = 0):
        super().__init__(config, seed=seed)
        check_topk(config)
        self.register_buffer("threshold", torch.zeros((), dtype=torch.float64))
        self.register_buffer("threshold_batches", torch.zeros((), dtype=torch.int64))

    def encode(self, x: Float[Tensor, "*n d_in"]) -> Code:
        if self.training:
            return self.encode_chosen(x, lambda product: product.largest(len(product.x) * k_now(self)))
        return self.encode_chosen(x, lambda product: product.above(self.threshold.to(x.dtype)))

    @torch.no_grad()
    def _track_threshold(self, code: Code) -> None:
        """Mean of the smallest kept activation: exact over the first batches, then exponential with the same window."""
        kept = code.latents.values
        if self.free:
            assert code.latents.indices is not None
            kept = kept * self.W_dec.norm(dim=1)[code.latents.indices]
        if not len(kept):
            return
        least = torch.where(kept > 0, kept, torch.inf).min().double()
        there = least.isfinite()  # some activation was positive; asked on the device, so that nothing waits
        self.threshold_batches += there
        share = 1.0 / self.threshold_batches.double().clamp(1, self.config.threshold_window)
        self.threshold += torch.where(there, share * (least - self.threshold), 0.0)

    def loss(self, batch: Batch, code: Code, step: Step) -> Mapping[str, Tensor]:
        self._track_threshold(code)
        y_hat = self.decode(code)
        terms = {"mse": losses.mse(batch.y, y_hat)}
        if self.config.aux_weight:
            terms["aux_k"] = self.config.aux_weight * self._aux_k(batch, y_hat, step)
        return terms

    def _aux_k(self, batch: Batch, y_hat: Tensor, step: Step) -> Tensor:
        return losses.aux_k(self, batch, y_hat, step.dead, self.config.k_aux, self.config.aux)

    @torch.no_grad()
    def rescale(self, x_scale: float, y_scale: float) -> None:
        super().rescale(x_scale, y_scale)
        self.threshold.div_(y_scale if self.free else x_scale)

    def folded(self) -> SparseCoder[Any]:
        """A JumpReLU coder with the same threshold for every latent: what this coder is at inference."""
        from assay.coders.jumprelu import JumpReLU  # which imports this module

        if not self.free:
            return JumpReLU.of(self, self.threshold)
        twin = JumpReLU.of(self, self.threshold / self.W_dec.norm(dim=1))
        twin.absorb_norms()
        return twin
