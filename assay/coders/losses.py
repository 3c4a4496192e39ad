"""Parts of losses that several architectures share, as free functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F

from assay.coders.base import Batch, Step
from assay.errors import BadInput
from assay.shapes import Bool, Float, Tensor

if TYPE_CHECKING:
    from assay.coders.linear import LinearCoder


def mse(y: Float[Tensor, "n d_out"], y_hat: Float[Tensor, "n d_out"]) -> Float[Tensor, ""]:
    """Squared error summed over the width, averaged over tokens. With E‖y‖² = 1 it is close to the unexplained fraction."""
    return F.mse_loss(y_hat, y, reduction="sum") / (y.numel() // y.shape[-1])


def warm_up(step: Step, share: float) -> float:
    """Factor of a penalty: it grows linearly from 0 to 1 over the first `share` of the training, times the controller's pressure."""
    return step.pressure * (min(1.0, step.fraction / share) if share else 1.0)


def check_l1(weight: float, share: float) -> None:
    """Refuse impossible settings of an L1 penalty and its warm-up."""
    if not 0 <= weight < float("inf") or not 0 <= share <= 1:
        raise BadInput(f"l1 must be ≥ 0 and l1_warm_up between 0 and 1, got {weight} and {share}.")


def aux_k(
    coder: LinearCoder[Any],
    batch: Batch,
    y_hat: Float[Tensor, "n d_out"],
    dead: Bool[Tensor, " d_sae"] | None,
    k_aux: int | None = None,
    form: Literal["relative", "absolute"] = "relative",
) -> Float[Tensor, ""]:
    """AuxK (Gao et al. 2024): the k_aux largest *dead* latents reconstruct the (detached) error; normalised by its variance.

    0 when no latent is dead. Gradients reach the encoder and decoder of dead latents and nothing else. k_aux defaults to d_in / 2.
    The form "absolute" (SAELens) is not normalised, lets chosen latents be negative, and is scaled by the number of dead latents
    over k_aux while that is below 1.
    """
    if dead is None or not bool(dead.any()):
        return y_hat.new_zeros(())
    columns = dead.nonzero()[:, 0]
    error = (batch.y - y_hat).detach()
    rows, most = coder.W_dec[columns], k_aux or max(1, coder.d_in // 2)
    pre = batch.x @ coder.W_enc[:, columns] + coder.bias()[columns]
    if form == "relative":
        pre = pre.relu()
    rank = (pre * rows.norm(dim=1) if coder.free else pre).detach()
    picked = rank.topk(min(most, len(columns)), dim=1, sorted=False).indices
    missed = mse(error, torch.zeros_like(pre).scatter(1, picked, pre.gather(1, picked)) @ rows)
    return missed * min(1.0, len(columns) / most) if form == "absolute" else torch.nan_to_num(missed / variance(error))


def variance(y: Float[Tensor, "n d_out"]) -> Float[Tensor, ""]:
    """Squared distance from the batch's mean, summed over the width and averaged over tokens."""
    return (y - y.mean(0)).square().sum(-1).mean()
