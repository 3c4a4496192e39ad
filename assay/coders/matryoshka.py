"""Matryoshka: BatchTopK whose first latents must reconstruct alone (Bussmann et al. 2025, arXiv 2503.17547; Nabeshima 2024).

The loss is the mean error of nested reconstructions, each from the first m latents. Early latents therefore learn what is general
and keep it when a later, more special latent fires too: less absorption and splitting, at a somewhat higher error. Activations are
chosen once, over all latents, and inference is BatchTopK's. AuxK learns from the error of the whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import ceil
from typing import Literal

import torch

from assay.coders import losses
from assay.coders.base import Batch, Code, CoderConfig, Step
from assay.coders.batch_topk import BatchTopK, BatchTopKConfig
from assay.errors import BadInput
from assay.randomness import generator
from assay.shapes import Float, Tensor


@dataclass(frozen=True, kw_only=True)
class MatryoshkaConfig(BatchTopKConfig, CoderConfig):  # BatchTopK's fields stand here again: the registry reads this file alone
    k: int = 32
    """Latents kept per token, on average over a batch."""
    prefixes: Literal["fixed", "sampled"] = "fixed"
    """Nested reconstructions from `fractions` of the latents, or from lengths drawn anew each step (Nabeshima)."""
    fractions: str = "1/32,3/32,7/32,15/32,1"
    """Prefixes, when fixed: shares of the latents, rising, the last 1. The default is SAEBench's groups of 1/32, 1/16, 1/8, …"""
    levels: Literal["mean", "sum"] = "mean"
    """What is made of the errors of the nested reconstructions."""
    sampled: int = 10
    """Prefixes a step, when sampled; one of them is the whole. Equal draws count once."""
    sampled_power: float = 0.5
    """When sampled, P(length ≤ m) = (m / d_sae) to this power: below 1 favours short prefixes, 1 is uniform."""
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


class Matryoshka(BatchTopK):
    Config = MatryoshkaConfig
    config: MatryoshkaConfig
    draws: Tensor

    def __init__(self, config: MatryoshkaConfig, *, seed: int = 0):
        super().__init__(config, seed=seed)
        if config.prefixes not in ("fixed", "sampled"):
            raise BadInput(f"prefixes must be 'fixed' or 'sampled', got {config.prefixes!r}.")
        if config.levels not in ("mean", "sum"):
            raise BadInput(f"levels must be 'mean' or 'sum', got {config.levels!r}.")
        if config.sampled < 1 or not config.sampled_power > 0:
            raise BadInput(f"sampled must be ≥ 1 and sampled_power > 0, got {config.sampled} and {config.sampled_power}.")
        self.fixed = prefix_lengths(config.fractions, config.d_sae)
        self.register_buffer("draws", torch.zeros((), dtype=torch.int64))  # which draw comes next: kept by checkpoints

    def next_prefixes(self) -> list[int]:
        """Lengths of this step's prefixes, rising, the last d_sae. The n-th draw depends on the seed and n alone."""
        if self.config.prefixes == "fixed":
            return self.fixed
        random = generator("matryoshka prefixes", self.seed, int(self.draws))
        self.draws += 1
        shares = torch.rand(self.config.sampled - 1, generator=random, dtype=torch.float64) ** (1 / self.config.sampled_power)
        return sorted({max(1, ceil(s * self.d_sae)) for s in shares.tolist()} | {self.d_sae})

    def reconstructions(self, code: Code, prefixes: list[int]) -> Iterator[Float[Tensor, "*n d_out"]]:
        """Reconstructions from each prefix, shortest first. Every group between two prefixes is decoded once: O(nnz · d) in all."""
        sizes = [high - low for low, high in zip([0, *prefixes], prefixes)]
        y_hat = code.base
        for latents, rows in zip(code.latents.split(sizes), self.W_dec.split(sizes)):
            y_hat = y_hat + latents.decode(rows)
            yield y_hat

    def loss(self, batch: Batch, code: Code, step: Step) -> Mapping[str, Tensor]:
        self._track_threshold(code)
        nested = list(self.reconstructions(code, self.next_prefixes()))
        errors = torch.stack([losses.mse(batch.y, y_hat) for y_hat in nested])
        terms = {"mse": errors.sum() if self.config.levels == "sum" else errors.mean()}
        if self.config.aux_weight:
            terms["aux_k"] = self.config.aux_weight * self._aux_k(batch, nested[-1], step)
        return terms


def prefix_lengths(fractions: str, d_sae: int) -> list[int]:
    """Lengths that "1/4,1/2,1" or "0.25,0.5,1" stand for, at least 1 each. Those that round to the same count once."""
    try:
        shares = [
            Fraction(part.strip()) for part in fractions.lower().replace("e", "?").split(",")
        ]  # 1e-9999999 would take for ever
    except (ValueError, ZeroDivisionError):
        raise BadInput(f'fractions must read like "1/4,1/2,1", got {fractions!r}.') from None
    if shares[0] <= 0 or shares[-1] != 1 or any(a >= b for a, b in pairwise(shares)):
        raise BadInput(f"fractions must be above 0, rise, and end in 1; got {fractions!r}.")
    return sorted({max(1, round(share * d_sae)) for share in shares})
