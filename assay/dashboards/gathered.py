"""Gathered: rows of a Neuronpedia export, taken in one by one, as the columns of a harvest."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

from assay.dashboards.rows import Row
from assay.dashboards.shown import apportioned
from assay.dashboards.texts import Speller, Texts
from assay.errors import DamagedFile
from assay.features import bins
from assay.features.layout import F2, KINDS, LISTS, SCALARS, U1, ragged
from assay.features.piles import spans
from assay.features.summary import DENSE

LATENTS = 2**20
COUNT = 2**31
"""Counts stay below."""
INTERVALS = 64
"""Intervals of a latent, at most."""
LONGEST = 2**13
"""Tokens of a text, at most."""
EXAMPLES = 256
"""Examples of a latent that are kept, at most."""
AROUND = (127, 127)
"""Tokens of an example's window on either side; the whole text stands in the token rows."""
TOP, INTERVAL, RANDOM = (KINDS.index(kind) for kind in ("top", "interval", "random"))
EDGES = bins.edges()


class Latents:
    """Rows of `features`."""

    def __init__(self, speller: Speller):
        self._speller = speller
        self.rows: dict[int, dict[str, Any]] = {}
        self.unspelt = 0
        """Tokens of the lists of logits that the tokenizer does not have: left out there."""

    def add(self, row: Row) -> None:
        i = row.whole("index", LATENTS)
        if i in self.rows:
            raise DamagedFile(f"{row.where}: latent {i} stands in the export twice.")
        heights, middles = row.numbers("freq_hist_data_bar_heights"), row.numbers("freq_hist_data_bar_values")
        counted = len(heights) > 1 and len(middles) in (len(heights), len(heights) + 1) and _counts(heights)
        density = row.number("frac_nonzero") or 0.0
        if not 0 <= density <= 1:
            raise DamagedFile(f"{row.where}: frac_nonzero is {density:g}, expected a share from 0 to 1.")
        found: dict[str, Any] = {
            "density": density, "max": row.number("maxActApprox") or 0.0,
            "count": int(sum(heights)) if counted else None, "histogram": _histogram(heights, middles) if counted else None,
        }  # fmt: skip
        for ours, theirs in (("top", "pos"), ("bottom", "neg")):
            found[f"{ours}_logits"], found[f"{ours}_logit_values"] = self._tokens(row, theirs)
        for ours, ids, values in (
            ("neighbour", "topkCosSimIndices", "topkCosSimValues"),
            ("correlate", "correlated_features_indices", "correlated_features_pearson"),
        ):
            found[ours] = list(zip(map(int, row.numbers(ids)), row.numbers(values)))
        bars, values = row.numbers("logits_hist_data_bar_heights"), row.numbers("logits_hist_data_bar_values")
        whole = len(bars) > 1 and len(bars) == len(values) and _counts(bars)
        step = (values[-1] - values[0]) / (len(values) - 1) / 2 if whole else 0.0
        found["logit_histogram"] = list(map(int, bars)) if whole else []
        found["logit_range"] = [values[0] - step, values[-1] + step] if whole else []
        self.rows[i] = found

    def _tokens(self, row: Row, which: str) -> tuple[list[int], list[float]]:
        strings, values = row.strings(f"{which}_str"), row.numbers(f"{which}_values")
        ids = [self._speller.one(s) for s in strings]
        kept = [(i, v) for i, v in zip(ids, values) if i is not None]
        self.unspelt += len(ids) - len(kept)
        return [i for i, _ in kept], [v for _, v in kept]

    def tokens(self) -> int | None:
        """Tokens that were read for the export: active ones of the busiest latent by its density; None where it counts none."""
        counted = [r for r in self.rows.values() if r["count"] and r["density"] > 1e-9]
        busiest = max(counted, key=lambda r: r["count"], default=None)
        return None if busiest is None else round(busiest["count"] / busiest["density"])

    def columns(self, d_sae: int, tokens: int, strongest: Mapping[int, float]) -> dict[str, Any]:
        """Columns of features.parquet, but for those that examples say. What the export does not hold is null.

        `strongest`: activation among the examples, which is the maximum where none is said.
        """
        nothing: dict[str, Any] = {"density": 0.0, "max": 0.0, "count": 0, "histogram": None, "neighbour": [], "correlate": []}
        rows = [self.rows.get(i, nothing) for i in range(d_sae)]
        density, most = (np.array([r[name] for r in rows], np.float64) for name in ("density", "max"))
        count = np.array([round(r["density"] * tokens) if r["count"] is None else r["count"] for r in rows], np.int64)
        most = np.array([strongest.get(i, 0.0) if m <= 0 else m for i, m in enumerate(most.tolist())])
        dead = (density <= 0) & (most <= 0)
        missing = np.ma.masked_all(d_sae)
        near, alike = ([[(j, v) for j, v in r[name] if 0 <= j < d_sae] for r in rows] for name in ("neighbour", "correlate"))
        alone = np.array([not n for n in near])
        columns: dict[str, Any] = {
            "latent": np.arange(d_sae), "count": count, "density": density, "mean": missing, "max": np.ma.array(most, mask=dead),
            "dead": dead, "dense": density > DENSE, "nearest": np.ma.array([n[0][0] if n else 0 for n in near], mask=alone),
            "nearest_cosine": np.ma.array([n[0][1] if n else 0.0 for n in near], mask=alone),
            "histogram": np.stack([np.zeros(bins.BINS, np.int32) if r["histogram"] is None else r["histogram"] for r in rows]),
            "neighbours": [[j for j, _ in n] for n in near], "neighbour_cosines": [[v for _, v in n] for n in near],
            "correlated": [[j for j, _ in n] for n in alike], "correlations": [[v for _, v in n] for n in alike],
        }  # fmt: skip
        columns |= {name: [r.get(name, []) for r in rows] for name in LISTS if "logit" in name}
        return dict.fromkeys(SCALARS, missing) | {name: [[]] * d_sae for name in LISTS} | columns


