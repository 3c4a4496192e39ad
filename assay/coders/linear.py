"""LinearCoder: the weights that nearly every architecture has. W_enc, b_enc, W_dec, b_dec, and decoder rows of unit norm.

Both directions are centred: pre-activations are (x − b_dec) @ W_enc + b_enc when d_in = d_out, as in Bricken et al. 2023.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from assay.coders.base import Batch, C, Code, SparseCoder
from assay.coders.latents import Latents
from assay.errors import BadInput
from assay.kernels import sparse
from assay.randomness import generator
from assay.shapes import Float, Int, Tensor

Selection = tuple[Int[Tensor, " nnz"], Int[Tensor, " n_plus_one"]]
"""(indices, offsets) of the latents that are kept, as in a CSR matrix."""


def unit_rows(W: Float[Tensor, "rows d"]) -> Float[Tensor, "rows d"]:
    """W with rows of norm 1; rows of norm 0 stay."""
    return W / W.norm(dim=1, keepdim=True).clamp_min(torch.finfo(W.dtype).tiny)


class LinearCoder(SparseCoder[C]):
    """A coder with W_enc: [d_in, d_sae], b_enc, W_dec: [d_sae, d_out], b_dec, and unit-norm decoder rows.

    `centred`: whether b_dec is taken off the input, as wherever input and output live in one space.
    Starts with random unit rows in W_dec, W_enc = W_decᵀ where widths agree, b_enc = 0, and b_dec = the sample's mean.
    """

    def __init__(self, config: C, *, seed: int = 0):
        super().__init__(config, seed=seed)
        self.centred = self.d_in == self.d_out
        random = generator("coder", type(self).__name__, seed)
        W_dec = unit_rows(torch.randn(self.d_sae, self.d_out, generator=random))
        W_enc = W_dec if self.d_in == self.d_out else unit_rows(torch.randn(self.d_sae, self.d_in, generator=random))
        self.W_enc = nn.Parameter(W_enc.T.contiguous())
        self.b_enc = nn.Parameter(torch.zeros(self.d_sae))
        self.W_dec = nn.Parameter(W_dec.clone())
        self.b_dec = nn.Parameter(torch.zeros(self.d_out))


    def bias(self) -> Float[Tensor, " d_sae"]:
        """b_enc with the centring folded in: pre = x @ W_enc + bias()."""
        return self.b_enc - self.b_dec @ self.W_enc if self.centred else self.b_enc

    def pre_activations(self, x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_sae"]:
        """All pre-activations, dense, with gradients."""
        self.check_width(x)
        return x @ self.W_enc + self.bias()

    def encode_selected(self, x: Float[Tensor, "*n d_in"], choose: Callable[[Tensor], Selection]) -> Code:
        """A sparse code of the latents that `choose(pre)` picks from the [n, d_sae] pre-activations, with sparse gradients."""
        self.check_width(x)
        flat = x.reshape(-1, self.d_in)
        bias = self.bias()
        with torch.no_grad():
            pre = torch.addmm(bias, flat, self.W_enc)
            indices, offsets = choose(pre)
        values = sparse.select(flat, self.W_enc, bias, pre, indices, offsets)
        shape = (*x.shape[:-1], self.d_sae)
        return Code(Latents.from_csr(values.relu(), indices, offsets, shape), self.b_dec)

    @torch.no_grad()
    def initialise(self, batch: Batch) -> None:
        self.b_dec.copy_(batch.y.mean(0))

    @torch.no_grad()
    def constrain_gradient(self) -> None:
        """Take out the part of the gradient that would only change the length of decoder rows."""
        if self.W_dec.grad is not None:
            along = (self.W_dec.grad * self.W_dec).sum(1, keepdim=True)
            self.W_dec.grad.addcmul_(along, self.W_dec, value=-1)

    @torch.no_grad()
    def constrain(self) -> None:
        self.W_dec.div_(self.W_dec.norm(dim=1, keepdim=True).clamp_min(1e-12))

    @torch.no_grad()
    def rescale(self, x_scale: float, y_scale: float) -> None:
        self.b_enc.div_(x_scale)
        self.b_dec.div_(y_scale)
        if x_scale != y_scale:
            self.W_dec.mul_(x_scale / y_scale)

    def extra_repr(self) -> str:
        return f"d_in={self.d_in}, d_sae={self.d_sae}, d_out={self.d_out}"


def check_topk(config: Any) -> None:
    """Refuse impossible settings of the TopK family."""
    if not 1 <= config.k <= config.d_sae:
        raise BadInput(f"k must lie between 1 and d_sae = {config.d_sae}, got {config.k}.")
    if not 0 <= config.aux_weight < float("inf") or (config.k_aux is not None and config.k_aux < 1):
        raise BadInput(f"aux_weight must be 0 or more and k_aux at least 1, got {config.aux_weight} and {config.k_aux}.")


def rows_topk(pre: Float[Tensor, "n d_sae"], k: int) -> Selection:
    """The k largest of each row."""
    n = pre.shape[0]
    indices = pre.topk(k, dim=1, sorted=False).indices.sort(dim=1).values.reshape(-1)
    return indices, torch.arange(0, n * k + 1, k, device=pre.device)


def above(pre: Float[Tensor, "n d_sae"], threshold: float | Tensor) -> Selection:
    """All that exceed a threshold."""
    keep = pre > threshold
    counts = keep.sum(1)
    return keep.nonzero()[:, 1], torch.cat([counts.new_zeros(1), counts.cumsum(0)])
