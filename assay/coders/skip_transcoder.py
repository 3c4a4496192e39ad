"""Skip transcoder: a transcoder beside a linear map, so that latents need not spell out what is linear (Paulo et al. 2025, arXiv 2501.18823).

x̂ = b_dec + x @ W_skip + z @ W_dec. Both learn together; W_skip starts at 0. What a linear map can say moves into W_skip, also where
a sparse feature could have said it: decoder rows are then the directions of the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from assay.coders.base import Batch, Code, CoderConfig
from assay.coders.composed import architecture, written
from assay.coders.transcoder import Transcoder
from assay.shapes import Float, Tensor


@dataclass(frozen=True, kw_only=True)
class SkipTranscoderConfig(CoderConfig):
    of: str = "topk"
    """Architecture inside: relu, gated, topk, batch_topk, jumprelu, matryoshka, p_anneal."""
    settings: str = ""
    """Its settings, e.g. "k=32,aux_weight=0". Those left out have its defaults."""


class SkipTranscoder(Transcoder[SkipTranscoderConfig]):
    """W_skip: [d_in, d_out] reads x − b_in, as the inner coder does."""

    Config = SkipTranscoderConfig

    def __init__(self, config: SkipTranscoderConfig, *, seed: int = 0):
        super().__init__(config, seed=seed)
        self.W_skip = nn.Parameter(torch.zeros(self.d_in, self.d_out))

    def encode(self, x: Float[Tensor, "*n d_in"]) -> Code:
        code = super().encode(x)
        return replace(code, base=code.base + (x - self.b_in) @ self.W_skip)

    @torch.no_grad()
    def inside(self, batch: Batch) -> Batch:
        """What the skip path leaves of y."""
        batch = super().inside(batch)
        return replace(batch, y=batch.y - batch.x @ self.W_skip)

    def code_inside(self, code: Code) -> Code:
        """The same base without the skip path's value but with its gradient: W_skip learns from whatever is decoded."""
        return replace(code, base=code.base - (code.base - self.b_dec).detach())

    @torch.no_grad()
    def initialise(self, batch: Batch) -> None:
        self.W_skip.zero_()
        super().initialise(batch)

    @torch.no_grad()
    def rescale(self, x_scale: float, y_scale: float) -> None:
        super().rescale(x_scale, y_scale)
        self.W_skip.mul_(x_scale / y_scale)

    @torch.no_grad()
    def folded(self) -> SkipTranscoder:
        """The same around the inner coder's inference form, with b_in in the biases."""
        form = self.form()
        config = replace(self.config, of=architecture(form), settings=written(form.config))
        twin = SkipTranscoder(config, seed=self.seed).to(self.W_skip)
        biases = {"b_enc": form.b_enc - self.b_in @ form.W_enc, "b_dec": form.b_dec - self.b_in @ self.W_skip}
        twin.inner.load_state_dict(form.state_dict() | biases)
        twin.W_skip.copy_(self.W_skip)
        return twin.train(self.training)
