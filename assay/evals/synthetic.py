"""synthetic: did a coder find the features its data were made of, and does it tell when they are there? Where the truth is planted.

For coders trained with `--planted`: SynthSAEBench (Chanin & Garriga-Alonso 2026, arXiv 2602.14687; source `synthetic`), superposition
(T1, `superposition`), a hierarchy (T2, `tree`) and the other planted sources. The coder meets new vectors of the very source it learnt
from: the same features, another stream.

- Directions: MCC matches latents and features one to one so that the sum of cosines, without sign, is largest (Hungarian algorithm;
  after Song et al. 2025, arXiv 2505.20254). Uniqueness is the share of latents left when those with the same nearest feature count
  once. MMCS and recovery go from all features to their nearest latents: they grow with the coder's width.
- Detection: each latent's activity as a sign of its nearest feature's. Precision, recall and F1 are means over latents, 0 for dead ones.
- Absorption, where features have children (T2, SynthSAEBench): how often a feature's own latent, the one with the nearest decoder row, is
  silent although the feature is there, because a child is there too. Counted for every such feature, whatever latent fires instead.
- Reconstruction: explained variance, L0 beside the true L0, shrinkage ‖x̂‖ / ‖x‖ and γ (Rajamanoharan et al. 2024).

Intervals resample what the score is a mean of: blocks of 64 vectors for L0, explained variance, shrinkage and γ; latents for detection and
dead; matched pairs for MCC; features for MMCS; uniqueness by leaving out blocks of latents. They say what other vectors, latents or
features of the same kind would give, not what another training seed would: train several for that.

Read it beside `--baselines all`. The oracle has the true dictionary, and is as sparse as the truth: what it lacks to 1 superposition takes,
not learning. Random directions and PCA at the coder's own L0 are the floor, which is not 0: in d dimensions random rows have cosines of
about √(2 ln N / d) with the nearest of N features. A permuted decoder has the MCC of its original, which knows nothing of activity; its F1
and explained variance are at the floor.

What it cannot tell: how a coder does on a language model, whose features need not be linear, sparse or independent in these ways. Figures
of different sources, or of one source at different L0 or width, cannot be compared.

Cost: the vectors are made once for all coders; a coder costs one encoding and one matching: a second at the sizes for a CPU, minutes at that
of the benchmark (16,384 features), where directions, matching and above all the oracle take long.

Figures of others, on `synthetic` at 4,096 latents: F1 about .61 for BatchTopK, .97 to .99 for encoders optimised on the true dictionary.
Here, on `synthetic-small`: F1 .99 for the oracle, .66 for BatchTopK and .74 for Matryoshka at 256 latents, .04 for random directions (L0 5,
five seeds; more in [Architectures on ground truth](../architectures.md)).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from assay import statistics
from assay.activations.score import BLOCK, OVER_VECTORS, Measured, measure
from assay.coders.base import SparseCoder
from assay.errors import BadInput
from assay.evals.base import Eval, EvalConfig, Metric, score
from assay.evals.core import rounded
from assay.evals.needs import Need, Truth, TruthInput
from assay.randomness import numpy_generator
from assay.results import Score

GROUPS = 64
"""Groups of latents that are left out in turn for the interval of uniqueness."""

# No number of vectors is published; with so many, intervals over vectors are narrower than any difference of interest.
PRESETS: dict[str, dict[str, Any]] = {"paper": {"vectors": 100_000}, "fast": {"vectors": 16_384}}


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig(EvalConfig):
    vectors: int = 16_384
    """New vectors of the coder's own source."""


