"""Encode: the one dense product of a step, pre = (x − b_dec) @ W_enc + b_enc, and the choice among its entries.

A batch has n · d_sae pre-activations, of which a sparse code keeps a few in a thousand. On a CPU they are made and searched a block
of rows at a time, so that they stay near the processor and [n, d_sae] never exists. Nothing here has a gradient: `sparse.select`
gives the chosen entries theirs.

With `rough`, the dense product is taken in bfloat16, a few more entries than needed are chosen by it, and these are computed anew in
full precision: what is kept, among them, is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from assay.kernels import launch, sparse
from assay.shapes import Bool, Float, Int, Tensor
from assay.timeline import part

BLOCK = 2**23  # pre-activations made at once on a CPU,
ROWS = 512  # of as many rows at least: with fewer, a wide W_enc is read too often for one product
DENSE = {"cpu": 0.05, "cuda": 0.01}  # share of active entries from which dense products are faster than sparse ones
SAMPLE = 64  # rows from which the height of the largest entries is guessed
GROUP = 16  # entries of a row of which only the largest is compared at first
SPARE = 0.25  # more candidates than needed where they are chosen roughly, as a share


class Chosen(NamedTuple):
    """Entries of the product, as in a CSR matrix: row i has `indices[offsets[i]:offsets[i+1]]`, rising."""

    values: Float[Tensor, " nnz"]
    indices: Int[Tensor, " nnz"]
    offsets: Int[Tensor, " n_plus_one"]


@dataclass(frozen=True)
class Product:
    """(x @ W + bias), not yet computed. `weight` [d_sae] multiplies entries where they are compared, not where they are given."""

    x: Float[Tensor, "n d_in"]
    W: Float[Tensor, "d_in d_sae"]
    bias: Float[Tensor, " d_sae"]
    weight: Float[Tensor, " d_sae"] | None = None
    rough: bool = False

    def blocks(self) -> Iterator[tuple[int, Float[Tensor, "rows d_sae"]]]:
        """(number of its first row, entries) for every block of rows. Each is overwritten by the next."""
        x, W, bias = (t.bfloat16() for t in (self.x, self.W, self.bias)) if self.rough else (self.x, self.W, self.bias)
        n, width = len(x), W.shape[1]
        rows = max(1, n if x.is_cuda else min(n, max(ROWS, BLOCK // width)))
        room = x.new_empty(rows, width)
        for start in range(0, max(n, 1), rows):  # one block at least, if an empty one
            some = x[start : start + rows]
            with part("encoder"):
                pre = torch.addmm(bias, some, W, out=room[: len(some)])
            yield start, pre

    def rank(self, pre: Float[Tensor, "rows d_sae"]) -> Float[Tensor, "rows d_sae"]:
        """What entries of a block are compared by."""
        return pre if self.weight is None else pre * self.weight.to(pre.dtype)

    def exact(self, indices: Int[Tensor, " m"], offsets: Int[Tensor, " n_plus_one"]) -> Float[Tensor, " m"]:
        """Single entries, in full precision."""
        dots = sparse.dots(self.x, self.W.t().contiguous(), sparse.row_of(offsets, len(indices)), indices, offsets)
        return dots + self.bias[indices]

    def columns(self, pick: Callable[[Float[Tensor, "rows d_sae"]], Int[Tensor, "rows k"]]) -> Chosen:
        """As many of each row: those in the columns, rising, that `pick` gives for a block."""
        found, values = [], []
        for _, pre in self.blocks():
            found.append(pick(self.rank(pre)))
            values.append(pre.gather(1, found[-1]))
        indices = torch.cat(found)
        offsets = torch.arange(len(indices) + 1, device=indices.device) * indices.shape[1]
        flat = indices.reshape(-1)
        return Chosen(self.exact(flat, offsets) if self.rough else torch.cat(values).reshape(-1), flat, offsets)

    def rows_topk(self, k: int) -> Chosen:
        """The k largest of each row."""
        take = min(self.W.shape[1], k + max(8, round(SPARE * k))) if self.rough else k
        found = self.columns(lambda rank: topk_of_rows(rank, take))
        if take == k:
            return found
        values, indices = found.values.view(-1, take), found.indices.view(-1, take)
        rank = values if self.weight is None else values * self.weight[indices]
        kept = rank.topk(k, dim=1, sorted=False).indices.sort(dim=1).values
        return Chosen(values.gather(1, kept).reshape(-1), indices.gather(1, kept).reshape(-1), found.offsets // take * k)

    def largest(self, count: int) -> Chosen:
        """The `count` largest positive entries of all rows together, or as many as there are. The last of equals are left out."""
        if launch.usable(self.x) and not self.rough:
            return self._largest_by_triton(count)
        cells, values = self._beyond(bound := self._guess(count))
        if len(cells) < count and bound > 0:  # the sample misled; rare
            cells, values = self._beyond(torch.zeros_like(bound))
        width = self.W.shape[1]
        if self.rough:
            values = self.exact(cells % width, self._offsets(cells))
        rank = values if self.weight is None else values * self.weight[cells % width]
        keep = rank > 0
        if len(cells) > count:
            least = rank.kthvalue(len(rank) - count + 1).values.clamp_min(0)
            keep &= rank >= least
            if (extra := int(keep.sum()) - count) > 0:
                keep[(rank == least).nonzero()[-extra:, 0]] = False
        return self._chosen(cells[keep], values[keep])

    def above(self, threshold: float | Float[Tensor, "*d_sae"], dense: float = 1.0) -> Chosen | None:
        """All entries that exceed a threshold; None as soon as a block shows that more than the share `dense` do."""
        if launch.usable(self.x):
            return self._above_by_triton(threshold, dense)
        found = self._beyond(threshold, dense)
        return found and self._chosen(*found)

    def _largest_by_triton(self, count: int) -> Chosen:
        """With a value of 0 for entries that are not positive: how many these are, only the GPU knows."""
        from assay.kernels import triton_select

        _, pre = next(self.blocks())
        rank, indices, offsets = triton_select.batch_topk(self.rank(pre), min(count, pre.numel()))
        values = rank if self.weight is None else pre[sparse.row_of(offsets, len(indices)), indices]
        return Chosen(values.relu(), indices, offsets)

    def _above_by_triton(self, threshold: float | Tensor, dense: float) -> Chosen | None:
        from assay.kernels import triton_select

        _, pre = next(self.blocks())
        rank = self.rank(pre)
        if int(triton_select.count_above(rank, threshold).sum()) > dense * pre.numel():
            return None
        indices, offsets = triton_select.compact_above(rank, threshold)
        return Chosen(pre[sparse.row_of(offsets, len(indices)), indices], indices, offsets)

    def _guess(self, count: int) -> Float[Tensor, ""]:
        """What somewhat more than `count` entries should exceed, from a sample of rows. Not below 0."""
        n, width = len(self.x), self.W.shape[1]
        some = torch.arange(0, n, max(1, n // SAMPLE), device=self.x.device)
        if count * 2 > n * width or not n:
            return self.x.new_zeros(())
        rank = torch.cat([self.rank(pre).reshape(-1) for _, pre in replace(self, x=self.x[some]).blocks()])
        place = min(len(rank), round((1 + SPARE) * count * len(some) / n) + 32)
        return rank.topk(place, sorted=False).values.min().clamp_min(0)

    def _beyond(self, threshold: float | Tensor, dense: float = 1.0) -> Any:
        """Flat positions and values of the entries whose rank exceeds a threshold; None when too many do."""
        width, cells, values = self.W.shape[1], [], []
        for start, pre in self.blocks():
            inside = positions(self.rank(pre) > threshold)
            if len(inside) > dense * pre.numel():
                return None
            cells.append(inside + start * width)
            values.append(pre.view(-1)[inside])
        return torch.cat(cells), torch.cat(values)

    def _chosen(self, cells: Int[Tensor, " m"], values: Float[Tensor, " m"]) -> Chosen:
        return Chosen(values, cells % self.W.shape[1], self._offsets(cells))

    def _offsets(self, cells: Int[Tensor, " m"]) -> Int[Tensor, " n_plus_one"]:
        """Where each row begins among flat positions that rise."""
        starts = torch.arange(len(self.x) + 1, device=cells.device) * self.W.shape[1]
        return torch.searchsorted(cells, starts)


def topk_of_rows(pre: Float[Tensor, "rows d_sae"], k: int) -> Int[Tensor, "rows k"]:
    """Columns of the k largest entries of each row, rising.

    Where it pays, only k of every 16th columns' maxima are looked behind: the k largest entries lie behind the k largest maxima.
    """
    rows, width = pre.shape
    groups = width // GROUP
    if launch.usable(pre):
        from assay.kernels import triton_select

        return triton_select.rows_topk(pre, k)[1]
    if pre.is_cuda or width % GROUP or groups < 4 * k:
        return pre.topk(k, dim=1, sorted=False).indices.sort(dim=1).values
    behind = pre.view(rows, GROUP, groups).amax(1).topk(k, dim=1, sorted=False).indices
    columns = (behind[:, None, :] + torch.arange(0, width, groups)[:, None]).view(rows, GROUP * k)
    return columns.gather(1, pre.gather(1, columns).topk(k, dim=1, sorted=False).indices).sort(dim=1).values


def positions(keep: Bool[Tensor, "rows d_sae"]) -> Int[Tensor, " m"]:
    """Flat positions of what is True, rising. On a CPU eight entries are looked at together, since most are False."""
    flat = keep.view(-1)
    if keep.is_cuda or len(flat) % 8:
        return flat.nonzero()[:, 0]
    words = flat.view(torch.int64).nonzero()[:, 0]
    word, byte = flat.view(-1, 8)[words].nonzero().unbind(1)
    return words[word] * 8 + byte
