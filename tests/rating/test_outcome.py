"""Statistics of an unblinded sheet: scipy's on numbers made by hand, paired only where the same people rated both."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from assay.randomness import numpy_generator
from assay.rating import Result, table
from assay.rating.outcome import LEVEL, RESAMPLES, bca, difference, mean_of, pratt

A = [5, 4, 4, 3, 5, 2, 4, 5, 3, 4, 5, 4, 2, 3, 3, 1]
B = [3, 4, 2, 3, 4, 2, 5, 3, 3, 1, 4, 2, 3, 3, 5, 1]


def made(a=A, b=B, rater="ada"):
    """Items of two coders, pair by pair, the numbers of b after those of a."""
    found = []
    for coder, values in (("a", a), ("b", b)):
        for pair, value in enumerate(values):
            said = {} if value is None else {"consistency": {rater: value}}
            found.append(Result(item=len(found) + 1, coder=coder, coder_hash="", latent=pair, pair=pair, ratings=said))
    return found


def test_the_test_is_wilcoxons_with_pratts_zeros():
    found = difference(made(), "a", "b", "consistency")
    gaps = np.subtract(A, B).astype(float)
    assert found.n == 16 and found.mean == pytest.approx(gaps.mean())
    for side, p in (("two-sided", found.p), ("greater", found.p_greater)):
        assert p == stats.wilcoxon(A, B, zero_method="pratt", alternative=side).pvalue
    assert found.p != stats.wilcoxon(A, B, zero_method="wilcox").pvalue, "zeros count"
    assert difference(made(), "b", "a", "consistency").p_greater > 0.5 > found.p_greater


def test_pratt_by_hand():
    """|d| ranked with the zeros: 0 0 | 1 1 1 | 2 2: ranks 1.5, 4, 6.5. Negative: one 1, so W− = 4; normal approximation."""
    gaps = np.array([0, 0, 1, 1, -1, 2, 2], float)
    ranks = np.array([4, 4, 4, 6.5, 6.5])
    mean, spread = ranks.sum() / 2, np.sqrt((ranks**2).sum()) / 2
    expected = 2 * stats.norm.cdf((4 - mean) / spread)
    found = stats.wilcoxon(gaps, zero_method="pratt", method="approx").pvalue
    assert found == pytest.approx(expected, rel=1e-6)
    assert pratt(np.zeros(5)) == 1.0 and pratt(np.zeros(0)) is None


def test_intervals_are_bca():
    gaps = np.subtract(A, B).astype(float)
    expected = stats.bootstrap(
        (gaps,), np.mean, n_resamples=RESAMPLES, confidence_level=LEVEL, method="BCa",
        random_state=numpy_generator("rating", "difference", "a", "b", "consistency"),
    ).confidence_interval  # fmt: skip
    found = difference(made(), "a", "b", "consistency")
    assert (found.low, found.high) == (expected.low, expected.high)
    assert found.low < found.mean < found.high
    skewed = np.array([0.0, 0.1, 0.2, 0.2, 0.3, 0.5, 0.9, 2.0, 4.0])
    how = {"n_resamples": RESAMPLES, "confidence_level": LEVEL, "random_state": numpy_generator("rating", "skewed")}
    expected = stats.bootstrap((skewed,), np.mean, method="BCa", **how).confidence_interval
    assert bca(skewed, "skewed") == (expected.low, expected.high)
    assert sum(bca(skewed, "skewed")) > 2 * skewed.mean() + 0.3, "it reaches further to where the tail is"
    assert bca(np.array([3.0]), "x") == (None, None) == bca(np.full(9, 2.0), "x")


def test_pairs_need_the_same_raters():
    """ada rated a's item and bob b's: nothing to pair. Where both rated both, the mean of the raters' differences counts once."""
    a = Result(item=1, coder="a", coder_hash="", latent=0, pair=0, ratings={"consistency": {"ada": 5, "bob": 4}})
    b = Result(item=2, coder="b", coder_hash="", latent=0, pair=0, ratings={"consistency": {"bob": 1, "ada": 4}})
    apart = Result(item=3, coder="a", coder_hash="", latent=1, pair=1, ratings={"consistency": {"ada": 5}})
    other = Result(item=4, coder="b", coder_hash="", latent=1, pair=1, ratings={"consistency": {"bob": 1}})
    found = difference([a, b, apart, other], "a", "b", "consistency")
    assert (found.n, found.mean) == (1, 2.0) and found.low is None


def test_a_coders_mean_is_over_items():
    items = [
        Result(item=i, coder="a", coder_hash="", latent=i, pair=i, ratings={"complexity": said})
        for i, said in enumerate([{"ada": 1, "bob": 3, "eve": 2}, {"ada": 5}, {}])
    ]
    items[2] = Result(item=2, coder="a", coder_hash="", latent=2, pair=2, ratings={})
    found = mean_of(items, "a", "complexity")
    assert (found.n, found.mean, found.counts) == (2, 3.5, (1, 1, 1, 0, 1))
    nothing = mean_of(items, "a", "consistency")
    assert (nothing.n, nothing.mean, nothing.low) == (0, None, None)
    assert difference(items, "a", "b", "complexity").mean is None


def test_the_table_has_a_line_a_rating():
    lines = table(made([5, None], [3, 2])).splitlines()
    assert lines[0] == "item,coder,latent,pair,scale,rater,value"
    assert lines[1:] == ["1,a,0,0,consistency,ada,5", "3,b,0,0,consistency,ada,3", "4,b,1,1,consistency,ada,2"]
