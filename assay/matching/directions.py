"""Directions: latents matched by the decoder rows they write with, both ways and one to one, beside what chance gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from assay.coders.base import SparseCoder
from assay.coders.linear import unit_rows
from assay.errors import BadInput, WidthMismatch
from assay.evals.seed_stability import SHARED, nearest
from assay.progress import Progress, silent
from assay.randomness import generator
from assay.shapes import Float, Tensor

NOVEL = SHARED
"""A latent whose largest cosine is below this has no counterpart."""
BLOCK = 2**24  # cosines held at once
CANDIDATES = 8  # of each latent of a, the most alike of b that may become its partner; of wide dictionaries fewer:
EDGES = 2**16  # so many in all, but one of each at least. The assignment's time grows faster than they do
SAMPLE = 2048  # latents of each coder that chance is measured on


@dataclass(frozen=True)
class Side:
    """The latents of one coder, each with its counterparts in the other. −1 and NaN: it was left out, or has none."""

    nearest: np.ndarray
    """[d_sae] the other coder's latent with the largest decoder cosine."""
    cosine: np.ndarray
    """[d_sae] that cosine."""
    partner: np.ndarray
    """[d_sae] the other's latent in the one-to-one assignment with the largest sum of cosines."""
    paired: np.ndarray
    """[d_sae] that pair's cosine."""
    chance: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Largest cosines that chance gives, of SAMPLE latents at most: "random" and "permuted" (see the module)."""

    @property
    def compared(self) -> np.ndarray:
        """[d_sae] whether the latent took part."""
        return self.nearest >= 0

    @property
    def mmcs(self) -> float:
        """Mean largest cosine over the latents that took part; NaN without any."""
        return float(self.cosine[self.compared].mean()) if self.compared.any() else float("nan")


@dataclass(frozen=True)
class Matching:
    """Two coders' latents, matched both ways."""

    a: Side
    b: Side

    @property
    def swapped(self) -> Matching:
        """The same, seen from the other side."""
        return Matching(self.b, self.a)


@dataclass(frozen=True)
class Group:
    """One latent, and several of the other coder whose nearest it is."""

    one: int
    many: np.ndarray
    """The closest first."""
    cosines: np.ndarray


def decoder(coder: SparseCoder[Any]) -> Float[Tensor, "d_sae d_out"]:
    """Unit decoder rows. `BadInput` for a coder that has none."""
    if not coder.linear:
        raise BadInput(f"{type(coder).__name__} has no decoder directions, so its latents cannot be matched by them.")
    return unit_rows(coder.W_dec.detach().float())


