"""Compiled: the residual stream of a small transformer written by hand, whose every coordinate has a name.

The toy T4, after Tracr (Lindner et al. 2023, arXiv 2301.05062): an embedding writes token and position, two attention heads and an
MLP add what they compute, each variable one-hot in a subspace of its own. Optionally a linear map to fewer dimensions compresses
the stream, as in Tracr's section 5. Features are far from independent: what is computed follows from the tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch

from assay.activations.truth import PlantedSource, Stream
from assay.errors import BadInput
from assay.randomness import numpy_generator
from assay.shapes import Float, Tensor

MOST = 4
"""Values of the count; the last stands for all above, which are too rare to learn."""


class Compiled(PlantedSource):
    """Vectors of a program that reads sequences of `length` random tokens out of `vocabulary`, one position of each.

    Variables, one-hot each: the token; the position; the previous token (one head), none at the start; how often the token
    occurred before (another head): 0, 1, 2, 3 or more; and one flag, whether it did (the MLP). `names` says of each feature
    what it stands for. `d` left out: one dimension a feature; else random unit directions in d dimensions.
    """

    kind = "compiled"

    def __init__(self, d: int | None = None, vocabulary: int = 8, length: int = 8, seed: int = 0):
        if vocabulary < 1 or length < 1:
            raise BadInput(f"A compiled source needs vocabulary ≥ 1 and length ≥ 1; got {vocabulary}, {length}.")
        self.vocabulary, self.length, self.compressed = vocabulary, length, d is not None
        self.sizes = {"token": vocabulary, "position": length, "previous": vocabulary, "count": min(length, MOST)}
        self.names: tuple[str, ...] = (*(f"{name}={i}" for name, size in self.sizes.items() for i in range(size)), "repeated")
        latents = len(self.names)
        super().__init__(latents if d is None else d, latents, seed)
        rows = numpy_generator("compiled directions", seed).standard_normal((latents, self.d_in))
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        self.directions = torch.from_numpy(rows).float() if self.compressed else torch.eye(latents)

    def codes(self, size: int, seed: Stream, start: int = 0) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n latents"]]:
        random = numpy_generator("compiled codes", self.seed, seed, start)
        tokens = random.integers(self.vocabulary, size=(size, self.length))
        here, row = random.integers(self.length, size=size), np.arange(size)
        token = tokens[row, here]
        previous = np.where(here > 0, tokens[row, here - 1], -1)
        seen = (tokens == token[:, None]) & (np.arange(self.length) <= here[:, None])
        count = np.minimum(seen.sum(1), self.sizes["count"]) - 1
        z = np.zeros((size, self.latents), dtype=np.float32)
        first = 0
        for value, width in zip((token, here, previous, count), self.sizes.values()):
            z[row[value >= 0], first + value[value >= 0]] = 1
            first += width
        z[:, -1] = count > 0
        codes = torch.from_numpy(z)
        return codes @ self.directions, codes

    def settings(self) -> dict[str, Any]:
        return {"vocabulary": self.vocabulary, "length": self.length, "compressed": self.compressed}

    @classmethod
    def described(cls, about: Mapping[str, Any]) -> Self:
        return super().described({**about, "d": about["d"] if about["compressed"] else None})
