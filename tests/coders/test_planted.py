"""Ground truth: what each architecture recovers of a planted dictionary (T1), on five seeds.

Bands are the mean ± 4 standard deviations over seeds (at least ± 3 % of the mean) that `python -m benchmarks planted` printed.
"""

from __future__ import annotations

import pytest

from benchmarks.planted import SETTINGS, measure

BANDS = {
    "relu": {"l0": (12.4, 13.4), "fvu": (0.213, 0.229), "recovered": (0.939, 1.0), "gamma": (0.743, 0.789), "dead": (0, 0.004)},
    "topk": {"l0": (7.9, 8.0), "fvu": (0.173, 0.197), "recovered": (0.847, 0.95), "gamma": (0.99, 1.01), "dead": (0, 0.062)},
    "batch_topk": {
        "l0": (7.75, 8.25),
        "fvu": (0.215, 0.231),
        "recovered": (0.589, 0.75),
        "gamma": (0.99, 1.01),
        "dead": (0.07, 0.21),
    },
    "random": {"l0": (8, 8), "fvu": (0.58, 0.616), "recovered": (0, 0.001), "gamma": (0.99, 1.01), "dead": (0, 0.001)},
}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", SETTINGS)
def test_recovers_a_planted_dictionary(name, seed):
    scores = measure([name], seed)[name]
    for metric, (low, high) in BANDS[name].items():
        assert low <= scores[metric] <= high, f"{name}: {metric} = {scores[metric]:.3f}, expected {low} to {high}"


def test_bands_tell_learning_from_luck():
    for metric in ("fvu", "recovered"):
        low, high = BANDS["random"][metric]
        for name in ("relu", "topk", "batch_topk"):
            assert BANDS[name][metric][1] < low or BANDS[name][metric][0] > high, "random must lie outside every trained band"
