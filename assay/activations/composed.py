"""Composed: rows of a decoder that are made of fewer atoms, the truth for meta-SAEs.

The toy T6 (after Leask et al. 2025, arXiv 2502.04878): a latent's direction may itself be a sum of more basic directions, which an
SAE trained on decoder rows ("meta-SAE") should find.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from assay.activations.truth import PlantedSource, Stream
from assay.errors import BadInput
from assay.randomness import numpy_generator
from assay.shapes import Float, Tensor


class Composed(PlantedSource):
    """Unit vectors, each the normalised sum of `parts` of `latents` atoms; atoms are unit vectors in random position.

    An endless stream of such rows; `codes(n, "decoder")` is one decoder of n rows, and what each row is made of.
    """

    kind = "composed"

    def __init__(self, d: int = 64, latents: int = 96, parts: int = 4, seed: int = 0):
        super().__init__(d, latents, seed)
        if not 1 <= parts <= latents:
            raise BadInput(f"Rows have between 1 and {latents} parts, got {parts}.")
        self.parts = parts
        atoms = numpy_generator("composed directions", seed).standard_normal((latents, d))
        self.directions = torch.from_numpy(atoms / np.linalg.norm(atoms, axis=1, keepdims=True)).float()

    def codes(self, size: int, seed: Stream, start: int = 0) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n latents"]]:
        random = numpy_generator("composed codes", self.seed, seed, start)
        chosen = random.random((size, self.latents), dtype=np.float32).argpartition(self.parts - 1, axis=1)[:, : self.parts]
        z = torch.zeros(size, self.latents).scatter(1, torch.from_numpy(chosen), 1.0)
        z /= (z @ self.directions).norm(dim=1, keepdim=True)
        return z @ self.directions, z

    def settings(self) -> dict[str, Any]:
        return {"parts": self.parts}
