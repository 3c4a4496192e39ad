"""Planted: an endless stream made from known sparse features, so that a coder can be compared with the truth.

The superposition toy T1: unit directions in random position, more of them than dimensions; feature i = 1, 2, … is active with
probability min(.08, .08 · (i/10)^-½), then with magnitude U(.5, 1.5); vectors scaled to E‖x‖² = 1. With 256 features 7.26 are
active on average.
"""

from __future__ import annotations

import numpy as np
import torch

from assay.activations.score import bias, recovery
from assay.activations.truth import PlantedSource, Stream
from assay.randomness import numpy_generator
from assay.shapes import Float, Tensor

__all__ = ["Planted", "bias", "recovery"]

LOW, HIGH = 0.5, 1.5


class Planted(PlantedSource):
    """`latents` sparse features in `d` dimensions. `directions` [latents, d] and `codes` are the truth."""

    kind = "planted"

    def __init__(self, d: int = 64, latents: int = 256, seed: int = 0):
        super().__init__(d, latents, seed)
        rows = numpy_generator("planted directions", seed).standard_normal((latents, d))
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        rank = np.arange(1, latents + 1)
        self.probabilities = np.minimum(0.08, 0.08 * (rank / 10) ** -0.5)
        mean = self.probabilities * (LOW + HIGH) / 2
        square = self.probabilities * (LOW**2 + LOW * HIGH + HIGH**2) / 3
        power = (square - mean**2).sum() + ((mean @ rows) ** 2).sum()  # E‖Σ zᵢdᵢ‖² of independent zᵢ
        self.scale = float(power**-0.5)
        """What magnitudes U(.5, 1.5) are multiplied by, so that E‖x‖² = 1."""
        self.directions: Float[Tensor, "latents d"] = torch.from_numpy(rows).float()

    def codes(self, size: int, seed: Stream, start: int = 0) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n latents"]]:
        random = numpy_generator("planted codes", self.seed, seed, start)
        active = random.random((size, self.latents), dtype=np.float32) < self.probabilities.astype(np.float32)
        z = np.zeros((size, self.latents), dtype=np.float32)
        z[active] = random.uniform(LOW * self.scale, HIGH * self.scale, size=int(active.sum()))
        codes = torch.from_numpy(z)
        return codes @ self.directions, codes
