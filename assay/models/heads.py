"""Heads: the linear map from the residual stream to the logits: the final norm's weight, then the head ("direct logit attribution").

What a norm divides by depends on the whole vector and is left out; its weight and its centring are measured, so that no family needs to
be known: Gemma's weights are 1 + w, GPT-2's norm takes the mean off, OPT has a projection behind it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from assay.errors import Unavailable
from assay.shapes import Float, Tensor

if TYPE_CHECKING:
    from assay.models.families import Structure

ROWS = 1 << 14  # tokens of the vocabulary whose rows are in fp32 at once


def linear(structure: Structure, x: Float[Tensor, "n d"]) -> Float[Tensor, "n v"]:
    """The linear part of the way from the last residual stream to the logits."""
    weight = getattr(structure.head, "weight", None)
    if not isinstance(weight, Tensor):
        raise Unavailable("The model has no head with a weight matrix, so directions have no logits.")
    for module in structure.tail:
        x = _through(module, x)
    return torch.cat([x @ rows.float().T for rows in weight.split(ROWS)], dim=1)


def _through(module: nn.Module, x: Tensor) -> Tensor:
    """The linear part of a norm or of a projection."""
    if isinstance(module, nn.Linear):
        return x @ module.weight.float().T
    like = next(module.parameters(), x)
    probe = torch.ones(x.shape[1], device=like.device, dtype=torch.float32)
    probe[1::2] = -1

    def run(y: Tensor) -> Tensor:
        return module(y.to(like.dtype)[None, None])[0, 0].float()

    odd = (run(probe) - run(-probe)) / 2  # without the bias
    centres = bool((run(probe + 1) - run(probe)).abs().max() < 1e-2 * odd.abs().max())
    seen = probe - probe.mean() if centres else probe
    weight = (odd / (seen / seen.square().mean().sqrt())).to(x.device)
    return (x - x.mean(1, keepdim=True) if centres else x) * weight
