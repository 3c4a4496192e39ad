"""LinearCoder: the weights that nearly every architecture has. W_enc, b_enc, W_dec, b_dec, and decoder rows of unit norm.

Both directions are centred: pre-activations are (x − b_dec) @ W_enc + b_enc when d_in = d_out, as in Bricken et al. 2023.
Architectures offer what published recipes do otherwise as settings of their own, read here: `decoder` ("free": rows of any norm,
by which penalties and choices among latents are then weighed), `centred` (False: b_dec is not taken off the input), `free_norm`
(length of free decoder rows at the start), `start_norm` (length of W_enc's columns at the start).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from assay.coders.base import Batch, C, Code, SparseCoder
from assay.coders.latents import Latents
from assay.errors import BadInput
from assay.kernels import encode, sparse
from assay.kernels.encode import Chosen, Product
from assay.randomness import generator
from assay.shapes import Float, Tensor
from assay.timeline import part

FREE_NORM = 0.1  # length of decoder rows at the start when they are free


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
        self.centred = self.d_in == self.d_out and getattr(config, "centred", True)
        self.free = getattr(config, "decoder", "unit") == "free"
        random = generator("coder", type(self).__name__, seed)
        W_dec = unit_rows(torch.randn(self.d_sae, self.d_out, generator=random))
        W_enc = W_dec if self.d_in == self.d_out else unit_rows(torch.randn(self.d_sae, self.d_in, generator=random))
        self.W_enc = nn.Parameter(W_enc.clone().T)  # a latent's column lies together in memory, as its sparse gradient does
        self.b_enc = nn.Parameter(torch.zeros(self.d_sae))
        self.W_dec = nn.Parameter(W_dec.clone())
        self.b_dec = nn.Parameter(torch.zeros(self.d_out))
        self.start_norm = self._shorten(config)

    @torch.no_grad()
    def _shorten(self, config: Any) -> float:
        """The start's lengths, where they are not 1; returns that of W_enc's columns."""
        decoder, norm = getattr(config, "decoder", "unit"), getattr(config, "free_norm", FREE_NORM)
        columns = getattr(config, "start_norm", None)
        if decoder not in ("unit", "free"):
            raise BadInput(f"decoder must be 'unit' or 'free', got {decoder!r}.")
        if not norm > 0 or (columns is not None and not columns > 0):
            raise BadInput(f"free_norm and start_norm must be positive, got {norm} and {columns}.")
        if self.free:
            self.W_dec.mul_(norm)
        columns = columns or (norm if self.free else 1.0)
        if columns != 1:
            self.W_enc.mul_(columns)
        return columns

    def bias(self) -> Float[Tensor, " d_sae"]:
        """b_enc with the centring folded in: pre = x @ W_enc + bias()."""
        return self.b_enc - self.b_dec @ self.W_enc if self.centred else self.b_enc

    def pre_activations(self, x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_sae"]:
        """All pre-activations, dense, with gradients."""
        self.check_width(x)
        return x @ self.W_enc + self.bias()

    def weigh(self, f: Latents) -> Tensor:
        """f · ‖d‖ where decoder rows are free, else f, beside the values: how much of the reconstruction each latent is."""
        return f.values * f.spread(self.W_dec.norm(dim=1)) if self.free else f.values

    def chosen(self, x: Float[Tensor, "*n d_in"], choose: Callable[[Product], Chosen | None]) -> Latents | None:
        """Pre-activations of the latents that `choose` picks, with gradients through those alone; None where it picks none at all."""
        self.check_width(x)
        flat, centre = x.reshape(-1, self.d_in), self.b_dec if self.centred else None
        with torch.no_grad():
            weight = self.W_dec.norm(dim=1) if self.free else None
            with part("selection"):
                centred = flat if centre is None else flat - centre
                found = choose(Product(centred, self.W_enc, self.b_enc, weight, self.rough and self.training))
        if found is None:
            return None
        values = sparse.select(flat, centre, self.W_enc, self.b_enc, *found)
        return Latents.from_csr(values, found.indices, found.offsets, (*x.shape[:-1], self.d_sae))

    def encode_chosen(self, x: Float[Tensor, "*n d_in"], choose: Callable[[Product], Chosen | None]) -> Code:
        """A code of the latents that `choose` picks."""
        found = self.chosen(x, choose)
        assert found is not None
        return Code(found.map(torch.relu), self.b_dec)

    def above(self, x: Float[Tensor, "*n d_in"], threshold: float | Float[Tensor, "*d_sae"], *, silent: float = 1.0) -> Latents:
        """Pre-activations: those above a threshold where they are few, all where they are many. Gradients through those given.

        `silent`: how many times as many as usual are still few, where most of them are zeros to the decoder.
        """
        most = silent * encode.DENSE.get(x.device.type, encode.DENSE["cpu"])
        with torch.no_grad():
            threshold = torch.as_tensor(threshold, device=x.device).detach()
        few = self.chosen(x, lambda product: replace(product, weight=None, rough=False).above(threshold, dense=most))
        return few or Latents.from_dense(self.pre_activations(x))

    @torch.no_grad()
    def initialise(self, batch: Batch) -> None:
        self.b_dec.copy_(batch.y.mean(0))

    @torch.no_grad()
    def constrain_gradient(self) -> None:
        """Take out the part of the gradient that would only change the length of decoder rows."""
        if self.W_dec.grad is not None and not self.free:
            along = sparse.row_dots(self.W_dec.grad, self.W_dec)
            self.W_dec.grad.addcmul_(along[:, None], self.W_dec, value=-1)

    @torch.no_grad()
    def constrain(self) -> None:
        if not self.free:
            self.W_dec.div_(self.W_dec.norm(dim=1, keepdim=True).clamp_min(1e-12))

    @torch.no_grad()
    def rescale(self, x_scale: float, y_scale: float) -> None:
        self.b_enc.div_(x_scale)
        self.b_dec.div_(y_scale)
        if x_scale != y_scale:
            self.W_dec.mul_(x_scale / y_scale)

    @torch.no_grad()
    def absorb_norms(self) -> Float[Tensor, " d_sae"]:
        """In place: decoder rows of norm 1, their lengths moved into W_enc and b_enc, and so into the latents. Returns the lengths."""
        norms = self.W_dec.norm(dim=1)
        self.W_enc.mul_(norms)
        self.b_enc.mul_(norms)
        self.W_dec.copy_(unit_rows(self.W_dec))
        return norms

    @torch.no_grad()
    def with_unit_rows(self) -> LinearCoder[C]:
        """A copy whose free decoder rows have norm 1 instead, and which reconstructs the same."""
        twin = self.clone()
        assert isinstance(twin, LinearCoder)
        twin.config, twin.free = replace(self.config, decoder="unit"), False
        twin.absorb_norms()
        return twin

    def extra_repr(self) -> str:
        return f"d_in={self.d_in}, d_sae={self.d_sae}, d_out={self.d_out}"


def k_now(coder: LinearCoder[Any]) -> int:
    """Latents kept per token at this moment of training: k, or more while it is annealed (Gao et al. 2024)."""
    config = coder.config
    if not coder.training or coder.fraction >= config.anneal_k:
        return config.k
    start, done = min(config.k_start or coder.d_in, coder.d_sae), coder.fraction / config.anneal_k
    return max(config.k, round(start + (config.k - start) * done))


def check_topk(config: Any) -> None:
    """Refuse impossible settings of the TopK family."""
    if not 1 <= config.k <= config.d_sae:
        raise BadInput(f"k must lie between 1 and d_sae = {config.d_sae}, got {config.k}.")
    if not 0 <= config.aux_weight < float("inf") or (config.k_aux is not None and config.k_aux < 1):
        raise BadInput(f"aux_weight must be 0 or more and k_aux at least 1, got {config.aux_weight} and {config.k_aux}.")
    if not 0 <= config.anneal_k <= 1 or (config.k_start is not None and config.k_start < config.k):
        raise BadInput(
            f"anneal_k must lie between 0 and 1 and k_start be at least k, got {config.anneal_k} and {config.k_start}."
        )
    if config.aux not in ("relative", "absolute"):
        raise BadInput(f"aux must be 'relative' or 'absolute', got {config.aux!r}.")
