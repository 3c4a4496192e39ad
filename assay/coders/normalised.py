"""Normalised: a coder that reads each vector brought to one length, and puts the length back (Gao et al. 2024, arXiv 2406.04093).

Every vector has its own scale, so that sparsity does not depend on how large it happens to be: x̂ = centre + scale · inner(n(x)).
`norm` is "layer", as in OpenAI's TopK coders of GPT-2 and SAELens' layer_norm (the mean over the width taken off, divided by the
unbiased standard deviation), or "length", as in SAELens' constant_norm_rescale (the length made √d). Latents are in units of n(x),
and their decoder rows' effect on the model scales with the vector. Any linear architecture can be inside: `of` and `settings` name it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch

from assay.coders.base import Batch, Code, CoderConfig
from assay.coders.composed import Composed, architecture, written
from assay.errors import BadInput
from assay.shapes import Float, Tensor

EPSILON = 1e-5  # added to the standard deviation, as OpenAI and SAELens do


@dataclass(frozen=True, kw_only=True)
class NormalisedConfig(CoderConfig):
    of: str = "topk"
    """Architecture inside: relu, gated, topk, batch_topk, jumprelu, matryoshka, p_anneal."""
    settings: str = ""
    """Its settings, e.g. "k=32,aux_weight=0". Those left out have its defaults."""
    norm: Literal["layer", "length"] = "layer"
    """Mean 0 and standard deviation 1 over the width of each vector; or length √d_in, the mean left as it is."""


class Normalised(Composed[NormalisedConfig]):
    Config = NormalisedConfig

    def __init__(self, config: NormalisedConfig, *, seed: int = 0):
        super().__init__(config, seed=seed)
        if self.d_in != self.d_out:
            raise BadInput(f"Normalised coders predict what they read; got d_in={self.d_in}, d_out={self.d_out}.")
        if config.norm not in ("layer", "length"):
            raise BadInput(f"norm must be 'layer' or 'length', got {config.norm!r}.")
        self.centred = self.inner.centred

    def measure(self, x: Float[Tensor, "*n d_in"]) -> tuple[Tensor | float, Tensor, Tensor]:
        """Of each vector: what is taken off, what the rest is divided by, and what the reconstruction is multiplied by."""
        if self.config.norm == "length":
            length = x.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny) * self.d_in**-0.5
            return 0.0, length, length
        mean, spread = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
        return mean, spread + EPSILON, spread

    def encode(self, x: Float[Tensor, "*n d_in"]) -> Code:
        self.check_width(x)
        centre, divisor, scale = self.measure(x)
        code = self.inner.encode((x - centre) / divisor)
        return replace(code, base=code.base * scale + centre, scale=scale)

    @torch.no_grad()
    def inside(self, batch: Batch) -> Batch:
        """Vectors as the inner coder sees them. Its reconstructions are put back before they go on into a model."""
        centre, divisor, scale = self.measure(batch.x)
        x, ahead = (batch.x - centre) / divisor, batch.ahead
        y = x if batch.y is batch.x else (batch.y - centre) / divisor
        return replace(batch, x=x, y=y, ahead=ahead and (lambda y_hat: ahead(y_hat * scale + centre)))

    def code_inside(self, code: Code) -> Code:
        return replace(code, base=self.inner.b_dec, scale=1.0)

    @torch.no_grad()
    def rescale(self, x_scale: float, y_scale: float) -> None:
        """Nothing: each vector has its own scale."""
        if x_scale != y_scale:
            raise BadInput(f"A normalised coder reads and predicts at one scale, got {x_scale} and {y_scale}.")

    @torch.no_grad()
    def folded(self) -> Normalised:
        """The same around the inner coder's inference form."""
        form = self.form()
        twin = Normalised(replace(self.config, of=architecture(form), settings=written(form.config)), seed=self.seed)
        twin.to(self.W_dec).inner.load_state_dict(form.state_dict())
        return twin.train(self.training)