class Synthetic(Eval[SyntheticConfig]):
    """A coder against the planted features of its own data."""

    Config = SyntheticConfig
    version = 1
    metrics: ClassVar[Mapping[str, Metric]] = {
        "mcc": Metric(doc="Mean cosine, without sign, of latents and features matched one to one.", better="higher", ceiling=1.0),
        "uniqueness": Metric(doc="Distinct nearest features / latents.", better="higher", ceiling=1.0),
        "f1": Metric(doc="F1 of a latent as a sign of its nearest feature, mean over latents.", better="higher", floor=0.0, ceiling=1.0),
        "precision": Metric(doc="Of where a latent fires, where its feature is.", better="higher", floor=0.0, ceiling=1.0),
        "recall": Metric(doc="Of where its feature is, where the latent fires.", better="higher", floor=0.0, ceiling=1.0),
        "accuracy": Metric(doc="Share of vectors on which latent and feature agree; high for whatever is rare.", better="higher", ceiling=1.0),
        "mmcs": Metric(doc="Mean over features of the largest cosine with any latent.", better="higher", ceiling=1.0),
        "recovered": Metric(doc="Share of features for which it is above 0.9.", better="higher", floor=0.0, ceiling=1.0),
        "absorption": Metric(
            doc="In a hierarchy: of where a feature and a child of it are, where the feature's latent is silent; mean over features.",
            better="lower", ceiling=0.0,
        ),
        "explained_variance": Metric(doc="1 − Σ|x − x̂|² / Σ|x − mean|².", better="higher", floor=0.0, ceiling=1.0),
        "l0": Metric(doc="Latents that are not zero, a vector.", better="lower", unit="latents"),
        "true_l0": Metric(doc="Features that are there, a vector: the same for all coders.", better="neither", unit="features"),
        "dead": Metric(doc="Share of latents that never fire on these vectors.", better="lower", ceiling=0.0),
        "dense": Metric(doc="Share of latents that fire on over 10 % of them.", better="neither"),
        "shrinkage": Metric(doc="Mean of |x̂| / |x|.", better="neither", ceiling=1.0),
        "gamma": Metric(doc="γ = Σ|x̂|² / Σ x·x̂ about the mean; below 1 is shrinkage.", better="neither", ceiling=1.0),
    }  # fmt: skip

    def __init__(self, config: SyntheticConfig | None = None):
        super().__init__(config)
        if self.config.vectors < 2 * BLOCK:
            raise BadInput(f"synthetic needs {2 * BLOCK} vectors or more for an interval; got {self.config.vectors}.")

    def needs(self) -> Mapping[str, Need]:
        return {"truth": Truth(self.config.vectors, self.config.seed)}

    def run(self, coder: SparseCoder[Any], inputs: Mapping[str, Any]) -> tuple[list[Score], dict[str, Any]]:
        truth: TruthInput = inputs["truth"]
        found = measure(coder, truth.directions, truth.pieces(), truth.parents)
        intervals = self._over_units(found) | self._over_vectors(found)
        scores = [score(name, intervals[name], REASONS.get(name, "")) for name in self.metrics]
        blocks = {name: found.sums[column] for name, column in KEPT.items()}
        latents = {name: found.latents[name] for name in ("precision", "recall", "f1")}
        return scores, {
            "source": dict(truth.source),
            "blocks": {name: rounded(column) for name, column in blocks.items()},
            "latents": {"nearest": found.nearest.tolist()} | {name: rounded(column) for name, column in latents.items()},
            "features": {"closest": rounded(found.features["mmcs"])},
        }

    def _over_vectors(self, found: Measured) -> dict[str, statistics.Interval]:
        drawn = statistics.resampled(found.sums, self._generator("vectors"))
        return {name: statistics.estimate(formula, found.sums, drawn) for name, formula in OVER_VECTORS.items()}

    def _over_units(self, found: Measured) -> dict[str, statistics.Interval]:
        columns = found.latents | found.features | {"mcc": found.cosines, "absorption": found.absorbed}
        none = statistics.Interval(float("nan"), None, None, 0)
        intervals = {name: statistics.mean(c, self._generator(name)) if len(c) else none for name, c in columns.items()}
        return intervals | {"uniqueness": uniqueness(found.nearest)}

    def _generator(self, name: str) -> np.random.Generator:
        return numpy_generator("synthetic", name, self.config.seed)


REASONS = {
    "absorption": "this source has no hierarchy",
    "gamma": "nothing is reconstructed",
    "shrinkage": "all vectors are 0",
}

KEPT = {"vectors": "vectors", "l0": "l0", "se": "error", "variance": "variance"}
"""Sums kept in the details, by block of vectors, under core's names: enough for paired comparisons of two records."""


def uniqueness(nearest: np.ndarray) -> statistics.Interval:
    """Distinct nearest features / latents, with an interval from leaving out groups of latents."""
    group = np.arange(len(nearest)) % min(GROUPS, len(nearest))
    value = len(np.unique(nearest)) / len(nearest)
    if len(nearest) < 2:
        return statistics.Interval(value, None, None, len(nearest))
    rest = [nearest[group != g] for g in range(group.max() + 1)]
    at = statistics.jackknife(value, np.array([len(np.unique(some)) / len(some) for some in rest]))
    low, high = (None if end is None else min(max(end, 0.0), 1.0) for end in (at.low, at.high))
    return statistics.Interval(value, low, high, len(nearest))
