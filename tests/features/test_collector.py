"""The collector against a recount of everything, whole, in pieces, merged, and after its state was kept and restored."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.errors import BadInput, NotFinite
from assay.features import bins, summary
from assay.features.collector import Collector, Shape
from assay.features.layout import KINDS
from assay.features.pairs import largest
from assay.features.piles import lowest
from assay.features.stretch import Codes
from tests.features.brute import Recount, pieces, random_codes, random_text

SHAPE = Shape(top=4, drawn=2, random=3, near=4, before=5, after=3)
D_SAE = 24


def cut(rows: int, sizes: list[int]) -> list[list[int]]:
    """Row numbers in consecutive groups of these sizes, over and over."""
    found, start, i = [], 0, 0
    while start < rows:
        found.append(list(range(start, min(rows, start + sizes[i % len(sizes)]))))
        start, i = found[-1][-1] + 1, i + 1
    return found


def collected(text, z, cuts, shape=SHAPE) -> Collector:
    collector = Collector(z.shape[1], shape)
    for piece in pieces(text, z, cuts):
        collector.add(*piece)
    return collector


def result(text, collector, nearest=None):
    """(columns, examples) with examples as plain tuples."""
    nearest = np.roll(np.arange(collector.d_sae), 1) if nearest is None else nearest
    columns, examples = summary.of(collector, np.asarray(text.tokens).reshape(-1), nearest)
    names = ("latent", "group", "interval", "position", "before", "after", "weight")
    plain = zip(
        *(np.ma.asarray(examples[n]).tolist() for n in names), examples["at"].to_pylist(), examples["values"].to_pylist()
    )
    return columns, list(plain)


def same(a, b) -> bool:
    """Whether two results are alike to the last bit."""
    plain = [
        {k: np.ma.asarray(v).tolist() if not isinstance(v, list) else v for k, v in columns.items()} for columns in (a[0], b[0])
    ]
    return plain[0] == plain[1] and a[1] == b[1]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_everything_equals_a_recount(seed):
    text = random_text(17, 23, seed)
    z = random_codes(text, D_SAE, seed)
    columns, examples = result(text, collected(text, z, cut(17, [3, 1, 5])))
    assert columns["dead"].tolist() == [not z[:, i].any() for i in range(D_SAE)]
    edges = bins.edges()
    first = int(np.searchsorted(edges, summary.histogram_edges(collected(text, z, [range(17)]))[0]))
    for i in range(D_SAE):
        true = Recount(text, z, i, SHAPE)
        mine = [e for e in examples if e[0] == i]
        if not true.values:
            assert columns["count"][i] == 0 and not mine and columns["max"].mask[i] and columns["interval_counts"][i] == []
            continue
        values = list(true.values.values())
        assert columns["count"][i] == len(values) and columns["max"][i] == np.float32(max(values))
        assert columns["density"][i] == len(values) / len(z)
        assert columns["mean"][i] == pytest.approx(np.mean(values), rel=1e-14)
        assert columns["dense"][i] == (len(values) > 0.1 * len(z))
        histogram = true.histogram()
        assert columns["histogram"][i].tolist() == histogram[first : first + columns["histogram"].shape[1]]
        assert (columns["top_token"][i], columns["purity"][i]) == true.peak()
        assert [e[3] for e in mine if KINDS[e[1]] == "top"] == true.top()
        check_intervals(true, np.array(columns["interval_edges"][i]), columns["interval_counts"][i], mine)
        check_windows(true, mine)
        check_partners(true, {k: columns[k][i] for k in ("correlated", "correlations", "coactive", "coactive_shares")})


def check_intervals(true, edges, counts, mine):
    assert edges[0] == 0 and edges[10] == max(true.values.values()) and (np.diff(edges) >= 0).all()
    assert np.abs(edges[1:10] - edges[10] * np.arange(1, 10) / 10).max() <= edges[10] / 16
    assert counts == [len(some) for some in true.intervals(edges)]
    for k, (places, all_) in enumerate(zip(true.drawn(edges), true.intervals(edges))):
        drawn = [e for e in mine if KINDS[e[1]] == "interval" and e[2] == k]
        assert sorted(e[3] for e in drawn) == places
        assert all(e[6] == pytest.approx(len(all_) / len(places)) for e in drawn)


def check_windows(true, mine):
    for _, group, _, position, before, after, weight, at, values in mine:
        assert (position - before, position + after + 1) == true.window(position)
        assert (at, values) == true.inside(position)
        assert (weight is None) == (KINDS[group] != "interval")
        if KINDS[group] in ("random", "near_miss"):
            assert at == []
        else:
            assert before in at
    for group, most in ((2, SHAPE.random), (3, SHAPE.near)):
        places = [e[3] for e in mine if e[1] == group]
        assert len(set(places)) == len(places) <= most
        if group == 2 and any(not true.inside(int(p))[0] for p in true.position) and len(true.values) < 20:
            assert len(places) == most  # a sparse latent is silent nearly everywhere
        neighbour = (true.latent - 1) % true.z.shape[1]
        loud = Recount(true.text, true.z, neighbour, SHAPE).values
        token = true.peak()[0]
        for p in places if group == 3 else ():
            assert true.ids[p] == token or loud.get(p, 0) >= 0.5 * max(loud.values())


def check_partners(true, columns):
    correlation, share = true.partners()
    shares = sorted(share, key=lambda j: (-share[j], j))[:10]
    assert columns["coactive"] == shares and columns["coactive_shares"] == [share[j] for j in shares]
    positive = sorted((-c, j) for j, c in correlation.items() if c > 0)[:10]
    assert columns["correlations"] == pytest.approx([-c for c, _ in positive], abs=1e-6)
    assert all(c == pytest.approx(correlation[j], abs=1e-6) for j, c in zip(columns["correlated"], columns["correlations"]))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    bound=st.sampled_from([40, 300, 10**6]),
)
def test_cuts_order_merging_and_keeping_change_nothing(seed, sizes, bound):
    text = random_text(13, 15, seed)
    z = random_codes(text, 9, seed, density=0.3)
    shape = Shape(top=3, drawn=2, random=2, near=2, before=4, after=2, sample=bound)
    whole = result(text, collected(text, z, [range(13)], shape))
    cuts = cut(13, sizes)
    assert same(whole, result(text, collected(text, z, cuts, shape)))
    backwards = collected(text, z, cuts[::-1], shape)
    assert same(whole, result(text, backwards))
    one, two = collected(text, z, cuts[::2], shape), collected(text, z, cuts[1::2], shape)
    kept = {name: value.copy() for name, value in one.state().items()}
    restored = Collector(9, shape)
    restored.restore(kept)
    one.merge(two)
    assert same(whole, result(text, one))
    for piece in pieces(text, z, cuts[1::2]):
        restored.add(*piece)
    assert same(whole, result(text, restored))


def test_a_tidied_pile_forgets_nothing_it_needs(monkeypatch):
    """Tidied after every piece, so that bars are in force, and with maxima that rise from piece to piece."""
    monkeypatch.setattr("assay.features.piles.LEAST", 0)
    text = random_text(30, 15, 5)
    z = random_codes(text, 12, 5, density=0.5)
    z[:, ::2] = np.sort(z[:, ::2], axis=0)
    shape = Shape(top=3, drawn=2, before=4, after=2)
    tidy = collected(text, z, cut(30, [1]), shape)
    assert (tidy.drawn.bar < 2**32 - 1).any()
    backwards = collected(text, z, cut(30, [1])[::-1], shape)
    monkeypatch.undo()
    whole = result(text, collected(text, z, [range(30)], shape))
    assert same(whole, result(text, tidy)) and same(whole, result(text, backwards))


def test_the_lowest_are_found_however_uneven_chance_was():
    keys = np.repeat([3, 1, 2], [500, 2, 40])
    rank = np.random.default_rng(0).integers(0, 2**32, 542).astype(np.uint32)
    rank[502:] |= np.uint32(2**31)  # key 2 has no low ones
    places = lowest(keys, rank, 5, 4)
    assert places[keys[places] == 2].tolist() == list(range(502, 542)) and (keys[places] == 1).sum() == 2
    third = places[keys[places] == 3]
    assert 4 <= len(third) < 60 and set(np.argsort(rank[:500])[:4]) <= set(third)


def test_the_sample_is_bounded_and_drawn_evenly():
    text = random_text(400, 6, 1)
    z = random_codes(text, 5, 1, density=0.5)
    collector = collected(text, z, cut(400, [7]), Shape(sample=800))
    stretch, codes = collector.sample.whole()
    assert 200 < len(codes.values) <= 800
    rows = np.unique(stretch.row)
    assert abs(rows.mean() - 199.5) < 4 * 115 / len(rows) ** 0.5
    places = np.searchsorted(np.flatnonzero(np.asarray(text.mask).reshape(-1)), stretch.position)
    assert (codes.matrix.toarray() == z[places]).all()


def test_draws_are_uniform():
    """Of one interval's tokens each is drawn as often as any other: over many latents with the same activations."""
    text = random_text(20, 11, 3)
    n = int(text.mask.sum())
    z = np.ones((n, 400), np.float32)
    _, examples = result(text, collected(text, z, [range(20)], Shape(top=1, drawn=5, random=0, near=0)))
    position = np.flatnonzero(np.asarray(text.mask).reshape(-1))
    times = np.bincount([e[3] for e in examples if KINDS[e[1]] == "interval"], minlength=220)[position]
    expected = 400 * 5 / n
    assert ((times - expected) ** 2 / expected).sum() < n + 5 * (2 * n) ** 0.5  # chi-squared with n - 1 degrees


