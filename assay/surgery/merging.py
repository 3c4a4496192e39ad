"""Merging: latents that say the same become one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from assay.coders.base import Batch, SparseCoder
from assay.coders.jumprelu import JumpReLU
from assay.coders.linear import LinearCoder, unit_rows
from assay.errors import BadInput
from assay.shapes import Float, Int, Tensor
from assay.surgery.patient import PIECE, Report, around, inside, look, mean, ready, twin_of, vectors
from assay.surgery.pruning import narrowed

COSINE = 0.9
ROUNDS = 3  # fits: a new length changes which latents are chosen, and so what is to be fitted
STEADY = 10  # firings that the old direction of a merged latent counts for when the new one is fitted


@torch.no_grad()
def merge(
    coder: SparseCoder[Any], x: Float[Tensor, "n d_in"], cosine: float = COSINE, y: Float[Tensor, "n d_out"] | None = None
) -> tuple[SparseCoder[Any], Report]:
    """Near-duplicate latents (see `duplicates`) become one each, in the place of the first.

    Its encoder, bias and threshold are the members' means, weighed by their energy E[z²]‖d‖² over `x`. Its direction is their mean
    too or, as long as that lowers the FVU, the least-squares fit to what the other latents leave of y; the length of the fit goes
    into the encoder, unless decoder rows are free.
    """
    coder, inner = ready(coder)
    batch = vectors(coder, x, y)
    seen = inside(coder, batch)
    groups = duplicates(coder, x, cosine)
    energy = mean([inner.encode(part).z.square().sum(0) for part in seen.x.split(PIECE)], len(x)) * inner.W_dec.square().sum(1)
    firsts = [min(group) for group in groups]
    gone = {member for group in groups for member in group} - set(firsts)
    kept = torch.tensor([i for i in range(coder.d_sae) if i not in gone])
    less = narrowed(inner, kept, {first: (group, _shares(energy[group])) for first, group in zip(firsts, groups)})
    after = look(around(coder, less), batch)
    for _ in range(ROUNDS if groups else 0):
        fitted = _fitted(less, torch.searchsorted(kept, torch.tensor(firsts)), seen)
        closer = look(around(coder, fitted), batch)
        if closer["fvu"] >= after["fvu"]:
            break
        less, after = fitted, closer
    report = {"operation": "merge", "kept": kept.tolist(), "groups": groups}
    return around(coder, less), report | {"before": look(coder, batch), "after": after}


@torch.no_grad()
def duplicates(coder: SparseCoder[Any], x: Float[Tensor, "n d_in"], cosine: float = COSINE) -> list[list[int]]:
    """Groups of latents that say the same; the first of each is the one of most energy.

    The others are all like it: decoder rows have a cosine of at least `cosine`, and so have encoder columns or else activations
    over `x`. Chains, in which only neighbours are alike, are not followed.
    """
    if not 0 < cosine <= 1:
        raise BadInput(f"Latents are duplicates from a cosine above 0 and up to 1 on, got {cosine}.")
    coder, inner = ready(coder)
    seen = inside(coder, vectors(coder, x, None, predicts=False))
    pairs = _alike(unit_rows(inner.W_dec), cosine)
    if not len(pairs):
        return []
    some, place = pairs.unique(return_inverse=True)
    gram = torch.zeros(len(some), len(some), dtype=torch.float64, device=some.device)
    for part in seen.x.split(PIECE):
        z = inner.encode(part).z[:, some].double()
        gram += z.T @ z
    lengths = gram.diagonal().clamp_min(1e-30).sqrt()
    together = gram[place[:, 0], place[:, 1]] / (lengths[place[:, 0]] * lengths[place[:, 1]])
    columns = unit_rows(inner.W_enc.T)
    encoders = (columns[pairs[:, 0]] * columns[pairs[:, 1]]).sum(1)
    linked = pairs[(encoders >= cosine) | (together >= cosine)].tolist()
    energy = gram.diagonal() * inner.W_dec[some].square().sum(1)
    return _stars(linked, dict(zip(some.tolist(), energy.tolist())))


def _alike(rows: Float[Tensor, "d_sae d"], cosine: float) -> Int[Tensor, "pairs 2"]:
    """Pairs of unit rows, the smaller number first, with at least this cosine."""
    found = []
    for start in range(0, len(rows), PIECE):
        near = (rows[start : start + PIECE] @ rows.T >= cosine).nonzero()
        near[:, 0] += start
        found.append(near[near[:, 0] < near[:, 1]])
    return torch.cat(found)


def _stars(linked: Sequence[Sequence[int]], energy: Mapping[int, float]) -> list[list[int]]:
    """Groups of a leader and what is linked to it; who has more energy leads."""
    near: dict[int, set[int]] = {}
    for a, b in linked:
        near.setdefault(a, set()).add(b)
        near.setdefault(b, set()).add(a)
    free, groups = set(near), []
    for leader in sorted(near, key=lambda i: (-energy[i], i)):
        if leader in free and near[leader] & free:
            groups.append([leader, *sorted(near[leader] & free)])
            free -= set(groups[-1])
    return groups


def _shares(energy: Float[Tensor, " members"]) -> Float[Tensor, " members"]:
    """Weights of a group's members, equal where none ever fired."""
    return energy / energy.sum() if energy.sum() > 0 else torch.full_like(energy, 1 / len(energy))


def _fitted(coder: LinearCoder[Any], places: Int[Tensor, " merged"], batch: Batch) -> LinearCoder[Any]:
    """With the decoder rows at `places` fitted jointly by least squares; what fired little is held near its old row."""
    twin, rows = twin_of(coder), coder.W_dec[places].double()
    gram, target, fires = rows.new_zeros(len(rows), len(rows)), torch.zeros_like(rows), rows.new_zeros(len(rows))
    for x, y in zip(batch.x.split(PIECE), batch.y.split(PIECE)):
        code = coder.encode(x)
        z = code.z[:, places].double()
        left = (y - coder.decode(code)).double() + z @ rows
        gram, target, fires = gram + z.T @ z, target + z.T @ left, fires + (z > 0).sum(0)
    prior = torch.where(fires > 0, STEADY * gram.diagonal() / fires.clamp_min(1), 1.0)
    fit = torch.linalg.solve(gram + prior.diag(), target + prior[:, None] * rows)
    length = fit.norm(dim=1) / rows.norm(dim=1).clamp_min(1e-12)
    length = torch.ones_like(length) if coder.free else length.clamp_min(1e-3)
    twin.W_dec[places] = (fit / length[:, None]).float()
    twin.W_enc[:, places] *= length.float()
    for name in ("b_enc", "b_mag"):
        if hasattr(twin, name):
            getattr(twin, name)[places] *= length.float()
    if isinstance(twin, JumpReLU):
        twin.log_threshold[places] += length.log().float()
    return twin
