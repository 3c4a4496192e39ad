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


SWEEP = [100, 10, 1000], np.array([0.6, 0.2, 0.9])  # in any order


@pytest.mark.parametrize(("at", "expected"), [(10, 0.2), (100, 0.6), (1000, 0.9), (9.5, 0.2), (1080, 0.9)])
def test_a_sweep_goes_through_its_points(at, expected):
    assert statistics.interpolate(*SWEEP, at) == pytest.approx(expected)


def test_between_two_points_a_line_in_log_l0():
    assert statistics.interpolate([10, 1000], np.array([0.2, 0.6]), 100) == pytest.approx(0.4)
    assert statistics.interpolate([10, 1000], np.array([0.2, 0.6]), 31.6228) == pytest.approx(0.3)


def test_a_smooth_sweep_is_met_between_its_points():
    """Saturating curves as sweeps have them: the cubic misses the truth by less than half of what straight lines miss."""
    l0, at = np.array([20.0, 40, 80, 160, 320, 640]), np.geomspace(25, 600, 50)
    cubic, straight = [], []
    for scale in (20.0, 50.0, 100.0):
        values, truth = 1 - 1 / (1 + l0 / scale), 1 - 1 / (1 + at / scale)
        found = np.array([statistics.interpolate(l0, values, x) for x in at])
        cubic.append(np.abs(found - truth).max())
        straight.append(np.abs(np.interp(np.log(at), np.log(l0), values) - truth).max())
        assert (np.diff(found) > 0).all()
    assert max(cubic) < 0.005
    assert max(cubic) < max(straight) / 2


@pytest.mark.parametrize("at", [8, 1200, 0])
def test_a_sweep_is_not_extrapolated(at):
    assert statistics.interpolate(*SWEEP, at) is None
    assert statistics.interpolate([10, 1000], np.array([0.2, 0.6]), 1080, tolerance=0.02) is None


def test_points_of_one_l0_are_averaged_and_zero_left_out():
    assert statistics.interpolate([0, 32.0], np.array([5.0, 0.7]), 33) == pytest.approx(0.7)
    assert statistics.interpolate([0.0], np.array([1.0]), 5) is None
    seeds = [10, 10.1, 1000, 990, 1000], np.array([0.1, 0.3, 0.5, 0.6, 0.7])
    assert statistics.interpolate(*seeds, 100) == pytest.approx(0.4, abs=1e-3)


def test_replicates_go_along():
    values = np.random.default_rng(0).random((7, 3))
    found = statistics.interpolate([10, 100, 1000], values, 50)
    assert np.allclose(found, [statistics.interpolate([10, 100, 1000], row, 50) for row in values])


def test_interval_at_a_matched_l0_covers():
    """Every coder of a sweep sees the same noisy documents; the value at L0 50 is known."""
    l0, hits, sims = np.array([20.0, 40, 80, 160]), 0, 200
    curve = lambda x: 0.2 * np.log(x)  # noqa: E731  a line in log L0, which the cubic meets exactly
    for i in range(sims):
        rng = numpy_generator("matched", i)
        values = curve(l0) + 0.3 * rng.normal(size=(60, 1)) + 0.1 * rng.normal(size=(60, 4))
        drawn = np.stack([statistics.resampled({"v": v}, numpy_generator("m", i), 300)["v"] / 60 for v in values.T], axis=-1)
        at = statistics.percentile(
            float(statistics.interpolate(l0, values.mean(0), 50)), statistics.interpolate(l0, drawn, 50), 60
        )
        hits += at.low <= curve(50) <= at.high
    assert 0.89 <= hits / sims <= 0.99


# ---- exchange, trees, seeds ----------------------------------------------------------------------------------------------------


def paired(rng, gap, n=40):
    hard = rng.gamma(2.0, size=n)  # some documents are hard for both
    a, b = ({"top": hard + g + 0.1 * rng.normal(size=n), "bottom": np.full(n, 2.0)} for g in (gap, 0.0))
    return a, b


def test_paired_difference_covers_and_its_p_is_honest(monkeypatch):
    """A planted difference is covered in 95 % of simulated sets, one of zero is called significant in 5 %."""
    monkeypatch.setattr(statistics, "PERMUTATIONS", 299)
    covered, false, found, sims = 0, 0, 0, 200
    for i in range(sims):
        rng = numpy_generator("sets", i)
        a, b = paired(rng, 0.06)
        at = statistics.difference(ratio, a, b, rng, 300)
        covered += at.low <= 0.03 <= at.high
        found += statistics.permutation(ratio, a, b, rng) < 0.05
        false += statistics.permutation(ratio, *paired(rng, 0.0), rng) < 0.05
    assert 0.89 <= covered / sims <= 0.99
    assert 0.01 <= false / sims <= 0.10
    assert found / sims > 0.6


