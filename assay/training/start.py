"""Start: where a coder's training begins: b_dec, the encoder, or the weights of a coder that was trained before."""

from __future__ import annotations

from typing import Any, Literal

import torch

from assay.coders.base import Batch, SparseCoder
from assay.coders.composed import Composed
from assay.coders.linear import LinearCoder, unit_rows
from assay.errors import BadInput, UnknownName, WidthMismatch
from assay.randomness import generator
from assay.shapes import Float, Tensor

FORM = ("decoder", "centred", "widths", "norm", "of")
"""Settings that decide what weights mean, beside the three widths; the others only decide how they learn."""


@torch.no_grad()
def begin(coder: SparseCoder[Any], batch: Batch, b_dec: Literal["mean", "median", "zeros"] = "mean", tied: bool = True) -> None:
    """A fresh start from the data: what the architecture does itself, with an encoder of its own when not `tied`."""
    coder.initialise(batch)
    if not tied:
        untie(coder, coder.seed)
        inside = coder.inside(batch) if isinstance(coder, Composed) else batch
        _innermost(coder).initialise(inside)  # again, for what was counted with the other encoder: biases for a wanted L0
    if b_dec != "mean":
        centre(coder, batch, b_dec)


@torch.no_grad()
def centre(coder: SparseCoder[Any], batch: Batch, how: Literal["mean", "median", "zeros"]) -> None:
    """Set b_dec to the mean or the geometric median of a sample of what is predicted, or to 0.

    Biases that were counted on a sample, for a wanted L0 at the start, are moved along, so that as many latents fire as before.
    """
    if how not in ("mean", "median", "zeros"):
        raise UnknownName.among("start of b_dec", how, ("mean", "median", "zeros"))
    inside, batch = _innermost(coder), coder.inside(batch) if isinstance(coder, Composed) else batch
    b_dec = dict(inside.named_parameters()).get("b_dec")
    if b_dec is None:
        raise BadInput(f"{type(coder).__name__} has no b_dec that learns. Leave b_dec at its default.")
    point = torch.zeros_like(b_dec)
    if how != "zeros":
        point = batch.y.mean(0) if how == "mean" else geometric_median(batch.y)
    if isinstance(inside, LinearCoder) and inside.centred and getattr(inside.config, "start_l0", None) is not None:
        inside.b_enc.add_((point - b_dec) @ inside.W_enc)
    b_dec.copy_(point)


@torch.no_grad()
def untie(coder: SparseCoder[Any], seed: int) -> None:
    """Give the encoder random directions of its own, of the lengths that it has, instead of the decoder's."""
    inside = _innermost(coder)
    W_enc = dict(inside.named_parameters()).get("W_enc")
    if W_enc is None:
        raise BadInput(f"{type(coder).__name__} has no encoder apart from its decoder. Leave tied at its default.")
    random = torch.randn(W_enc.shape[1], W_enc.shape[0], generator=generator("untied encoder", type(inside).__name__, seed))
    W_enc.copy_(unit_rows(random).T.to(W_enc) * W_enc.norm(dim=0))


@torch.no_grad()
def from_coder(coder: SparseCoder[Any], other: SparseCoder[Any]) -> None:
    """Copy the weights of a trained coder into one of the same architecture and widths, to go on from them."""
    if type(coder) is not type(other):
        raise BadInput(
            f"A {type(coder).__name__} cannot go on from the weights of a {type(other).__name__}: another architecture."
        )
    (mine, theirs) = ((c.d_in, c.d_sae, c.d_out) for c in (coder, other))
    if mine != theirs:
        raise WidthMismatch(
            "Weights can be taken over only between coders of the same widths; the new one has (d_in, d_sae, d_out) = "
            f"{mine}, the trained one {theirs}."
        )
    for new, old in ((coder, other), (_innermost(coder), _innermost(other))):
        for name in FORM:
            wanted, found = getattr(new.config, name, None), getattr(old.config, name, None)
            if wanted != found:
                raise BadInput(f"The new coder has {name}={wanted}, the trained one {name}={found}: give it the same {name}.")
    weights = other.state_dict()
    if odd := sorted(set(weights) ^ set(coder.state_dict())):
        raise BadInput(f"Only one of the two coders has {', '.join(odd)}: give the new one the settings of the trained one.")
    coder.load_state_dict(weights)


@torch.no_grad()
def adopt(coder: SparseCoder[Any], scales: tuple[float, float]) -> None:
    """In place: from a coder of activations as they are to one of those that the trainer has multiplied by `scales` (x, y).

    The inverse of what ends a training. Where the trainer's scales are now other ones, decoder rows may come out longer or
    shorter than the architecture keeps them; their lengths then go to the encoder, so that the coder stays the same.
    """
    coder.rescale(1 / scales[0], 1 / scales[1])
    before = coder.W_dec.norm(dim=1)
    coder.constrain()
    gain = (before.mean() / coder.W_dec.norm(dim=1).mean()).item()
    if abs(gain - 1) < 1e-5:
        return
    inside = _innermost(coder)
    for name in ("W_enc", "b_enc", "b_mag", "threshold"):
        if name in inside.state_dict():
            inside.state_dict()[name].mul_(gain)
    if "log_threshold" in inside.state_dict():
        inside.state_dict()["log_threshold"].add_(torch.tensor(gain).log())


def _innermost(coder: SparseCoder[Any]) -> SparseCoder[Any]:
    """The coder whose weights are parameters."""
    return coder.inner if isinstance(coder, Composed) else coder


def geometric_median(x: Float[Tensor, "n d"], iterations: int = 100, tolerance: float = 1e-6) -> Float[Tensor, " d"]:
    """The point whose distances to the rows of x have the least sum (Weiszfeld 1937; at rows, Vardi and Zhang 2000).

    Unlike the mean it hardly notices a few rows that lie far off.
    """
    point = x.mean(0)
    spread = (x - point).norm(dim=1).mean()
    for _ in range(iterations):
        apart = x - point
        distance = apart.norm(dim=1)
        there = distance <= 1e-6 * spread  # rows that the point has come to lie on
        weights = torch.where(there, 0.0, 1 / distance.clamp_min(1e-12))
        pull = weights @ apart
        if not bool(weights.any()):
            break
        share = 1 - float(there.sum()) / max(pull.norm().item(), 1e-30) if bool(there.any()) else 1.0
        step = max(0.0, share) * pull / weights.sum()
        point = point + step
        if step.norm() <= tolerance * spread:
            break
    return point
