"""ToyModel: hidden activations of a small trained network that keeps more features than it has dimensions.

The toy T3, the ReLU-output model of Elhage et al. 2022 ("Toy Models of Superposition"): features in [0, 1], each present with
probability 1 − sparsity, go through h = W x to x̂ = relu(Wᵀh + b), trained on Σ importanceᵢ (xᵢ − x̂ᵢ)² with importanceᵢ = .9^i.
Unlike in a planted dictionary, where the directions lie is the network's own choice: pairs of opposites, triangles, pentagons.
"""

from __future__ import annotations

from typing import Any

import torch

from assay.activations.truth import PlantedSource, Stream
from assay.errors import BadInput
from assay.randomness import generator
from assay.shapes import Float, Int, Tensor

STEPS, BATCH, LR = 2000, 256, 1e-2
KEPT = 0.3
"""Columns of W end near length 1 or near 0: the network represents a feature or lets it go. Those below are cut off."""


class ToyModel(PlantedSource):
    """h = W x of a network trained here, in about a second. Its truth are the features it represents, `features` of `n`.

    `W` is [n, d], a row a feature, 0 where it was let go; `directions` are its unit rows, and true codes are xᵢ‖wᵢ‖.
    """

    kind = "toy model"

    def __init__(self, d: int = 5, n: int = 20, seed: int = 0, sparsity: float = 0.9, decay: float = 0.9):
        if not (0 <= sparsity < 1 and 0 < decay <= 1 and n >= 1 and d >= 1):
            raise BadInput(
                f"A toy model needs d ≥ 1, n ≥ 1, sparsity in [0, 1) and decay in (0, 1]; got {d}, {n}, {sparsity}, {decay}."
            )
        self.n, self.sparsity, self.decay = n, sparsity, decay
        W = _trained(d, n, seed, sparsity, decay)
        length = W.norm(dim=1)
        self.W: Float[Tensor, "n d"] = W * (length > KEPT)[:, None]
        self.features: Int[Tensor, " latents"] = (length > KEPT).nonzero().flatten()
        super().__init__(d, len(self.features), seed)
        self.lengths: Float[Tensor, " latents"] = length[self.features]
        self.directions = self.W[self.features] / self.lengths[:, None]

    def codes(self, size: int, seed: Stream, start: int = 0) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n latents"]]:
        random = generator("toy model codes", self.seed, seed, start)
        z = _features(size, self.latents, self.sparsity, random).float() * self.lengths
        return z @ self.directions, z

    def settings(self) -> dict[str, Any]:
        return {"n": self.n, "sparsity": self.sparsity, "decay": self.decay}


def _features(size: int, n: int, sparsity: float, random: torch.Generator) -> Float[Tensor, "size n"]:
    there = torch.rand(size, n, generator=random) >= sparsity
    return there * torch.rand(size, n, generator=random, dtype=torch.float64)


def _trained(d: int, n: int, seed: int, sparsity: float, decay: float) -> Float[Tensor, "n d"]:
    """W of a trained toy model. In fp64, so that rounding does not decide which features are let go."""
    random = generator("toy model", seed)
    W = (torch.randn(n, d, generator=random, dtype=torch.float64) / d**0.5).requires_grad_()
    b = torch.zeros(n, dtype=torch.float64, requires_grad=True)
    importance = decay ** torch.arange(n, dtype=torch.float64)
    adam = torch.optim.Adam([W, b], lr=LR)
    for step in range(STEPS):
        adam.param_groups[0]["lr"] = LR * (1 - step / STEPS)
        x = _features(BATCH, n, sparsity, random)
        loss = (importance * (x - (x @ W @ W.T + b).relu()).square()).sum() / BATCH
        adam.zero_grad()
        loss.backward()
        adam.step()
    return W.detach().float()
