"""Latents: dense or sparse, and nobody else needs to know which.

Sparse latents are kept as in a CSR matrix: for token i, `indices[offsets[i]:offsets[i+1]]` name its active latents and `values`
hold their activations. Decoding them, and both gradients, cost O(non-zeros · d).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod

import torch

from assay.errors import WidthMismatch
from assay.kernels import sparse
from assay.shapes import Bool, Float, Int, Tensor


@dataclass(frozen=True)
class Latents:
    """Activations of d_sae latents for tokens of any leading shape. Build with `from_dense` or `from_csr`."""

    values: Tensor
    """[*n, d_sae] when dense, [nnz] when sparse."""
    shape: tuple[int, ...]
    """(*n, d_sae)"""
    indices: Int[Tensor, " nnz"] | None = None
    offsets: Int[Tensor, " n_plus_one"] | None = None

    @classmethod
    def from_dense(cls, z: Float[Tensor, "*n d_sae"]) -> Latents:
        return cls(z, tuple(z.shape))

    @classmethod
    def from_csr(cls, values: Tensor, indices: Tensor, offsets: Tensor, shape: tuple[int, ...]) -> Latents:
        return cls(values, shape, indices, offsets)

    @property
    def is_sparse(self) -> bool:
        return self.indices is not None

    @property
    def d_sae(self) -> int:
        return self.shape[-1]

    @property
    def count(self) -> int:
        """Number of tokens."""
        return prod(self.shape[:-1])

    def map(self, change: Callable[[Tensor], Tensor]) -> Latents:
        """The latents with `change` made to each value. It must leave 0 as it is: zeros that sparse latents leave out stay."""
        return replace(self, values=change(self.values))

    def spread(self, of_latents: Float[Tensor, " d_sae"]) -> Tensor:
        """Numbers of single latents, so that they stand beside, or broadcast to, `values`."""
        return of_latents if self.indices is None else of_latents[self.indices]

    def frequency(self, on: Tensor) -> Float[Tensor, " d_sae"]:
        """Mean over tokens, for each latent, of what stands beside `values`."""
        if self.indices is None:
            return on.reshape(-1, self.d_sae).mean(0)
        return on.new_zeros(self.d_sae).index_add(0, self.indices, on) / self.count

    def total(self, costs: Tensor) -> Float[Tensor, ""]:
        """Sum over latents, mean over tokens, of what stands beside `values`."""
        return costs.sum() / self.count

    def rows(self) -> Int[Tensor, " nnz"]:
        """Token of each non-zero, for sparse latents."""
        assert self.offsets is not None
        return torch.repeat_interleave(torch.arange(self.count, device=self.offsets.device), self.offsets.diff())

    def dense(self) -> Float[Tensor, "*n d_sae"]:
        """All latents, zeros included; gradients flow back to `values`."""
        if self.indices is None:
            return self.values
        flat = self.values.new_zeros(self.count, self.d_sae)
        return flat.index_put((self.rows(), self.indices), self.values).reshape(self.shape)

    def decode(self, W_dec: Float[Tensor, "d_sae d_out"]) -> Float[Tensor, "*n d_out"]:
        """z @ W_dec."""
        if self.indices is None or self.offsets is None:
            return self.values @ W_dec
        out = sparse.decode(self.values, self.indices, self.offsets, W_dec)
        return out.reshape(*self.shape[:-1], W_dec.shape[1])

    def split(self, sizes: Sequence[int]) -> list[Latents]:
        """Groups of consecutive latents, `sizes` wide, as `torch.split` makes them; each non-zero goes to one group."""
        if sum(sizes) != self.d_sae:
            raise WidthMismatch(f"Groups of {sum(sizes)} latents in all were asked for; there are {self.d_sae}.")
        if self.indices is None or self.offsets is None:
            return [Latents.from_dense(z) for z in self.values.split(list(sizes), dim=-1)]
        groups, start = [], 0
        for size in sizes:
            inside = (self.indices >= start) & (self.indices < start + size)
            before = torch.cat([self.offsets.new_zeros(1), inside.cumsum(0)])
            part = Latents.from_csr(
                self.values[inside], self.indices[inside] - start, before[self.offsets], (*self.shape[:-1], size)
            )
            groups.append(part)
            start += size
        return groups

    def firing(self) -> Int[Tensor, " d_sae"]:
        """On how many tokens each latent is non-zero."""
        if self.indices is None:
            return (self.values != 0).reshape(-1, self.d_sae).sum(0)
        live = (self.values != 0).long()  # bincount would wait for a GPU
        return live.new_zeros(self.d_sae).index_add(0, self.indices, live)

    def fired(self) -> Bool[Tensor, " d_sae"]:
        """Which latents are non-zero anywhere."""
        return self.firing() > 0

    def l0(self) -> Float[Tensor, " n"]:
        """Non-zero latents of each token."""
        if self.indices is None:
            return (self.values != 0).reshape(-1, self.d_sae).sum(1).float()
        live = (self.values != 0).to(self.values.dtype)
        return live.new_zeros(self.count).index_add(0, self.rows(), live).float()
