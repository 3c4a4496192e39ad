"""FixedDictionary: baselines that learn nothing by gradient. Their directions are given; the k largest of each token speak."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from assay.coders import losses
from assay.coders.base import Batch, C, Code, SparseCoder, Step
from assay.coders.latents import Latents
from assay.errors import BadInput
from assay.shapes import Float, Tensor


class FixedDictionary(SparseCoder[C]):
    """x̂ = mean + gain · Σ of the k largest relu((x − mean) · direction), along the directions themselves.

    Subclasses say in `directions(batch)` what the unit rows [d_sae, d_in] are; their configuration has `k: int | None`.
    """

    trained = False
    centred = True
    b_dec: Tensor
    gain: Tensor

    def __init__(self, config: C, *, seed: int = 0):
        super().__init__(config, seed=seed)
        if self.d_in != self.d_out:
            raise BadInput(f"{type(self).__name__} predicts what it reads; got d_in={self.d_in}, d_out={self.d_out}.")
        k: int | None = config.k  # type: ignore[attr-defined]
        if k is not None and not 1 <= k <= config.d_sae:
            raise BadInput(f"k must lie between 1 and d_sae = {config.d_sae}, got {k}.")
        self.k = k
        self.register_buffer("W_dec", torch.zeros(self.d_sae, self.d_in))
        self.register_buffer("b_dec", torch.zeros(self.d_in))
        self.register_buffer("gain", torch.ones(()))

    def directions(self, batch: Batch) -> Float[Tensor, "d_sae d_in"]:
        """Unit rows, from a sample centred by the caller."""
        raise NotImplementedError

    @property
    def W_enc(self) -> Float[Tensor, "d_in d_sae"]:
        return self.W_dec.T

    @torch.no_grad()
    def initialise(self, batch: Batch) -> None:
        self.b_dec.copy_(batch.x.mean(0))
        self.W_dec.copy_(self.directions(Batch.of(batch.x - self.b_dec)))
        self.gain.fill_(1.0)

    def encode(self, x: Float[Tensor, "*n d_in"]) -> Code:
        self.check_width(x)
        z = ((x - self.b_dec) @ self.W_enc).relu()
        if self.k is not None and self.k < self.d_sae:
            values, kept = z.topk(self.k, dim=-1, sorted=False)
            z = torch.zeros_like(z).scatter(-1, kept, values)
        return Code(Latents.from_dense(z), self.b_dec, scale=self.gain)

    def loss(self, batch: Batch, code: Code, step: Step) -> Mapping[str, Tensor]:
        return {"mse": losses.mse(batch.y, self.decode(code))}

    @torch.no_grad()
    def rescale(self, x_scale: float, y_scale: float) -> None:
        self.b_dec.div_(x_scale)


def signed(rows: Float[Tensor, "n d"]) -> Float[Tensor, "two_n d"]:
    """Each direction and its opposite, so that non-negative latents span both sides."""
    return torch.cat([rows, -rows])