def test_permutation_is_exact_where_units_are_few():
    """Six units that all agree: 2 of the 2⁶ exchanges are as extreme; five say nothing."""
    a, b = {"top": np.arange(1.0, 7), "bottom": np.ones(6)}, {"top": np.zeros(6), "bottom": np.ones(6)}
    assert statistics.permutation(ratio, a, b, numpy_generator("p")) == pytest.approx(2 / 64)
    assert statistics.permutation(ratio, a, a, numpy_generator("p")) == 1.0
    five = [{k: v[:5] for k, v in side.items()} for side in (a, b)]
    assert statistics.permutation(ratio, *five, numpy_generator("p")) is None


def test_a_tree_is_a_mean_of_means():
    tree = {"one": {"x": np.array([1.0, 3.0]), "y": np.array([4.0])}, "two": np.array([9.0])}
    assert statistics.tree_mean(tree) == pytest.approx((np.mean([2, 4]) + 9) / 2)
    assert list(statistics.paths(tree)) == [("one", "x", "0"), ("one", "x", "1"), ("one", "y", "0"), ("two", "0")]
    sums = statistics.tree_sums(tree)
    assert sums["weight"].tolist() == [0.125, 0.125, 0.25, 0.5]
    assert sums["unit"].sum() / sums["weight"].sum() == pytest.approx(statistics.tree_mean(tree))


def test_units_are_those_of_the_outermost_level_that_has_enough():
    wide = {f"d{i}": np.arange(3.0) + i for i in range(6)}
    assert statistics.tree_sums(wide)["unit"].tolist() == pytest.approx([(i + 1) / 6 for i in range(6)])
    narrow = {"d": {"c": np.arange(4.0), "e": np.arange(4.0)}}
    assert len(statistics.tree_sums(narrow)["unit"]) == 8


@pytest.mark.parametrize("between", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("datasets", [6, 12])
def test_intervals_over_few_datasets_cover(datasets, between):
    """Datasets of two classes of twenty examples: whatever varies, 95 % of the intervals hold the truth; unexpanded, fewer do."""
    hits, narrow, sims = 0, 0, 200
    for i in range(sims):
        rng = numpy_generator("trees", datasets, i)
        effects = between * rng.normal(size=datasets)
        sums = statistics.tree_sums({str(d): {c: rng.normal(e, 1.0, 20) for c in "ab"} for d, e in enumerate(effects)})
        drawn = statistics.resampled(sums, rng, 300)
        value, replicates = sums["unit"].sum(), drawn["unit"] / drawn["weight"]
        at = statistics.percentile(value, value + statistics.expansion(datasets) * (replicates - value), datasets)
        plain = statistics.percentile(value, replicates, datasets)
        hits += at.low <= 0 <= at.high
        narrow += plain.low <= 0 <= plain.high
    assert 0.90 <= hits / sims <= 0.99
    assert narrow < hits


def test_expansion_is_that_of_student():
    assert statistics.expansion(6) == pytest.approx((6 / 5) ** 0.5 * 2.5706 / 1.95996, rel=1e-4)
    assert statistics.expansion(10_000) == pytest.approx(1.0, abs=1e-3)


def test_spread_over_seeds_covers():
    """Five seeds of a metric of mean 0.8 and CV 5 %: each interval holds the truth in 95 % of 400 sets."""
    hits, sims = np.zeros(3), 400
    for i in range(sims):
        found = statistics.spread(numpy_generator("seeds", i).normal(0.8, 0.04, 5))
        hits += [at.low <= truth <= at.high for at, truth in ((found.mean, 0.8), (found.sd, 0.04), (found.cv, 0.05))]
    assert (hits / sims >= 0.92).all()
    assert (hits / sims <= 0.98).all()


def test_spread_by_hand():
    found = statistics.spread([1.0, 2.0, 3.0])
    assert (found.mean.value, found.sd.value, found.cv.value, found.cv.n) == (2.0, 1.0, 0.5, 3)
    assert found.mean.high - 2.0 == pytest.approx(4.303 / 3**0.5, rel=1e-3)
    assert (found.sd.low, found.sd.high) == pytest.approx((0.5207, 6.2847), rel=1e-3)
    assert found.cv.low < 0.5
    small = statistics.spread([0.999, 1.0, 1.001])  # beside a mean that is certain, the interval of the standard deviation
    assert (small.cv.low, small.cv.high) == pytest.approx((0.5207e-3, 6.2847e-3), rel=1e-3)
    assert statistics.spread([-1.0, 1.0]).cv.high is None  # the mean may be zero
    assert statistics.spread([0.4]).mean == statistics.Interval(0.4, None, None, 1)
    assert np.isnan(statistics.spread([0.4]).sd.value)


def test_pareto():
    assert statistics.pareto([1, 2, 3, 2, 4], [0.1, 0.5, 0.4, 0.45, 0.6]) == [0, 1, 4]
    assert statistics.pareto([1, 1], [0.2, 0.3]) == [1]
    assert statistics.pareto([], []) == []
    assert statistics.pareto([1, 2, 3], [0.5, 0.6, 0.4], "lower") == [0, 2]
