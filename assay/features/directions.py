"""Directions: what a coder's weights say of its latents, without any text: norms, neighbours, a map of them, the tokens they speak for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from assay.coders.base import SparseCoder
from assay.coders.linear import unit_rows
from assay.errors import Unavailable
from assay.progress import Progress, silent
from assay.shapes import Float, Tensor

MOST = 10  # neighbours, and tokens at either end
LOGIT_BINS = 40
ENTRIES = 2**25  # numbers of a product that are in memory at once
Unembed = Callable[[Float[Tensor, "n d"]], Float[Tensor, "n v"]]


@torch.no_grad()
def of(
    coder: SparseCoder[Any], unembed: Unembed | None, vocabulary: int, *, umap: bool = False, progress: Progress = silent
) -> dict[str, Any]:
    """Columns of the weights. `unembed` is None where what the coder writes is not read by the model's head: then there are no logits."""
    if not coder.linear:  # no rows of W_dec to look at
        nothing = np.ma.masked_all(coder.d_sae)
        scalars = ("decoder_norm", "encoder_norm", "cosine", "nearest", "nearest_cosine", "x", "y")
        return dict.fromkeys(scalars, nothing) | _empty(coder.d_sae, "neighbours", "neighbour_cosines", *LOGITS)
    W_dec = coder.W_dec.detach().float()
    unit = unit_rows(W_dec)
    columns = _lengths(coder, W_dec) | neighbours(unit, progress)
    place = components(unit)
    columns |= {"x": place[:, 0], "y": place[:, 1]}
    if umap:
        columns |= _umap(unit)
    found = _empty(coder.d_sae, *LOGITS) if unembed is None else _logits(W_dec, unembed, vocabulary, progress)
    return columns | found


def _empty(d_sae: int, *names: str) -> dict[str, Any]:
    return {name: [[]] * d_sae for name in names}


def _lengths(coder: SparseCoder[Any], W_dec: Tensor) -> dict[str, Any]:
    """Norms, and the cosine of encoder and decoder, where there is an encoder matrix (and both are of one space)."""
    W_enc = getattr(coder, "W_enc", None)
    found: dict[str, Any] = {"decoder_norm": W_dec.norm(dim=1).cpu().numpy()}
    missing = np.ma.masked_all(coder.d_sae)
    if not isinstance(W_enc, Tensor) or W_enc.shape != (coder.d_in, coder.d_sae):
        return found | {"encoder_norm": missing, "cosine": missing}
    rows = W_enc.detach().float().T
    alike = rows.shape == W_dec.shape
    cosine = (unit_rows(rows) * unit_rows(W_dec)).sum(1).cpu().numpy() if alike else missing
    return found | {"encoder_norm": rows.norm(dim=1).cpu().numpy(), "cosine": cosine}


def neighbours(unit: Float[Tensor, "d_sae d"], progress: Progress = silent) -> dict[str, Any]:
    """The latents of the highest decoder cosine to each, by blocks of the product of all with all."""
    d_sae, most = len(unit), min(MOST, len(unit) - 1)
    ids, cosines = [], []
    for rows in unit.split(max(1, ENTRIES // d_sae)):
        product = rows @ unit.T
        own = len(torch.cat(ids)) if ids else 0
        product[torch.arange(len(rows)), own + torch.arange(len(rows))] = -torch.inf
        best = product.topk(most, dim=1)
        ids.append(best.indices)
        cosines.append(best.values)
        progress(own + len(rows), d_sae, "latents compared")
    which, how = torch.cat(ids).cpu().numpy(), torch.cat(cosines).cpu().numpy()
    first = {"nearest": which[:, 0], "nearest_cosine": how[:, 0]} if most else {}
    alone = {"nearest": np.ma.masked_all(d_sae), "nearest_cosine": np.ma.masked_all(d_sae)}
    return (first or alone) | {"neighbours": which, "neighbour_cosines": how}


def components(unit: Float[Tensor, "d_sae d"]) -> np.ndarray:
    """[d_sae, 2]: the first two principal components of the rows; the largest loading of each is positive."""
    centred = unit - unit.mean(0)
    if min(centred.shape) < 2:
        return np.zeros((len(unit), 2), np.float32)
    axes = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -2:].flip(1)
    sign = axes.gather(0, axes.abs().argmax(0)[None]).sign()
    return (centred @ (axes * sign)).cpu().numpy()


def _umap(unit: Tensor) -> dict[str, Any]:
    try:
        from umap import UMAP  # type: ignore[import-not-found]
    except ImportError:
        raise Unavailable(
            "UMAP coordinates need umap-learn: pip install 'assay-sae[umap]'. Without --umap PCA is there."
        ) from None
    place = UMAP(metric="cosine", random_state=0).fit_transform(unit.cpu().numpy())
    return {"umap_x": place[:, 0], "umap_y": place[:, 1]}


LOGITS = ("top_logits", "top_logit_values", "bottom_logits", "bottom_logit_values", "logit_histogram", "logit_range")


def _logits(W_dec: Tensor, unembed: Unembed, vocabulary: int, progress: Progress) -> dict[str, Any]:
    """The tokens that each decoder row raises and lowers most, and how many it moves how much; the mean over tokens taken off."""
    parts: dict[str, list[Tensor]] = {name: [] for name in LOGITS}
    done = 0
    for rows in W_dec.split(max(1, ENTRIES // vocabulary)):
        logits = unembed(rows)
        logits = logits - logits.mean(1, keepdim=True)
        for name, largest in (("top", True), ("bottom", False)):
            best = logits.topk(min(MOST, vocabulary), dim=1, largest=largest)
            parts[f"{name}_logits"].append(best.indices)
            parts[f"{name}_logit_values"].append(best.values)
        low, high = logits.aminmax(dim=1, keepdim=True)
        bins = ((logits - low) * (LOGIT_BINS / (high - low).clamp_min(1e-30))).long().clamp_(0, LOGIT_BINS - 1)
        counts = torch.zeros(len(rows), LOGIT_BINS, dtype=torch.long, device=bins.device)
        parts["logit_histogram"].append(counts.scatter_add_(1, bins, torch.ones_like(bins)))
        parts["logit_range"].append(torch.cat([low, high], 1))
        progress(done := done + len(rows), len(W_dec), "latents unembedded")
    return {name: torch.cat(found).cpu().numpy() for name, found in parts.items()}
