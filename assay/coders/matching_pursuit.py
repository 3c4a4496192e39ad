"""Matching pursuit: latents are chosen one after another, each for what the former left over (Costa et al. 2025, arXiv 2506.03093).

k steps: take the latent most correlated with the residual, add that correlation to its activation, subtract its share. A latent
chosen again accumulates. Encoder and decoder are one dictionary with unit rows. Latents that overlap, as a parent and its child
concept do, can be told apart, which one look at x cannot; each step costs as much as a whole TopK encoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from assay.coders import losses
from assay.coders.base import Batch, Code, CoderConfig, SparseCoder, Step
from assay.coders.latents import Latents
from assay.coders.linear import unit_rows
from assay.errors import BadInput
from assay.randomness import generator
from assay.shapes import Bool, Float, Int, Tensor


@dataclass(frozen=True, kw_only=True)
class MatchingPursuitConfig(CoderConfig):
    k: int = 32
    """Steps, and so latents kept per token at most."""
    tolerance: float = 0.0001
    """A token stops early once the best latent's share is below this part of its length (measured from b_dec)."""
    residual: float = 0.0
    """A token stops early once what is left of it is shorter than this; 0 turns it off. In units of the activations, as in SAELens."""
    repeats: bool = True
    """Whether steps go on after one that chose a latent again. SAELens stops there, unless told otherwise."""
    aux_weight: float = 0.03125
    """Weight of the auxiliary loss, in which dead latents alone pursue what the others missed; 0 turns it off."""
    k_aux: int = 4
    """Steps of the dead latents' pursuit."""


class MatchingPursuit(SparseCoder[MatchingPursuitConfig]):
    Config = MatchingPursuitConfig
    centred = True

    def __init__(self, config: MatchingPursuitConfig, *, seed: int = 0):
        super().__init__(config, seed=seed)
        if self.d_in != self.d_out:
            raise BadInput(f"Matching pursuit predicts what it reads; got d_in={self.d_in}, d_out={self.d_out}.")
        if config.k < 1 or config.k_aux < 1 or not 0 <= config.tolerance < 1:
            raise BadInput(
                f"k and k_aux must be ≥ 1 and tolerance in [0, 1); got {config.k}, {config.k_aux} and {config.tolerance}."
            )
        if not 0 <= config.residual < float("inf"):
            raise BadInput(f"residual must be 0 or more, got {config.residual}.")
        random = generator("coder", type(self).__name__, seed)
        self.W_dec = nn.Parameter(unit_rows(torch.randn(self.d_sae, self.d_in, generator=random)))
        self.b_dec = nn.Parameter(torch.zeros(self.d_in))

    @property
    def W_enc(self) -> Float[Tensor, "d_in d_sae"]:
        """The same dictionary: correlations with x − b_dec, of which only the first step's largest is an activation."""
        return self.W_dec.T

    def encode(self, x: Float[Tensor, "*n d_in"]) -> Code:
        self.check_width(x)
        flat, cfg = (x - self.b_dec).reshape(-1, self.d_in), self.config
        values, chosen = pursue(flat, self.W_dec, cfg.k, cfg.tolerance, residual=cfg.residual, repeats=cfg.repeats)
        return Code(merged(values, chosen, (*x.shape[:-1], self.d_sae)), self.b_dec)

    def loss(self, batch: Batch, code: Code, step: Step) -> Mapping[str, Tensor]:
        y_hat = self.decode(code)
        terms = {"mse": losses.mse(batch.y, y_hat)}
        if self.config.aux_weight:
            terms["aux_k"] = self.config.aux_weight * self._dead_pursuit((batch.y - y_hat).detach(), step.dead)
        return terms

    def _dead_pursuit(self, error: Float[Tensor, "n d"], dead: Bool[Tensor, " d_sae"] | None) -> Float[Tensor, ""]:
        """AuxK for a pursuit: what dead latents leave of the error, over its variance. Gradients reach their rows alone."""
        if dead is None or not bool(dead.any()):
            return error.new_zeros(())
        rows = self.W_dec[dead]
        values, chosen = pursue(error, rows, self.config.k_aux, self.config.tolerance)
        guess = merged(values, chosen, (len(error), len(rows))).decode(rows)
        variance = (error - error.mean(0)).square().sum(-1).mean()
        return torch.nan_to_num((error - guess).square().sum(-1).mean() / variance)

    @torch.no_grad()
    def initialise(self, batch: Batch) -> None:
        self.b_dec.copy_(batch.y.mean(0))

    @torch.no_grad()
    def constrain_gradient(self) -> None:
        """Take out the part of the gradient that would only change the length of rows."""
        if self.W_dec.grad is not None:
            along = (self.W_dec.grad * self.W_dec).sum(1, keepdim=True)
            self.W_dec.grad.addcmul_(along, self.W_dec, value=-1)

    @torch.no_grad()
    def constrain(self) -> None:
        self.W_dec.copy_(unit_rows(self.W_dec))

    @torch.no_grad()
    def rescale(self, x_scale: float, y_scale: float) -> None:
        self.b_dec.div_(x_scale)
        self.config = replace(self.config, residual=self.config.residual / x_scale)


