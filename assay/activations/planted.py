"""Planted: an endless stream made from known sparse features, so that a coder can be compared with the truth.

The superposition toy T1: unit directions in random position, more of them than dimensions; feature i = 1, 2, … is active with
probability min(.08, .08 · (i/10)^-½), then with magnitude U(.5, 1.5); vectors scaled to E‖x‖² = 1. With 256 features 7.26 are
active on average.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from assay.coders.base import Batch
from assay.errors import BadInput, WidthMismatch
from assay.randomness import numpy_generator
from assay.shapes import Float, Tensor
from assay.store import digest

LOW, HIGH = 0.5, 1.5


class Planted:
    """`latents` sparse features in `d` dimensions. `directions` [latents, d] and `codes` are the truth."""

    def __init__(self, d: int = 64, latents: int = 256, seed: int = 0):
        if d < 1 or latents < 1 or seed < 0:
            raise BadInput(f"A planted dictionary needs d ≥ 1, latents ≥ 1 and seed ≥ 0; got {d}, {latents}, {seed}.")
        self.d_in = self.d_out = d
        self.latents, self.seed = latents, seed
        self.tokens: int | None = None
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
        self.fingerprint = digest(self.describe())[:16]

    def codes(self, size: int, seed: int, start: int = 0) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n latents"]]:
        """(x, true z) of batch number `start`, with x = z @ directions: the same vectors that `batches` gives."""
        random = numpy_generator("planted codes", self.seed, seed, start)
        active = random.random((size, self.latents), dtype=np.float32) < self.probabilities.astype(np.float32)
        z = np.zeros((size, self.latents), dtype=np.float32)
        z[active] = random.uniform(LOW * self.scale, HIGH * self.scale, size=int(active.sum()))
        codes = torch.from_numpy(z)
        return codes @ self.directions, codes

    def batches(self, size: int, seed: int, start: int = 0) -> Iterator[Batch]:
        """See ActivationSource. No vector comes twice."""
        if size < 1 or start < 0 or seed < 0:
            raise BadInput(f"A stream needs size ≥ 1, start ≥ 0 and seed ≥ 0; got {size}, {start}, {seed}.")
        return (Batch.of(self.codes(size, seed, number)[0]) for number in itertools.count(start))

    def describe(self) -> dict[str, Any]:
        """What a manifest should say of the data."""
        return {"kind": "planted", "d": self.d_in, "latents": self.latents, "seed": self.seed, "tokens": None}


def recovery(W_dec: Float[Tensor, "d_sae d"], directions: Float[Tensor, "latents d"]) -> dict[str, float]:
    """How much of a planted dictionary a decoder holds.

    Over true directions: the mean of the largest cosine with any decoder row ("mmcs"), and the share for which it is above .9
    ("recovered").
    """
    if W_dec.shape[-1] != directions.shape[-1]:
        raise WidthMismatch(f"Decoder rows have width {W_dec.shape[-1]}, planted directions {directions.shape[-1]}.")
    rows = torch.nn.functional.normalize(W_dec.detach().double().to(directions.device), dim=-1)
    best = (torch.nn.functional.normalize(directions.double(), dim=-1) @ rows.T).amax(1)
    return {"mmcs": best.mean().item(), "recovered": (best > 0.9).double().mean().item()}


def bias(x: Float[Tensor, "n d"], x_hat: Float[Tensor, "n d"], centre: Float[Tensor, " d"] | float = 0.0) -> float:
    """Relative reconstruction bias γ = E‖x̂‖² / E[x̂·x], both relative to `centre`, e.g. b_dec (Rajamanoharan et al. 2024).

    The factor that minimises E‖x − x̂/γ‖². Below 1: reconstructions are too short (shrinkage); 1: unbiased. NaN when x̂ is 0.
    """
    truth, guess = (x.detach() - centre).double(), (x_hat.detach() - centre).double()
    along = (guess * truth).sum().item()
    return guess.square().sum().item() / along if along else float("nan")
