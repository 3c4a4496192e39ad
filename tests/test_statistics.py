"""Intervals cover what they should, pairing helps, interpolation is exact where it must be."""

from __future__ import annotations

import numpy as np
import pytest

from assay import statistics
from assay.errors import BadInput
from assay.randomness import numpy_generator


def ratio(s):
    return s["top"] / s["bottom"]


def test_ratio_is_of_sums():
    sums = {"top": np.array([1.0, 2.0, 9.0]), "bottom": np.array([1.0, 4.0, 5.0])}
    at = statistics.bootstrap(ratio, sums, numpy_generator("t"))
    assert at.value == pytest.approx(1.2)
    assert at.low <= at.value <= at.high
    assert at.n == 3


def test_resampled_agrees_with_a_loop():
    column = np.arange(5.0)
    drawn = statistics.resampled({"a": column}, numpy_generator("loop"), 50)["a"]
    rng = numpy_generator("loop")
    assert np.allclose(drawn, [column[row].sum() for row in rng.integers(0, 5, size=(50, 5))])


def test_counts_in_pieces(monkeypatch):
    whole = np.concatenate(list(statistics.counts(7, numpy_generator("p"), 20)))
    monkeypatch.setattr(statistics, "BLOCK", 21)
    pieces = list(statistics.counts(7, numpy_generator("p"), 20))
    assert len(pieces) == 7
    assert np.array_equal(np.concatenate(pieces), whole)
    assert (whole.sum(1) == 7).all()


def test_same_name_same_interval():
    sums = {"top": np.random.default_rng(0).random(40), "bottom": np.ones(40)}
    first, second, other = (statistics.bootstrap(ratio, sums, numpy_generator(n)) for n in ("a", "a", "b"))
    assert first == second != other


def test_coverage_of_clustered_data():
    """Tokens of a document share an effect: resampling documents covers 95 %, resampling tokens would not."""
    rng = np.random.default_rng(3)
    hits, token_hits, sims = 0, 0, 200
    for i in range(sims):
        sizes = rng.integers(1, 30, size=60)
        values = [rng.normal() + 0.5 * rng.normal(size=n) for n in sizes]
        at = statistics.bootstrap(
            ratio, {"top": np.array([v.sum() for v in values]), "bottom": sizes.astype(float)}, numpy_generator("cover", i), 300
        )
        hits += at.low <= 0 <= at.high
        flat = np.concatenate(values)
        half = 1.96 * flat.std() / np.sqrt(len(flat))
        token_hits += abs(flat.mean()) <= half
    assert 0.88 <= hits / sims <= 0.99
    assert token_hits / sims < 0.75


def test_mean_matches_theory():
    values = np.random.default_rng(0).normal(2.0, 1.0, size=400)
    at = statistics.mean(values, numpy_generator("m"), 4000)
    assert at.value == pytest.approx(values.mean())
    assert at.high - at.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.08)


def test_too_little_has_no_interval():
    assert statistics.mean(np.array([3.0]), numpy_generator("one")) == statistics.Interval(3.0, None, None, 1)
    nan = statistics.bootstrap(ratio, {"top": np.zeros(4), "bottom": np.zeros(4)}, numpy_generator("nan"))
    assert np.isnan(nan.value)
    assert nan.low is None


def test_paired_difference_is_sharper():
    rng = np.random.default_rng(1)
    shared = rng.normal(size=200)
    a = {"top": shared + 0.05 + 0.02 * rng.normal(size=200), "bottom": np.ones(200)}
    b = {"top": shared, "bottom": np.ones(200)}
    gap = statistics.difference(ratio, a, b, numpy_generator("d"))
    alone = statistics.bootstrap(ratio, a, numpy_generator("d"))
    assert gap.value == pytest.approx(0.05, abs=0.01)
    assert 0 < gap.low < gap.value < gap.high
    assert gap.high - gap.low < 0.1 * (alone.high - alone.low)
    with pytest.raises(BadInput, match="same documents"):
        statistics.difference(ratio, a, {k: v[:5] for k, v in b.items()}, numpy_generator("d"))


def test_jackknife_of_a_mean_is_the_textbook_one():
    x = np.random.default_rng(2).normal(size=30)
    at = statistics.jackknife(x.mean(), np.array([np.delete(x, i).mean() for i in range(30)]))
    half = 2.045 * x.std(ddof=1) / np.sqrt(30)
    assert at.high - at.value == pytest.approx(half, rel=1e-3)
    assert at.value - at.low == pytest.approx(half, rel=1e-3)
    assert statistics.jackknife(1.0, np.ones(1)).low is None


@pytest.mark.parametrize(
    ("at", "expected"), [(10, 0.2), (100, 0.6), (1000, 0.9), (10**1.5, 0.4), (10**2.5, 0.75), (9.5, 0.2), (1080, 0.9)]
)
def test_matched_is_linear_in_log_l0(at, expected):
    values, l0 = np.array([0.6, 0.2, 0.9]), [100, 10, 1000]  # in any order
    assert statistics.matched(l0, at) @ values == pytest.approx(expected)


@pytest.mark.parametrize("at", [8, 1200, 0])
def test_matched_does_not_extrapolate(at):
    assert statistics.matched([100, 10, 1000], at) is None


def test_matched_single_point_and_zero():
    assert statistics.matched([0, 32.0], 33).tolist() == [0, 1]
    assert statistics.matched([0.0], 5) is None


def test_pareto():
    assert statistics.pareto([1, 2, 3, 2, 4], [0.1, 0.5, 0.4, 0.45, 0.6]) == [0, 1, 4]
    assert statistics.pareto([1, 1], [0.2, 0.3]) == [1]
    assert statistics.pareto([], []) == []
