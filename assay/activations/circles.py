"""Circles: features that are not one direction each, but points on circles, among features that are.

The toy T5, the truth for tests of multi-dimensional features (Engels et al. 2024, arXiv 2405.14860). In a plane of its own a circle
has one point at a time, as days of the week do: no rotation of the plane parts it into independent features. A mixture looks as
two-dimensional and is not: two directions that never meet. A test should find the circles and refuse the mixtures.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from assay.activations.truth import PlantedSource, Stream
from assay.errors import BadInput
from assay.randomness import numpy_generator
from assay.shapes import Float, Int, Tensor

LONE_RATE = 0.05


class Circles(PlantedSource):
    """`circles` with `points` equally spaced points each, `mixtures` of two exclusive directions, `lone` ordinary features.

    Features stand in that order. `groups` [latents] numbers the plane of each (circles first), −1 for lone ones; `planes`
    [groups, 2, d] are orthonormal bases. A group is active with probability `rate`, then one of its features, chosen evenly; lone
    features with probability .05. Magnitudes are U(1 − spread, 1 + spread).
    """

    kind = "circles"

    def __init__(
        self,
        d: int = 32,
        circles: int = 3,
        points: int = 7,
        mixtures: int = 2,
        lone: int = 24,
        seed: int = 0,
        rate: float = 0.2,
        spread: float = 0.1,
    ):
        if not (circles >= 0 and points >= 3 and mixtures >= 0 and lone >= 0 and 0 < rate <= 1 and 0 <= spread < 1 and d >= 2):
            raise BadInput(
                "Circles need d ≥ 2, points ≥ 3, rate in (0, 1], spread in [0, 1) and numbers of circles, mixtures and lone features "
                f"≥ 0; got d {d}, points {points}, rate {rate}, spread {spread}, numbers {circles}, {mixtures}, {lone}."
            )
        super().__init__(d, circles * points + 2 * mixtures + lone, seed)
        self.circles, self.points, self.mixtures, self.lone, self.rate, self.spread = (
            circles,
            points,
            mixtures,
            lone,
            rate,
            spread,
        )
        self.sizes = [points] * circles + [2] * mixtures
        random = numpy_generator("circles directions", seed)
        planes = [np.linalg.qr(random.standard_normal((d, 2)))[0].T for _ in self.sizes]
        angles = [np.arange(n) * (2 * np.pi / n if i < circles else np.pi / 2) for i, n in enumerate(self.sizes)]
        rows = [np.stack([np.cos(a), np.sin(a)], 1) @ plane for a, plane in zip(angles, planes)]
        alone = random.standard_normal((lone, d))
        rows.append(alone / np.linalg.norm(alone, axis=1, keepdims=True))
        self.planes: Float[Tensor, "groups two d"] = torch.from_numpy(np.array(planes).reshape(-1, 2, d)).float()
        self.groups: Int[Tensor, " latents"] = torch.tensor(
            [i for i, n in enumerate(self.sizes) for _ in range(n)] + [-1] * lone
        )
        self.directions = torch.from_numpy(np.concatenate(rows)).float()

    def codes(self, size: int, seed: Stream, start: int = 0) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n latents"]]:
        random = numpy_generator("circles codes", self.seed, seed, start)
        active = np.zeros((size, self.latents), dtype=bool)
        first, row = 0, np.arange(size)
        for n in self.sizes:
            there = random.random(size) < self.rate
            active[row, first + random.integers(n, size=size)] = there
            first += n
        active[:, first:] = random.random((size, self.lone)) < LONE_RATE
        z = torch.from_numpy(active * random.uniform(1 - self.spread, 1 + self.spread, size=active.shape)).float()
        return z @ self.directions, z

    def settings(self) -> dict[str, Any]:
        names = ("circles", "points", "mixtures", "lone", "rate", "spread")
        return {name: getattr(self, name) for name in names}
