"""One pass of a model over token rows: the activations of several sites where the mask is True. Shared by gather and Live."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from assay.activations.read_ahead import Tell, quiet
from assay.activations.shards import as_sites, finite
from assay.errors import BadInput, NotFinite
from assay.models.base import Model, Site
from assay.shapes import Bool, Float, Tensor

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
    tell: Tell = quiet,
    keep: Bool[np.ndarray, "rows s"] | None = None,
) -> list[Float[Tensor, "n d"]]:
    """Activations of some token rows at each site, only where the mask (or `keep`, of these rows) is True, row by row in the order given.

    A forward pass reads as many tokens, padding included, as `batch_rows` whole rows have; rows of like length go together, so that
    little of it is padding. On the model's device and in its dtype unless told otherwise. `NotFinite` says where the first NaN or
    infinity is.
    """
    text = np.asarray(tokens.mask[rows])
    mask = text if keep is None else keep
    counts, starts = mask.sum(1), np.cumsum(mask.sum(1)) - mask.sum(1)
    device = model.device if device is None else device
    out = [torch.empty(int(counts.sum()), model.d(site), dtype=dtype or model.dtype, device=device) for site in sites]
    for some, width in passes(mask, batch_rows):
        ids = torch.from_numpy(np.asarray(tokens.tokens[rows[some]])[:, :width].astype(np.int64)).to(model.device)
        real, kept = (torch.from_numpy(np.ascontiguousarray(m[some, :width])).to(model.device) for m in (text, mask))
        run = model.run(ids, read=sites, stop_after=max(sites, key=lambda s: s.depth), mask=real)
        n = counts[some]
        place = torch.from_numpy(np.arange(n.sum()) + np.repeat(starts[some] - (np.cumsum(n) - n), n)).to(device)
        for site, into in zip(sites, out):
            x = run[site]
            found = x[kept.to(x.device)].to(into)
            if not finite(found):
                raise _not_finite(found, model, tokens, rows[some], site)
            into[place] = found
        tell(int(n.sum()))
    return out


def passes(mask: np.ndarray, batch_rows: int) -> Iterator[tuple[np.ndarray, int]]:
    """(places in `mask` of the rows, positions that are read) of each forward pass. Rows without a token are in none.

    Nothing is read to the right of a row's last token, and models are causal: so padding on the right changes nothing but the time.
    """
    widths = np.where(mask.any(1), mask.shape[1] - mask[:, ::-1].argmax(1), 0)
    order = np.argsort(widths, kind="stable")
    order = order[widths[order] > 0]
    start, budget = 0, batch_rows * mask.shape[1]
    for end in range(1, len(order) + 1):
        if end == len(order) or (end + 1 - start) * widths[order[end]] > budget:
            yield np.sort(order[start:end]), int(widths[order[end - 1]])
            start = end


def _not_finite(x: Tensor, model: Model, tokens: Tokens, rows: np.ndarray, site: Site) -> NotFinite:
    first, channel = (int(i) for i in (~torch.isfinite(x)).nonzero()[0])
    row, position = (int(i[first]) for i in np.asarray(tokens.mask[rows]).nonzero())
    row = int(rows[row])
    return NotFinite(
        f"{model.name} gives {float(x[first, channel])} at site {site}, row {row}, position {position} "
        f"(document {int(tokens.document[row, position])}), channel {channel}. "
        "float16 models overflow: load it as bfloat16 or float32 (--dtype). Otherwise leave this document out."
    )
