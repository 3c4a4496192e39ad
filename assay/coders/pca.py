"""PCA: principal components (both signs) of a sample of activations, the k largest kept. The best linear code of low rank."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from assay.coders.base import Batch, CoderConfig
from assay.coders.dictionary import FixedDictionary, signed
from assay.errors import BadInput
from assay.shapes import Float, Tensor

TAG = "baseline"


@dataclass(frozen=True, kw_only=True)
class PCAConfig(CoderConfig):
    k: int | None = None
    """Latents kept per token, the largest; all of them when left out."""


class PCA(FixedDictionary[PCAConfig]):
    Config = PCAConfig

    def __init__(self, config: PCAConfig, *, seed: int = 0):
        super().__init__(config, seed=seed)
        if config.d_sae % 2 or config.d_sae > 2 * config.d_in:
            raise BadInput(
                f"PCA has two latents a component, so d_sae must be even and at most 2·d_in = {2 * config.d_in}; got {config.d_sae}."
            )

    def directions(self, batch: Batch) -> Float[Tensor, "d_sae d_in"]:
        x = batch.x.double()
        _, vectors = torch.linalg.eigh(x.T @ x / len(x))
        components = vectors.flip(1).T[: self.d_sae // 2].float()
        largest = components.abs().argmax(1, keepdim=True)  # the sign of an eigenvector is arbitrary: fix it
        return signed(components * components.gather(1, largest).sign())
