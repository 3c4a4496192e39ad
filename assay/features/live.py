"""Live: what a latent does on rows of a harvest's text where the harvest kept nothing: the model and the coder are run again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from assay.activations.forward import read_rows
from assay.coders.base import Code, SparseCoder
from assay.errors import BadInput
from assay.features.reader import Features
from assay.models.base import Model, Site
from assay.shapes import Float, Tensor
from assay.splice import home, inference

PIECE = 256  # vectors encoded at once
BATCH = 16  # rows


def why_not(features: Features, model: Model) -> str | None:
    """Why this model cannot say what the harvest's latents do; None where it can."""
    theirs = features.manifest["inputs"].get("model")
    if theirs != model.fingerprint:
        return f"The harvest was made with another model than the live one, {model.name}."
    return None


@torch.no_grad()
def watch(
    features: Features, coder: SparseCoder[Any], model: Model, latent: int, rows: Sequence[int] | np.ndarray
) -> Float[np.ndarray, "rows context"]:
    """Activations of one latent on whole rows of the text; 0 at tokens that do not count. Rows come in the order given."""
    if (reason := why_not(features, model)) is not None:
        raise BadInput(reason)
    rows, text = np.asarray(rows, np.int64), features.text
    sites = [Site.parse(site) for site in features.manifest["inputs"].get("read") or [features.about["site"]]]
    x = torch.cat(read_rows(model, text, rows, sites, batch_rows=BATCH, dtype=torch.float32), dim=1)
    with inference(coder):
        found = [one(coder.encode(part.to(home(coder, part.device))), latent).cpu() for part in x.split(PIECE)]
    out = np.zeros((len(rows), text.tokens.shape[1]), np.float32)
    out[np.asarray(text.mask[rows])] = torch.cat(found).float().numpy() if found else 0
    return out


def one(code: Code, latent: int) -> Float[Tensor, " n"]:
    """One latent's activations, without making the others dense."""
    latents = code.latents
    if latents.indices is None:
        return latents.values[..., latent].reshape(-1)
    mine = latents.indices == latent
    found = latents.values.new_zeros(latents.count)
    found[latents.rows()[mine]] = latents.values[mine]
    return found
