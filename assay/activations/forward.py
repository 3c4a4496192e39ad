"""One pass of a model over token rows: the activations of several sites where the mask is True. Shared by gather and Live."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from assay.activations.shards import as_sites, finite
from assay.errors import BadInput, NotFinite
from assay.models.base import Model, Site
from assay.shapes import Float, Tensor

if TYPE_CHECKING:
    from assay.corpora.pack import Tokens


def widths_of(model: Model, sites: Site | str | Sequence[Site | str]) -> dict[Site, int]:
    """Each site that is meant and its width. The model sees the name as given: some names are certain in some families only."""
    return {site: model.d(name) for site, name in zip(as_sites(sites), [sites] if isinstance(sites, Site | str) else sites)}


def row_counts(tokens: Tokens) -> np.ndarray:
    """Vectors of each row: int64 [rows]. `BadInput` when there are none at all."""
    counts = np.asarray(tokens.mask).sum(1, dtype=np.int64)
    if counts.sum() == 0:
        raise BadInput("The corpus has no tokens to read activations at: its mask is False everywhere, or it is empty.")
    return counts


@torch.no_grad()
def read_rows(
    model: Model,
    tokens: Tokens,
    rows: np.ndarray,
    sites: Sequence[Site],
    *,
    batch_rows: int,
    dtype: torch.dtype | None = None,
    device: Any = None,
    tell: Callable[[int], None] = lambda done: None,
) -> list[Float[Tensor, "n d"]]:
    """Activations of some token rows at each site, only where the mask is True, row by row in the order given.

    On the model's device and in its dtype unless told otherwise. `NotFinite` says where the first NaN or infinity is.
    """
    count = int(np.asarray(tokens.mask[rows]).sum())
    device = model.device if device is None else device
    out = [torch.empty(count, model.d(site), dtype=dtype or model.dtype, device=device) for site in sites]
    at = 0
    for some in np.split(rows, range(batch_rows, len(rows), batch_rows)):
        mask = np.asarray(tokens.mask[some])
        width = (
            int(np.flatnonzero(mask.any(0)).max(initial=-1)) + 1
        )  # nothing is read to the right of it, and models are causal
        if width == 0:
            continue
        ids = torch.from_numpy(np.asarray(tokens.tokens[some])[:, :width].astype(np.int64)).to(model.device)
        keep = torch.from_numpy(np.ascontiguousarray(mask[:, :width])).to(model.device)
        run = model.run(ids, read=sites, stop_after=max(sites, key=lambda s: s.depth), mask=keep)
        n = int(mask.sum())
        for site, into in zip(sites, out):
            x = run[site]
            into[at : at + n] = x[keep.to(x.device)]
            if not finite(into[at : at + n]):
                raise _not_finite(into[at : at + n], model, tokens, some, site)
        at += n
        tell(n)
    return out


def _not_finite(x: Tensor, model: Model, tokens: Tokens, rows: np.ndarray, site: Site) -> NotFinite:
    first, channel = (int(i) for i in (~torch.isfinite(x)).nonzero()[0])
    row, position = (int(i[first]) for i in np.asarray(tokens.mask[rows]).nonzero())
    row = int(rows[row])
    return NotFinite(
        f"{model.name} gives {float(x[first, channel])} at site {site}, row {row}, position {position} "
        f"(document {int(tokens.document[row, position])}), channel {channel}. "
        "float16 models overflow: load it as bfloat16 or float32 (--dtype). Otherwise leave this document out."
    )