@torch.no_grad()
def match(
    u: Float[Tensor, "n d"],
    v: Float[Tensor, "m d"],
    alive: tuple[np.ndarray | None, np.ndarray | None] = (None, None),
    *,
    candidates: int | None = None,
    floor: float | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Matching:
    """Match unit directions both ways and one to one. `alive`: which of each take part; dead latents are where they began.

    Partners are exact among the pairs that `candidates` names: of each of `u` its so many nearest (8; fewer above 8,192 latents), and of
    each of `v` its nearest; but only pairs with a cosine above `floor`, by default what random directions exceed once in a hundred. With
    floor 0 and `candidates` as large as `v` that is the Hungarian assignment.
    """
    if u.shape[1] != v.shape[1]:
        raise WidthMismatch(
            f"Directions of width {u.shape[1]} and {v.shape[1]} lie in different spaces. Compare coders of one site."
        )
    keep = [np.arange(len(w)) if some is None else np.flatnonzero(some) for w, some in zip((u, v), alive, strict=True)]
    sizes = len(u), len(v)
    u, v = (w if len(w) == len(ids) else w[torch.from_numpy(ids).to(w.device)] for w, ids in zip((u, v), keep, strict=True))
    if not len(u) or not len(v):
        return Matching(*(_side(n, ids[:0]) for n, ids in zip(sizes, keep, strict=True)))
    k = candidates or min(CANDIDATES, max(1, EDGES // max(len(u), len(v))))
    values, indices, best, which = _candidates(u, v, min(k, len(v)), progress)
    progress(len(u), len(u), "latents; now by chance, and one to one")
    chance = _chance(u, v, seed)
    partner, paired = assign(values, indices, best, which, _exceeded(chance) if floor is None else floor)
    back = np.full(len(v), -1)
    back[partner[partner >= 0]] = np.flatnonzero(partner >= 0)
    ours = _side(sizes[0], keep[0], keep[1], indices[:, 0], values[:, 0], partner, paired, chance[0])
    return Matching(
        ours, _side(sizes[1], keep[1], keep[0], which, best, back, np.where(back < 0, np.nan, paired[back]), chance[1])
    )


def assign(
    values: np.ndarray, indices: np.ndarray, best: np.ndarray, which: np.ndarray, floor: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """(partner, cosine) of each row, one to one, −1 and NaN for none: the largest sum over the candidate pairs above `floor`.

    Row i's candidates are the columns `indices[i]`; column j's is the row `which[j]`. Every row may also stay alone, at a column of
    its own that is worth next to nothing, so that a full assignment always exists.
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    n, m = len(indices), len(which)
    i = np.concatenate([np.repeat(np.arange(n), indices.shape[1]), which])
    j = np.concatenate([indices.reshape(-1), np.arange(m)])
    worth = np.concatenate([values.reshape(-1), best]).astype(np.float64)
    _, first = np.unique(i * m + j, return_index=True)
    first = first[worth[first] > max(floor, 0)]
    alone = np.arange(n)
    pairs = np.concatenate([i[first], alone]), np.concatenate([j[first], m + alone])
    graph = csr_matrix((np.concatenate([worth[first], np.full(n, 1e-9)]), pairs), shape=(n, m + n))
    rows, columns = min_weight_full_bipartite_matching(graph, maximize=True)
    partner, cosine = np.full(n, -1), np.full(n, np.nan)
    real = columns < m
    partner[rows[real]] = columns[real]
    cosine[rows[real]] = np.asarray(graph[rows[real], columns[real]]).reshape(-1)
    return partner, cosine


def _candidates(u: Tensor, v: Tensor, k: int, progress: Progress) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of each of `u` its k nearest in `v` (cosines, which; the nearest first), and of each of `v` its nearest in `u`."""
    step = max(1, BLOCK // len(v))
    values, indices = np.empty((len(u), k), np.float32), np.empty((len(u), k), np.int64)
    best, which = v.new_full((len(v),), -torch.inf), torch.zeros(len(v), dtype=torch.int64, device=v.device)
    for start in range(0, len(u), step):
        cosines = u[start : start + step] @ v.T
        top = cosines.topk(k, dim=1)
        stop = start + len(cosines)
        values[start:stop], indices[start:stop] = top.values.cpu().numpy(), top.indices.cpu().numpy()
        column = cosines.max(0)
        which = torch.where(column.values > best, column.indices + start, which)
        best = torch.maximum(best, column.values)
        progress(stop, len(u), "latents matched")
    return values.clip(-1, 1), indices, best.clamp(-1, 1).cpu().numpy(), which.cpu().numpy()


def _chance(u: Tensor, v: Tensor, seed: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What chance gives each side: see `Side.chance`. A sample of one side meets all of the other."""
    random = generator("matching", "chance", seed)
    turned = torch.randperm(u.shape[1], generator=random).to(u.device)
    found = []
    for own, other in ((u, v), (v, u)):
        some = own[torch.randperm(len(own), generator=random)[:SAMPLE].to(own.device)]
        blind = [unit_rows(torch.randn(len(w), w.shape[1], generator=random)).to(own.device) for w in (some, other)]
        pairs = {"random": blind, "permuted": (some, other[:, turned])}
        found.append({name: nearest(x, y)[0][0].clip(-1, 1) for name, (x, y) in pairs.items()})
    return found[0], found[1]


def _exceeded(chance: Sequence[Mapping[str, np.ndarray]]) -> float:
    """What random directions exceed once in a hundred, on the side where that is more."""
    return float(max(np.quantile(one["random"], 0.99) for one in chance))


def _side(
    n: int, ids: np.ndarray, others: np.ndarray | None = None, near: np.ndarray | None = None, cosine: Any = None,
    partner: np.ndarray | None = None, paired: Any = None, chance: Mapping[str, np.ndarray] | None = None,
) -> Side:  # fmt: skip
    """A side of n latents of which those in `ids` took part, against `others`."""
    found = Side(np.full(n, -1), np.full(n, np.nan), np.full(n, -1), np.full(n, np.nan), chance or {})
    if others is not None and near is not None and partner is not None:
        found.nearest[ids], found.cosine[ids], found.paired[ids] = others[near], cosine, paired
        found.partner[ids] = np.where(partner < 0, -1, others[partner])
    return found


# ---- splits, merges, what is unique --------------------------------------------------------------------------------------------


def splits(found: Matching, at: float = NOVEL) -> list[Group]:
    """Latents of a that several of b have as their nearest, with cosines of at least `at`; those shared by most first."""
    return _groups(found.b, at)


def merges(found: Matching, at: float = NOVEL) -> list[Group]:
    """Latents of b that several of a have as their nearest, with cosines of at least `at`."""
    return _groups(found.a, at)


def kinds(found: Matching, at: float = NOVEL) -> dict[str, np.ndarray]:
    """What became of each latent of a, as masks: "unique" (no counterpart), "split" (several of b point at it), "merged" (it points at one
    that others of a point at too), and "single": it has a counterpart and is neither."""
    own, other = found.a, found.b
    here = own.compared & (own.cosine >= at)
    split = np.bincount(other.nearest[other.cosine >= at], minlength=len(own.nearest)) > 1
    shared = np.bincount(own.nearest[here], minlength=len(other.nearest))
    merged = here & (shared[own.nearest] > 1)
    return {"unique": own.compared & ~here, "split": split, "merged": merged, "single": here & ~split & ~merged}


def mutual(found: Matching) -> np.ndarray:
    """Which latents of a are the nearest of their own nearest."""
    own, other = found.a, found.b
    return own.compared & (other.nearest[own.nearest] == np.arange(len(own.nearest)))


def _groups(many: Side, at: float) -> list[Group]:
    some = np.flatnonzero(many.cosine >= at)
    some = some[np.lexsort((some, -many.cosine[some], many.nearest[some]))]
    ones, starts, sizes = np.unique(many.nearest[some], return_index=True, return_counts=True)
    spans = [part[sizes > 1].tolist() for part in (ones, starts, sizes)]
    found = [Group(one, some[s : s + n], many.cosine[some[s : s + n]]) for one, s, n in zip(*spans, strict=True)]
    return sorted(found, key=lambda group: (-len(group.many), group.one))
