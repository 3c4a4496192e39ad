"""Transcoder: reads one site and predicts another, such as an MLP's output from its input (Dunefsky et al. 2024, arXiv 2406.11944).

Any linear architecture can be inside: `of` and `settings` name it. b_dec is the output's and is not taken off the input; `b_in`,
the mean of what is read, is. Each latent's encoder starts as the regression of the output's part along its decoder row: where
input and output are the same this is W_enc = W_decᵀ, as in autoencoders.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from assay.coders.base import Batch, C, Code, CoderConfig, SparseCoder
from assay.coders.composed import Composed, plain
from assay.coders.linear import unit_rows
from assay.shapes import Float, Tensor

RIDGE = 1e-2  # of the mean variance of what is read


@dataclass(frozen=True, kw_only=True)
class TranscoderConfig(CoderConfig):
    of: str = "topk"
    """Architecture inside: relu, gated, topk, batch_topk, jumprelu, matryoshka, p_anneal."""
    settings: str = ""
    """Its settings, e.g. "k=32,aux_weight=0". Those left out have its defaults."""


class Transcoder(Composed[C]):
    Config = TranscoderConfig
    b_in: Tensor

    def __init__(self, config: C, *, seed: int = 0):
        super().__init__(config, seed=seed)
        self.inner.centred = False
        self.register_buffer("b_in", torch.zeros(self.d_in))

    def encode(self, x: Float[Tensor, "*n d_in"]) -> Code:
        self.check_width(x)
        return self.inner.encode(x - self.b_in)

    @torch.no_grad()
    def inside(self, batch: Batch) -> Batch:
        return replace(batch, x=batch.x - self.b_in)

    def bias(self) -> Float[Tensor, " d_sae"]:
        """Pre-activations are x @ W_enc + bias()."""
        return self.inner.b_enc - self.b_in @ self.inner.W_enc

    @torch.no_grad()
    def initialise(self, batch: Batch) -> None:
        self.b_in.copy_(batch.x.mean(0))
        W_enc = self.inner.W_enc
        rows = self.inner.W_dec @ regression(batch.x, batch.y).T
        W_enc.copy_(unit_rows(rows).T * W_enc.norm(dim=0))
        super().initialise(batch)

    @torch.no_grad()
    def rescale(self, x_scale: float, y_scale: float) -> None:
        super().rescale(x_scale, y_scale)
        self.b_in.div_(x_scale)

    @torch.no_grad()
    def folded(self) -> SparseCoder[Any]:
        """The inner coder's inference form, with b_in in its biases: an architecture of its own right."""
        form = self.form()
        return plain(form, form.W_enc, form.b_enc - self.b_in @ form.W_enc, form.W_dec, form.b_dec)


def regression(x: Float[Tensor, "n d_in"], y: Float[Tensor, "n d_out"]) -> Float[Tensor, "d_in d_out"]:
    """The matrix M for which x @ M is closest to y, both about their means, with a slight pull to 0."""
    x, y = x.double(), y.double()
    x = x - x.mean(0)
    square = x.T @ x
    square.diagonal().add_(RIDGE * square.diagonal().mean())
    return torch.linalg.solve(square, x.T @ (y - y.mean(0))).float()
