"""Pruning: how often latents fire, and the coder without those that never do, or do all the time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from assay.coders.base import SparseCoder
from assay.coders.gated import Gated
from assay.coders.linear import LinearCoder
from assay.coders.matryoshka import Matryoshka
from assay.errors import BadInput
from assay.shapes import Bool, Float, Int, Tensor
from assay.splice import inference
from assay.surgery.patient import PIECE, Report, around, inside, look, mean, ready, twin_of, vectors, with_k

DENSE = 0.1


@torch.no_grad()
def firing(coder: SparseCoder[Any], x: Float[Tensor, "n d_in"]) -> Float[Tensor, " d_sae"]:
    """How often each latent of any coder fires: the share of the vectors, 0 to 1."""
    batch = vectors(coder, x, None, predicts=False)
    with inference(coder):
        counts = [coder.encode(part).latents.firing() for part in batch.x.split(PIECE)]
    return mean(counts, 1).double().cpu() / len(x)


def dead(frequency: Float[Tensor, " d_sae"], below: float = 0.0) -> Bool[Tensor, " d_sae"]:
    """Latents that never fire, or on less than a share `below` of the vectors."""
    if not 0 <= below < 1:
        raise BadInput(f"Latents are dead below a frequency from 0 to below 1, got {below}.")
    return frequency < below if below else frequency == 0


def dense(frequency: Float[Tensor, " d_sae"], above: float = DENSE) -> Bool[Tensor, " d_sae"]:
    """Latents that fire on more than a share `above` of the vectors."""
    if not 0 < above < 1:
        raise BadInput(f"Latents are dense above a frequency between 0 and 1, got {above}.")
    return frequency > above


@torch.no_grad()
def prune(
    coder: SparseCoder[Any],
    keep: Bool[Tensor, " d_sae"],
    x: Float[Tensor, "n d_in"] | None = None,
    y: Float[Tensor, "n d_out"] | None = None,
    *,
    fold: bool | None = None,
) -> tuple[SparseCoder[Any], Report]:
    """The coder without the latents that `keep` leaves out; the others stay in their order, and so in their Matryoshka prefixes.

    `fold`: add the mean over `x` of what reconstructions lose to b_dec; None does it where that lowers the FVU. Latents that never
    fire go without changing a reconstruction, in TopK coders too: what takes their place among the k is 0.
    """
    coder, inner = ready(coder)
    keep = torch.as_tensor(keep).cpu()
    if keep.dtype != torch.bool or keep.shape != (coder.d_sae,):
        raise BadInput(f"keep must be {coder.d_sae} truth values, got {tuple(keep.shape)} of {keep.dtype}.")
    if not keep.any():
        raise BadInput(f"Nothing would be left: all {coder.d_sae} latents are to be pruned. Change the bounds.")
    kept = keep.nonzero()[:, 0]
    less = narrowed(inner, kept)
    found = around(coder, less)
    report: Report = {"operation": "prune", "kept": kept.tolist(), "folded": False}
    if x is None:
        if fold:
            raise BadInput("The mean of what is lost is measured on vectors: give x.")
        return found, report | {"before": {"latents": coder.d_sae}, "after": {"latents": found.d_sae}}
    batch = vectors(coder, x, y)
    after = look(found, batch)
    if fold is not False and bool(firing(coder, x)[~keep].any()):
        lost = mean([(inner(part) - less(part)).sum(0) for part in inside(coder, batch).x.split(PIECE)], len(x))
        moved = around(coder, _moved(less, lost))
        folded = look(moved, batch)
        if fold or folded["fvu"] < after["fvu"]:
            found, after, report["folded"] = moved, folded, True
    return found, report | {"before": look(coder, batch), "after": after}


def narrowed(
    coder: LinearCoder[Any],
    kept: Int[Tensor, " kept"],
    mixed: Mapping[int, tuple[list[int], Float[Tensor, " members"]]] | None = None,
) -> LinearCoder[Any]:
    """With the latents `kept` alone; those in `mixed` become the weighted means of the members given there.

    Which axis of a weight is that of the latents shows where its shape changes with d_sae.
    """
    settings = {"d_sae": len(kept)} | with_k(coder, min(getattr(coder.config, "k", 1), len(kept)))
    if isinstance(coder, Matryoshka):
        lengths = sorted({int((kept < length).sum()) for length in coder.fixed} - {0})
        settings["fractions"] = ",".join("1" if length == len(kept) else f"{length}/{len(kept)}" for length in lengths)
    if len(kept) == coder.d_sae:
        return twin_of(coder)
    twin = twin_of(coder, **settings)
    weights, shapes = coder.state_dict(), {name: t.shape for name, t in twin.state_dict().items()}
    for name, t in weights.items():
        for axis in (i for i, (old, new) in enumerate(zip(t.shape, shapes[name])) if old != new):
            rows = t.transpose(0, axis).clone()
            for place, (members, share) in (mixed or {}).items():
                rows[place] = _mixed(rows[members], share, lengths=name == "W_dec")
            weights[name] = rows[kept.to(rows.device)].transpose(0, axis).contiguous()
    twin.load_state_dict(weights)
    return twin


def _mixed(rows: Tensor, share: Float[Tensor, " members"], *, lengths: bool) -> Tensor:
    """The mean; with `lengths`, as long as the members are on average."""
    found = torch.tensordot(share.to(rows), rows, dims=1)
    return found * (share.to(rows) @ rows.norm(dim=1)) / found.norm().clamp_min(1e-12) if lengths else found


def _moved(coder: LinearCoder[Any], by: Float[Tensor, " d_out"]) -> LinearCoder[Any]:
    """b_dec moved, with the same latents."""
    twin = twin_of(coder)
    if twin.centred:
        twin.b_enc.add_(by @ twin.W_enc)
        if isinstance(twin, Gated):
            twin.b_mag.add_(twin.r_mag.exp() * (by @ twin.W_enc))
    twin.b_dec.add_(by)
    return twin