def pursue(
    x: Float[Tensor, "n d"],
    rows: Float[Tensor, "m d"],
    k: int,
    tolerance: float,
    *,
    residual: float = 0.0,
    repeats: bool = True,
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """Matching pursuit of `x` in unit `rows`: what each of k steps adds (0 once a token has stopped), and to which row.

    Exact gradients flow to x and rows through all later residuals, the choices held fixed. Memory for them does not grow with
    k · d: the way back recovers each residual from the next.
    """
    return _Pursue.apply(x, rows, k, tolerance, residual, repeats)  # type: ignore[no-any-return]


class _Pursue(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, rows: Tensor, k: int, tolerance: float, enough: float, repeats: bool
    ) -> tuple[Tensor, Tensor]:
        least, residual = tolerance * x.norm(dim=1), x.clone()
        done = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        values, chosen = x.new_zeros(k, len(x)), torch.zeros(k, len(x), dtype=torch.int64, device=x.device)
        for t in range(k):
            best, chosen[t] = (residual @ rows.T).max(dim=1)
            values[t] = torch.where(
                ~done & (best > least), best, 0.0
            )  # a token that stops keeps its residual, so it stops for good
            if not bool(values[t].any()):
                break
            residual.addcmul_(values[t, :, None], rows[chosen[t]], value=-1)
            if enough:
                done |= residual.norm(dim=1) < enough
            if not repeats:
                done |= (chosen[:t] == chosen[t]).any(0)
        ctx.save_for_backward(residual, rows, values, chosen)
        ctx.mark_non_differentiable(chosen)
        return values.T, chosen.T

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        residual, rows, values, chosen = ctx.saved_tensors
        residual, d_values = residual.clone(), grads[0].T
        d_residual, d_rows = torch.zeros_like(residual), torch.zeros_like(rows)
        for t in reversed(range(len(values))):
            # Forward was v = r·w, r' = r − v w; so dL/dv in all is (given) − w·dL/dr', and both r and w get their share of it.
            row, value = rows[chosen[t]], values[t, :, None]
            residual.addcmul_(value, row)
            total = (d_values[t, :, None] - (d_residual * row).sum(1, keepdim=True)) * (value > 0)
            d_rows.index_add_(0, chosen[t], total * residual - value * d_residual)
            d_residual.addcmul_(total, row)
        return d_residual, d_rows, None, None, None, None


def merged(values: Float[Tensor, "n k"], chosen: Int[Tensor, "n k"], shape: tuple[int, ...]) -> Latents:
    """Sparse latents of a pursuit: what was added to one latent in several steps is summed, what stopped is left out."""
    n, width = len(values), shape[-1]
    live = values > 0
    cells = (torch.arange(n, device=chosen.device)[:, None] * width + chosen)[live]
    cells, place = torch.unique(cells, return_inverse=True)  # sorted: by token, then by latent
    summed = values.new_zeros(len(cells)).index_add(0, place, values[live])
    offsets = torch.bincount(cells // width, minlength=n).cumsum(0)
    return Latents.from_csr(summed, cells % width, torch.cat([offsets.new_zeros(1), offsets]), shape)
