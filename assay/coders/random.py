"""Random: unit directions drawn at random, the k largest kept, one least-squares gain. What no learning at all achieves."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from assay.coders.base import Batch, CoderConfig
from assay.coders.dictionary import FixedDictionary
from assay.coders.linear import unit_rows
from assay.randomness import generator
from assay.shapes import Float, Tensor

TAG = "baseline"


@dataclass(frozen=True, kw_only=True)
class RandomConfig(CoderConfig):
    k: int | None = None
    """Latents kept per token, the largest; all of them when left out."""


class Random(FixedDictionary[RandomConfig]):
    Config = RandomConfig

    def directions(self, batch: Batch) -> Float[Tensor, "d_sae d_in"]:
        return unit_rows(torch.randn(self.d_sae, self.d_in, generator=generator("coder", "Random", self.seed)))

    @torch.no_grad()
    def initialise(self, batch: Batch) -> None:
        super().initialise(batch)
        # Random directions overlap, so their sum overshoots; the best single gain keeps the comparison fair.
        guess, target = self(batch.x) - self.b_dec, batch.x - self.b_dec
        self.gain.copy_((guess * target).sum() / guess.square().sum().clamp_min(1e-12))
