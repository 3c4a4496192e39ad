"""Crosscoder: one set of latents for several sites or models at once (Lindsey et al. 2024; Minder et al. 2025, arXiv 2504.02922).

Reads and predicts sites that a source lays side by side; each latent has a direction in each. Sites are scaled to equal E‖x‖², so
that none dominates the error. What a latent counts in penalties and in the choice among latents is its activation times the sum
over sites of its directions' lengths: for this the sum is kept at 1. Under an L1 penalty a shared latent then costs what one for
each site would; `norm="joint"` keeps the length of the joint direction at 1 instead, which favours sharing. Any linear
architecture can be inside: `of` and `settings` name it. Minder et al. find that L1 shows many latents as exclusive to one model
that are not, and batch_topk hardly any.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from assay.coders.base import Batch, Code, CoderConfig, SparseCoder
from assay.coders.composed import Composed, plain
from assay.coders.linear import unit_rows
from assay.errors import BadInput
from assay.shapes import Float, Tensor


@dataclass(frozen=True, kw_only=True)
class CrosscoderConfig(CoderConfig):
    widths: tuple[int, ...] = ()
    """Width of each site, in the order in which they lie side by side. Left out: two sites of equal width."""
    norm: Literal["sum", "joint"] = "sum"
    """What is 1 for each latent: the sum over sites of its directions' lengths, or the length of its joint direction."""
    of: str = "batch_topk"
    """Architecture inside: relu, gated, topk, batch_topk, jumprelu, matryoshka, p_anneal."""
    settings: str = ""
    """Its settings, e.g. "k=32,aux_weight=0". Those left out have its defaults."""


class Crosscoder(Composed[CrosscoderConfig]):
    """`inner` works on scaled sites: x · `scale`. W_enc, W_dec and b_dec are those for x itself."""

    Config = CrosscoderConfig
    site_scale: Tensor

    def __init__(self, config: CrosscoderConfig, *, seed: int = 0):
        super().__init__(config, seed=seed)
        half, odd = divmod(config.d_in, 2)
        self.widths = list(config.widths or ([half, half] if not odd else ()))
        if sum(self.widths) != config.d_in or min(self.widths) < 1 or self.d_in != self.d_out:
            raise BadInput(
                f"A crosscoder predicts the sites that it reads, and their widths add up to d_in; got widths "
                f"{', '.join(map(str, self.widths)) or 'left out'}, d_in={self.d_in} and d_out={self.d_out}."
            )
        if config.norm not in ("sum", "joint"):
            raise BadInput(f"norm must be 'sum' or 'joint', got {config.norm!r}.")
        if getattr(self.inner.config, "decoder", "unit") != "unit":
            raise BadInput("A crosscoder's norm fixes the length of decoder rows: leave decoder=free out of its settings.")
        self.register_buffer("site_scale", torch.ones(len(self.widths)))
        with torch.no_grad():  # rows are made shorter and the encoder longer: reconstructions stay
            self.inner.W_enc.mul_(self._lengths()[:, 0])
            self.constrain()

    @property
    def scale(self) -> Float[Tensor, " d_in"]:
        """What each number of x is multiplied by: site_scale, spread over the sites."""
        return torch.cat([s.expand(width) for s, width in zip(self.site_scale, self.widths)])

    def encode(self, x: Float[Tensor, "*n d_in"]) -> Code:
        self.check_width(x)
        code = self.inner.encode(x * self.scale)
        return replace(code, base=code.base / self.scale)

    @torch.no_grad()
    def inside(self, batch: Batch) -> Batch:
        return replace(batch, x=batch.x * self.scale, y=batch.y * self.scale)

    def code_inside(self, code: Code) -> Code:
        return replace(code, base=code.base * self.scale)

    @torch.no_grad()
    def initialise(self, batch: Batch) -> None:
        squares = torch.stack([x.square().sum(-1).mean() for x in batch.x.split(self.widths, dim=-1)])
        if not bool((squares > 0).all()):
            raise BadInput(f"Site {int((squares <= 0).nonzero()[0])} of {len(self.widths)} is 0 everywhere; leave it out.")
        self.site_scale.copy_((squares.mean() / squares).sqrt())
        super().initialise(batch)

    @property
    def W_enc(self) -> Float[Tensor, "d_in d_sae"]:
        return self.inner.W_enc * self.scale[:, None]

    @property
    def W_dec(self) -> Float[Tensor, "d_sae d_out"]:  # type: ignore[override]
        return self.inner.W_dec / self.scale

    @property
    def b_dec(self) -> Float[Tensor, " d_out"]:
        return self.inner.b_dec / self.scale

    def site_norms(self) -> Float[Tensor, "d_sae sites"]:
        """Length of each latent's direction in each site, where sites have equal E‖x‖²."""
        return torch.stack([rows.norm(dim=1) for rows in self.inner.W_dec.split(self.widths, dim=1)], dim=1)

    def relative_norms(self) -> Float[Tensor, "d_sae sites"]:
        """Each site's share of the sum of a latent's lengths. Of two models: (1, 0) and (0, 1) are exclusive, (.5, .5) is shared."""
        norms = self.site_norms()
        return norms / norms.sum(1, keepdim=True).clamp_min(1e-12)

    def _lengths(self) -> Float[Tensor, "d_sae 1"]:
        """What `norm` keeps at 1."""
        joint = self.config.norm == "joint"
        return self.inner.W_dec.norm(dim=1, keepdim=True) if joint else self.site_norms().sum(1, keepdim=True)

    @torch.no_grad()
    def constrain_gradient(self) -> None:
        """Take out the part of the gradient that would only change what `norm` keeps at 1."""
        if self.config.norm == "joint":
            return super().constrain_gradient()
        W, grad = self.inner.W_dec, self.inner.W_dec.grad
        if grad is not None:
            outwards = torch.cat([unit_rows(rows) for rows in W.split(self.widths, dim=1)], dim=1)  # the gradient of Σ‖d_s‖
            along = (grad * outwards).sum(1, keepdim=True) / outwards.square().sum(1, keepdim=True).clamp_min(1)
            grad.addcmul_(along, outwards, value=-1)

    @torch.no_grad()
    def constrain(self) -> None:
        self.inner.W_dec.div_(self._lengths().clamp_min(1e-12))

    def folded(self) -> SparseCoder[Any]:
        """The inner coder's inference form over all sites, with the scales in its weights."""
        return self._part(slice(None))

    def site(self, number: int) -> SparseCoder[Any]:
        """The coder that reads all sites and predicts one, as plain weights."""
        if not 0 <= number < len(self.widths):
            raise BadInput(f"There are {len(self.widths)} sites, numbered from 0; got {number}.")
        start = sum(self.widths[:number])
        return self._part(slice(start, start + self.widths[number]))

    @torch.no_grad()
    def _part(self, columns: slice) -> SparseCoder[Any]:
        form, scale = self.form(), self.scale
        W_enc, W_dec, b_dec = form.W_enc * scale[:, None], form.W_dec / scale, form.b_dec / scale
        return plain(form, W_enc, form.bias(), W_dec[:, columns].contiguous(), b_dec[columns])