def _counts(values: list[float]) -> bool:
    """Whether these are counts."""
    return all(v >= 0 and v == int(v) for v in values) and sum(values) < COUNT


def _histogram(heights: list[float], middles: list[float]) -> np.ndarray:
    """Equal bars as the bins of a harvest. `middles` of the bars, or their edges."""
    if len(middles) == len(heights):
        step = (middles[-1] - middles[0]) / (len(middles) - 1) / 2
        middles = [m - step for m in middles] + [middles[-1] + step]
    edges = np.maximum.accumulate(np.maximum(np.array(middles), 0))
    return apportioned(np.array(heights), edges, EDGES).astype(np.int32)


class Examples:
    """Rows of `activations`."""

    def __init__(self, speller: Speller, texts: Texts):
        self._speller, self._texts = speller, texts
        self._flat = {name: array(code) for name, code in zip(_FLAT, "iBidddiiBBi")}
        self._at, self._values = array("B"), array("f")
        self._kept: Counter[int] = Counter()
        self._peaks: dict[int, Counter[int]] = defaultdict(Counter)
        self.shares: dict[int, dict[tuple[float, float], float]] = defaultdict(dict)
        self.strongest: dict[int, float] = {}
        self.surplus = 0
        """Rows beyond EXAMPLES of their latent."""

    def add(self, row: Row) -> None:
        i, strings, values = row.whole("index", LATENTS), row.strings("tokens"), row.numbers("values")
        if not strings or len(strings) != len(values) or len(strings) > LONGEST:
            raise DamagedFile(f"{row.where}: {len(strings)} tokens and {len(values)} values; expected as many, 1 to {LONGEST}.")
        peak = row.whole("maxValueTokenIndex", len(values), max(range(len(values)), key=values.__getitem__))
        drawn = row.whole("qualifyingTokenIndex", len(values), peak)
        low, high, share = (row.number(name) for name in ("binMin", "binMax", "binContains"))
        self._kept[i] += 1
        if self._kept[i] > EXAMPLES:
            self.surplus += 1
            return
        ids, places = self._speller.row(strings)
        self.strongest[i] = max(values[peak], self.strongest.get(i, 0.0))
        group = RANDOM if values[peak] <= 0 else TOP
        if group == TOP and share is not None and low is not None and high is not None and 0 <= share <= 1 and 0 <= low < high:
            group = INTERVAL
            self.shares[i][low, high] = share
            if len(self.shares[i]) > INTERVALS:
                raise DamagedFile(f"{row.where}: the examples of latent {i} name more than {INTERVALS} intervals.")
        elif group == TOP:
            self._peaks[i][ids[places[peak]]] += 1
        place = places[drawn if group == INTERVAL else peak]
        before, after = min(place, AROUND[0]), min(len(ids) - 1 - place, AROUND[1])
        strength = dict[int, float]()
        for at, value in zip(places, values):
            if value and -before <= at - place <= after:
                strength[at - place + before] = max(value, strength.get(at - place + before, value))
        self._at.extend(strength)
        self._values.extend(strength.values())
        one = (i, group, self._texts.add(ids), low or 0.0, high or 0.0, values[peak], place, 0, before, after, len(strength))
        for kept, value in zip(self._flat.values(), one):
            kept.append(value)

    def intervals(self, count: np.ndarray) -> dict[str, Any]:
        """Columns of features.parquet that examples say: intervals, and the token at most peaks."""
        edges: list[list[float]] = [[]] * len(count)
        counts: list[list[int]] = [[]] * len(count)
        for i, shares in self.shares.items():
            if i < len(count):
                edges[i] = sorted({end for ends in shares for end in ends})
                inside = {low: round(share * int(count[i])) for (low, _), share in shares.items()}
                counts[i] = [inside.get(low, 0) for low in edges[i][:-1]]
        best = [self._peaks[i].most_common(1)[0] if self._peaks.get(i) else (0, 0) for i in range(len(count))]
        none = np.array([not n for _, n in best])
        shares = [n / self._peaks[i].total() if n else 0.0 for i, (_, n) in enumerate(best)]
        return {
            "interval_edges": edges, "interval_counts": counts, "top_token": np.ma.array([t for t, _ in best], mask=none),
            "purity": np.ma.array(shares, mask=none),
        }  # fmt: skip

    def columns(self, d_sae: int, context: int, edges: list[list[float]], counts: list[list[int]]) -> dict[str, Any]:
        """Columns of examples.parquet, by latent, kind, interval and strength."""
        flat = {name: np.array(values) for name, values in self._flat.items()}
        latent, group = flat["latent"], flat["group"]
        drawn = np.flatnonzero(group == INTERVAL)
        for n in drawn.tolist():
            flat["interval"][n] = edges[latent[n]].index(flat["low"][n])
        key = latent.astype(np.int64) * 256 + flat["interval"]
        _, which, shown = np.unique(key[drawn], return_inverse=True, return_counts=True)
        weight = np.zeros(len(latent))
        weight[drawn] = [counts[latent[n]][flat["interval"][n]] for n in drawn.tolist()] / shown[which]
        position = flat["row"].astype(np.int64) * context + flat["place"]
        order = np.lexsort((position, -flat["strength"], flat["interval"], group, latent))
        order = order[latent[order] < d_sae]
        length, other = flat["length"].astype(np.int64), (group != INTERVAL)[order]
        places = spans((np.cumsum(length) - length)[order], length[order])
        offsets = np.r_[0, np.cumsum(length[order])]
        columns: dict[str, Any] = {name: flat[name][order] for name in ("latent", "group", "before", "after")}
        return columns | {
            "position": position[order], "interval": np.ma.array(flat["interval"][order], mask=other),
            "weight": np.ma.array(weight[order], mask=other), "at": ragged(np.array(self._at)[places], offsets, U1),
            "values": ragged(np.clip(np.array(self._values)[places], -65504, 65504), offsets, F2),
        }  # fmt: skip

    @property
    def latents(self) -> int:
        """One more than the highest latent that has examples."""
        return max(self._kept, default=-1) + 1


_FLAT = ("latent", "group", "row", "low", "high", "strength", "place", "interval", "before", "after", "length")
