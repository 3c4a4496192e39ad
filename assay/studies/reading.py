"""Reading: which latents are active on each token of one text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from assay.coders.base import SparseCoder
from assay.errors import BadInput
from assay.models.base import Model, Site
from assay.shapes import Bool, Float, Int, Tensor
from assay.splice import home, inference


@dataclass(frozen=True)
class Reading:
    """Activations of one text, those that are not 0, token after token."""

    token: Int[np.ndarray, " nnz"]
    latent: Int[np.ndarray, " nnz"]
    value: Float[np.ndarray, " nnz"]
    missed: Float[np.ndarray, " s"] | None
    """‖x − x̂‖² / ‖x‖² of each token; None of a coder that predicts something else than it reads."""
    d_sae: int
    tokens: int

    def strongest(
        self, by: Literal["max", "sum", "count"], at: Bool[np.ndarray, " s"], *, among: Bool[np.ndarray, " d_sae"] | None = None,
        limit: int = 30,
    ) -> Int[np.ndarray, " n"]:  # fmt: skip
        """Latents active on the tokens `at`, first the one with the largest maximum, sum (of sizes), or number of those tokens."""
        here = at[self.token] if among is None else at[self.token] & among[self.latent]
        score, size, latent = np.zeros(self.d_sae), np.abs(self.value[here]), self.latent[here]
        if by == "max":
            np.maximum.at(score, latent, size)
        else:
            np.add.at(score, latent, size if by == "sum" else np.ones_like(size))
        order = np.argsort(-score, kind="stable")[: min(limit, np.count_nonzero(score))]
        return order.astype(np.int64)

    def row(self, latent: int) -> tuple[np.ndarray, np.ndarray]:
        """(tokens, activations) of a latent."""
        mine = self.latent == latent
        return self.token[mine], self.value[mine]

    def l0(self) -> Int[np.ndarray, " s"]:
        """Active latents of each token."""
        return np.bincount(self.token, minlength=self.tokens)

    def distinct(self) -> int:
        """Latents that are active anywhere."""
        return len(np.unique(self.latent))


def read(
    model: Model, coder: SparseCoder[Any], site: Site | str, tokens: Int[Tensor, "1 s"], *, predicts: bool = False
) -> Reading:
    """What a coder sees at a site of one row of tokens. `predicts`: it gives the activations of another site."""
    site = Site.parse(site)
    if coder.d_in != model.d(site):
        raise BadInput(
            f"{site} of {model.name} has width {model.d(site)}, the coder reads {coder.d_in}. Is it another model's?"
        )
    x = model.run(tokens, [site], stop_after=site).read[site][0]
    with inference(coder), torch.no_grad():
        x = x.to(home(coder, x.device), torch.float32)
        code = coder.encode(x)
        missed = None
        if not predicts:
            missed = (x - coder.decode(code)).square().sum(-1) / x.square().sum(-1).clamp_min(torch.finfo(x.dtype).tiny)
        token, latent, value = _sparse(code.latents)
    return Reading(token, latent, value, None if missed is None else missed.cpu().numpy(), coder.d_sae, len(x))


def _sparse(latents: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if latents.is_sparse:
        token, latent, value = latents.rows(), latents.indices, latents.values
    else:
        token, latent = latents.values.nonzero(as_tuple=True)
        value = latents.values[token, latent]
    on = value != 0
    return token[on].cpu().numpy(), latent[on].cpu().numpy(), value[on].float().cpu().numpy()
