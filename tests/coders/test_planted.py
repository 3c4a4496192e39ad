"""Ground truth: what each architecture recovers of a planted dictionary (T1), on a seed that the bands have not seen.

`python -m benchmarks architectures` wrote the bands' middle and spread, from five seeds, into benchmarks/architectures.json.
"""

from __future__ import annotations

import json

import pytest

from benchmarks.architectures import CALIBRATED, KEPT, ROWS, SEEDS, measure

BANDS = json.loads(KEPT.read_text(encoding="utf-8"))["superposition"]
LEAST = {"l0": 0.5, "dense": 8.0}
"""Half the narrowest band; .03 for shares and ratios."""


def band(label: str, metric: str) -> tuple[float, float]:
    """Five standard deviations to either side: of five seeds, their spread is itself uncertain."""
    mean, spread = BANDS[label][metric]
    half = max(5 * spread, LEAST.get(metric, 0.03))
    return mean - half, mean + half


@pytest.mark.slow
@pytest.mark.parametrize("label", ROWS)
def test_recovers_a_planted_dictionary(label):
    scores = measure("superposition", SEEDS, [label])[label]
    for metric in BANDS[label]:
        low, high = band(label, metric)
        assert low <= scores[metric] <= high, f"{label}: {metric} = {scores[metric]:.3f}, expected {low:.3f} to {high:.3f}"


def test_bands_tell_learning_from_luck():
    for metric in ("fvu", "recovered"):
        low, high = band("random", metric)
        for label in CALIBRATED:
            own = band(label, metric)
            assert own[1] < low or own[0] > high, f"{label}: random must lie outside every trained band of {metric}"


@pytest.mark.parametrize(
    "label", ["gated", "topk", "batch_topk", "jumprelu", "jumprelu, target L0", "jumprelu, quadratic frequency"]
)
def test_does_not_shrink(label):
    """γ = 1.00 ± .01 wherever magnitudes are not paid for; L1 shrinks."""
    assert BANDS[label]["gamma"][0] == pytest.approx(1.0, abs=0.01)
    assert BANDS["relu"]["gamma"][0] < 0.9


def test_paying_for_frequency_removes_dense_latents():
    """At the L0 of the plain penalty, or above it."""
    taxed, free = BANDS["jumprelu, quadratic frequency"], BANDS["jumprelu"]
    assert taxed["dense"][0] == 0 < free["dense"][0]
    assert taxed["recovered"][0] > free["recovered"][0]