@pytest.mark.parametrize("width", [3, 64, 150, 1000])
def test_the_largest_of_each_row(width):
    table = np.round(np.random.default_rng(width).normal(0, 2, (40, width)), 1)  # with ties, and rows of nothing positive
    table[3], table[4, 1:] = -1, 0
    ids, values = largest(table, 10)
    for row, mine, how_much in zip(table, ids, values):
        true = sorted((j for j in range(width) if row[j] > 0), key=lambda j: (-row[j], j))[:10]
        assert mine == true and how_much == [row[j] for j in true]


def test_strata_follow_the_maximum():
    values = np.exp(np.random.default_rng(0).uniform(-6, 5, 4000)).astype(np.float32)
    octave = np.uint8(bins.bins_of(values.max()[None])[0] >> 3)
    for below in range(3):  # as the maximum grows strata are joined, never cut
        fine = bins.slots_of(bins.bins_of(values), np.full(4000, octave + below))
        coarse = bins.slots_of(bins.bins_of(values), np.full(4000, octave + below + 1))
        assert all(len(set(coarse[fine == slot])) == 1 for slot in set(fine))
    edges = bins.interval_edges(values)
    strata = bins.slots_of(bins.bins_of(values), np.full(4000, octave))
    inner = bins.interval_edges(values.max()[None])[0, 1:-1]
    interval = bins.interval_of(values, inner[None])
    assert all(len(set(interval[strata == slot])) == 1 for slot in set(strata))
    assert (np.abs(edges[:, 1:-1] / values[:, None] - np.arange(1, 10) / 10) <= 1 / 16).all()


def test_bins():
    edges = bins.edges()
    assert (np.diff(edges) > 0).all() and len(edges) == bins.BINS + 1
    values = edges[:-1].astype(np.float32)
    assert bins.bins_of(values).tolist() == list(range(bins.BINS))
    assert bins.bins_of(np.nextafter(values[1:], np.float32(0))).tolist() == list(range(bins.BINS - 1))
    assert bins.bins_of(np.array([1e-30, 1e30], np.float32)).tolist() == [0, bins.BINS - 1]


def test_what_cannot_be_counted_is_refused():
    for value, error in ((np.nan, NotFinite), (np.inf, NotFinite), (-1.0, BadInput)):
        with pytest.raises(error):
            Codes.of(np.array([1.0, value], np.float32), np.array([0, 1]), np.array([0, 2]), 2)
    codes = Codes.of(np.array([1.0, 0.0, 2.0], np.float32), np.array([0, 1, 1]), np.array([0, 2, 3]), 2)
    assert codes.values.tolist() == [1, 2] and codes.offsets.tolist() == [0, 1, 2]
