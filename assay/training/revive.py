"""Revive: what can be done about dead latents of any coder with an encoder and a decoder of its own.

`terms` adds to the loss. AuxK (Gao et al. 2024, arXiv 2406.04093): dead latents learn to reconstruct what the others missed.
Ghost gradients (Anthropic, January 2024): they do so through exp(pre-activation), which has a gradient also where a latent is
silent; scaled by the share of dead latents (Google DeepMind's progress update, April 2024). A ghost calls a latent up only where
it agrees with the error (cosine above ½): in gated and jumprelu coders that is seldom.
`resample` (Bricken et al. 2023) gives dead latents new weights, from inputs that are reconstructed badly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from assay.coders import losses
from assay.coders.base import Batch, Code, SparseCoder
from assay.coders.composed import Composed
from assay.coders.linear import LinearCoder, unit_rows
from assay.errors import BadInput, UnknownName
from assay.randomness import generator
from assay.shapes import Bool, Float, Tensor
from assay.training.optim import Optimiser

AUX_WEIGHT = 1 / 32  # of AuxK, where the architecture does not bring it
SOFT = 0.2  # length of a resampled encoder column, in that of the living: it speaks softly at first, …
LOUD = 0.5  # … but not so softly that it never fires, where it must exceed a threshold or the other latents
OF_LATENTS = {"W_enc": 1, "b_enc": 0, "W_dec": 0, "log_threshold": 0, "r_mag": 0, "b_mag": 0}
"""Parameters that belong to single latents, and along which dimension."""


def inner(coder: SparseCoder[Any]) -> LinearCoder[Any]:
    """The coder whose weights are parameters: itself, or what a composed one holds."""
    found = coder.inner if isinstance(coder, Composed) else coder
    parameters = dict(found.named_parameters())
    if missing := [name for name in ("W_enc", "b_enc", "W_dec", "b_dec") if name not in parameters]:
        raise BadInput(
            f"{type(coder).__name__} has no parameters {', '.join(missing)}, so its latents can be revived only by what it "
            "brings itself. Use revive=own or none."
        )
    return found  # type: ignore[return-value]


def terms(
    kind: str,
    coder: SparseCoder[Any],
    batch: Batch,
    code: Code,
    own: Mapping[str, Tensor],
    dead: Bool[Tensor, " d_sae"] | None,
    *,
    scaled: bool = True,
) -> dict[str, Float[Tensor, ""]]:
    """What "aux_k" or "ghost" add to the `own` terms of a coder's loss, for `code = coder.encode(batch.x)`.

    Where the architecture brings AuxK, "aux_k" adds nothing to it. `dead` is None where none is. `scaled` (ghost): times the share of dead latents.
    """
    if kind not in ("aux_k", "ghost"):
        raise UnknownName.among("term that revives latents", kind, ("aux_k", "ghost"))
    if kind in own:
        return {}
    found = inner(coder)
    if kind == "aux_k" and hasattr(found.config, "aux_weight"):
        raise BadInput(f"aux_weight=0 turns off the AuxK that {type(found).__name__} brings. Leave it out, or use revive=none.")
    if dead is None:
        return {kind: own["mse"].new_zeros(())}
    if isinstance(coder, Composed):
        batch, code = coder.inside(batch), coder.code_inside(code)
    y_hat = found.decode(code)
    if kind == "aux_k":
        # Not through relu, as in top-k coders: what is dead here has pre-activations below 0, and no gradient would pass.
        missed = losses.aux_k(found, batch, y_hat, dead, form="absolute")
        return {"aux_k": AUX_WEIGHT * missed / losses.variance((batch.y - y_hat).detach()).clamp_min(1e-12)}
    return {"ghost": ghost(found, batch, y_hat, dead, own["mse"], scaled=scaled)}


def ghost(
    coder: LinearCoder[Any],
    batch: Batch,
    y_hat: Float[Tensor, "n d_out"],
    dead: Bool[Tensor, " d_sae"],
    error: Float[Tensor, ""],
    *,
    scaled: bool = True,
) -> Float[Tensor, ""]:
    """Ghost gradients: dead latents, as exp(pre-activation), reconstruct the residual at half its length.

    The value is that of `error`, the coder's own reconstruction term, times the share of dead latents (1 when not `scaled`): 0
    when none is dead. Gradients reach the encoder and decoder of dead latents and nothing else.
    """
    if not bool(dead.any()):
        return y_hat.new_zeros(())
    columns = dead.nonzero()[:, 0]
    residual = (batch.y - y_hat).detach()
    x = batch.x - coder.b_dec.detach() if coder.centred else batch.x
    pre = x @ coder.W_enc[:, columns] + coder.b_enc[columns]
    # Each token's ghost is brought to a given length anyway: taking off its largest exponent changes nothing but overflow.
    spoken = (pre - pre.detach().amax(1, keepdim=True)).exp() @ coder.W_dec[columns]
    length = spoken.detach().norm(dim=1, keepdim=True).clamp_min(1e-12)
    missed = losses.mse(residual, spoken * (residual.norm(dim=1, keepdim=True) / (2 * length)))  # ≥ ‖residual‖² / 4
    value = error.detach() * (len(columns) / coder.d_sae if scaled else 1.0)
    slope = value / missed.detach().clamp_min(1e-12)
    return value + slope * (missed - missed.detach())


@torch.no_grad()
def resample(
    coder: SparseCoder[Any], optimiser: Optimiser, batch: Batch, dead: Bool[Tensor, " d_sae"], seed: int, step: int
) -> int:
    """Give dead latents new weights, in place, and forget the optimiser's moments of them; returns how many there were.

    Inputs are drawn from `batch` with probability ∝ (squared error)². The encoder reads along the input, softly; the decoder
    writes along it, too, or, where something else is predicted, along the error. Biases and thresholds start anew.
    """
    found = inner(coder)
    columns = dead.nonzero()[:, 0]
    if not len(columns):
        return 0
    code = coder.encode(batch.x)
    if isinstance(coder, Composed):
        batch, code = coder.inside(batch), coder.code_inside(code)
    error = batch.y - found.decode(code)
    chosen = _drawn(error.square().sum(1), len(columns), seed, step)
    same = batch.x is batch.y or torch.equal(batch.x, batch.y)
    centre = found.b_dec if same else batch.x.mean(0)
    towards = unit_rows(batch.x - centre)[chosen]
    _renew(found, columns, towards, towards if same else unit_rows(error)[chosen], centre, ~dead)
    for name, dim in OF_LATENTS.items():
        if isinstance(parameter := getattr(found, name, None), torch.nn.Parameter):
            for moment in optimiser.state(parameter).values():
                if isinstance(moment, Tensor) and moment.shape == parameter.shape:
                    moment.index_fill_(dim, columns, 0.0)
    coder.constrain()
    return len(columns)


def _drawn(loss: Float[Tensor, " n"], count: int, seed: int, step: int) -> Tensor:
    """`count` tokens, drawn with probability ∝ loss², no token twice while there are enough."""
    chance = loss.double().cpu()
    chance = (chance / chance.max().clamp_min(1e-300)).square()
    if not bool((chance > 0).any()):
        chance = torch.ones_like(chance)
    again = count > int((chance > 0).sum())
    return chance.multinomial(count, replacement=again, generator=generator("resample", seed, step)).to(loss.device)


def _renew(
    coder: LinearCoder[Any], columns: Tensor, reads: Tensor, writes: Tensor, centre: Tensor, alive: Bool[Tensor, " d_sae"]
) -> None:
    """New weights of some latents: unit rows `reads` (from `centre`) and `writes`, with the lengths of the `alive`."""
    like = alive if bool(alive.any()) else torch.ones_like(alive)
    barred = hasattr(coder, "log_threshold") or not coder.penalised
    # One assignment through one index each: W[i][j] = … would write to a copy.
    coder.W_enc[:, columns] = reads.T * ((LOUD if barred else SOFT) * coder.W_enc[:, like].norm(dim=0).mean())
    coder.W_dec[columns] = writes * coder.W_dec[like].norm(dim=1).mean()
    coder.b_enc[columns] = 0.0 if coder.centred else -(centre @ coder.W_enc[:, columns])
    if hasattr(coder, "log_threshold"):
        coder.log_threshold[columns] = coder.log_threshold[like].median()  # type: ignore[index, operator]
    if hasattr(coder, "r_mag"):
        coder.r_mag[columns] = 0.0  # type: ignore[index, operator]
        coder.b_mag[columns] = coder.b_enc[columns]  # type: ignore[index, operator]
