"""Summary: what a collector found, as the columns of features.parquet and examples.parquet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from assay.features import bins
from assay.features.collector import Collector
from assay.features.layout import F2, U1, ragged
from assay.features.pairs import partners
from assay.features.piles import Entries, nth, spans
from assay.features.quiet import Quiet
from assay.progress import Progress, silent

DENSE = 0.1


def of(
    collector: Collector, text_tokens: np.ndarray, nearest: np.ndarray, progress: Progress = silent
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Columns of both files but those of the weights. `text_tokens`: ids of all positions, flat; `nearest`: of each latent, or -1."""
    for pile in (collector.top, collector.drawn):
        pile.tidy()
    count = collector.histogram.sum(1, dtype=np.int64)
    dead = count == 0
    token, purity = _peaks(collector.top.kept, text_tokens, collector.d_sae)
    alive = np.maximum(count, 1)
    edges = np.zeros((collector.d_sae, bins.INTERVALS + 1))
    edges[~dead] = bins.interval_edges(collector.maximum[~dead])
    counts = bins.interval_counts(collector.histogram, edges[:, 1:-1])
    used = np.flatnonzero(collector.histogram.any(0))
    first, last = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 1)
    stretch, codes = collector.sample.whole()
    columns: dict[str, Any] = {
        "latent": np.arange(collector.d_sae), "count": count, "density": count / max(collector.tokens, 1), "dead": dead,
        "mean": np.ma.array(collector.sums.sum(1) / alive, mask=dead), "max": np.ma.array(collector.maximum, mask=dead),
        "dense": count > DENSE * collector.tokens, "top_token": np.ma.array(token, mask=dead), "purity": np.ma.array(purity, mask=dead),
        "histogram": collector.histogram[:, first:last],
        "interval_edges": [[] if d else e for d, e in zip(dead, edges.tolist())],
        "interval_counts": [[] if d else c for d, c in zip(dead, counts.tolist())],
    }  # fmt: skip
    columns |= partners(codes.matrix, progress)
    quiet = Quiet(stretch, codes, collector.shape)
    living = np.flatnonzero(~dead)
    windows = quiet.windows(living, np.where(dead, -1, token)[living], nearest[living], collector.maximum)
    return columns, examples(collector, edges, counts, windows)


def histogram_edges(collector: Collector) -> list[float]:
    """Of the bins that the column `histogram` holds."""
    used = np.flatnonzero(collector.histogram.any(0))
    first, last = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 1)
    return bins.edges()[first : last + 1].tolist()


def _peaks(top: Entries, text_tokens: np.ndarray, d_sae: int) -> tuple[np.ndarray, np.ndarray]:
    """The commonest token of each latent's top examples, of equally common ones that of the strongest, and its share."""
    ids = text_tokens[top.position].astype(np.int64)
    pair = top.latent.astype(np.int64) << 32 | ids
    _, first, times = np.unique(pair, return_index=True, return_counts=True)
    order = np.lexsort((first, -times, top.latent[first]))
    first, times = first[order], times[order]
    best = nth(top.latent[first]) == 0
    token, purity = np.full(d_sae, -1, np.int64), np.zeros(d_sae)
    latent = top.latent[first[best]]
    token[latent] = ids[first[best]]
    purity[latent] = times[best] / np.bincount(top.latent, minlength=d_sae)[latent]
    return token, purity


def examples(collector: Collector, edges: np.ndarray, counts: np.ndarray, windows: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Columns of examples.parquet: top and interval examples with their activations, then silent windows."""
    top, drawn = collector.top.kept, collector.drawn.kept
    interval = bins.interval_of(drawn.value, edges[drawn.latent, 1:-1])
    key = drawn.latent.astype(np.int64) * bins.INTERVALS + interval
    order = np.lexsort((drawn.position, drawn.rank, key))
    order = order[nth(key[order]) < collector.shape.drawn]  # the lowest of all strata that an interval is made of
    drawn, interval, key = drawn.take(order), interval[order], key[order]
    shown = np.bincount(key, minlength=collector.d_sae * bins.INTERVALS)[key]
    n, quiet = [len(top), len(drawn), len(windows["latent"])], windows["latent"]
    entries = Entries.joined(top, drawn)
    columns = {
        "latent": np.r_[entries.latent, quiet],
        "group": np.r_[np.zeros(n[0], np.int64), np.ones(n[1], np.int64), windows["group"]],
        "interval": np.ma.array(np.r_[np.zeros(n[0], np.int64), interval, np.zeros(n[2], np.int64)], mask=np.repeat([True, False, True], n)),
        "position": np.r_[entries.position, windows["position"]],
        "before": np.r_[entries.before, windows["before"]],
        "after": np.r_[entries.after, windows["after"]],
        "weight": np.ma.array(np.r_[np.zeros(n[0]), counts.reshape(-1)[key] / shown, np.zeros(n[2])], mask=np.repeat([True, False, True], n)),
    }  # fmt: skip
    strength = np.r_[entries.value, np.zeros(n[2], np.float32)]
    order = np.lexsort((columns["position"], -strength, columns["interval"].data, columns["group"], columns["latent"]))
    length = np.r_[entries.length.astype(np.int64), np.zeros(n[2], np.int64)]
    flat, offsets = spans((np.cumsum(length) - length)[order], length[order]), np.r_[0, np.cumsum(length[order])]
    lists: dict[str, pa.Array] = {
        "at": ragged(entries.at[flat], offsets, U1),
        "values": ragged(entries.activations[flat], offsets, F2),
    }
    return {name: values[order] for name, values in columns.items()} | lists
