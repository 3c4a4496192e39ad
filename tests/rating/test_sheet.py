"""Sheets: drawn by the seed alone, paired by density, upper intervals only, shares of the maximum; and the book that keeps them."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from assay import features
from assay.errors import BadInput, UnknownName
from assay.rating import Ratings, SheetConfig, make
from assay.store import Store
from tests.features.made import entry

CONFIG = SheetConfig(title="Pilot", latents=6, seed=3, least=5)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """A store with two harvested coders of one text."""
    found = Store(tmp_path_factory.mktemp("rated") / "store")
    for seed, name in enumerate(("zebrafish", "armadillo")):
        entry(found, name, d_sae=60, k=4, seed=seed, tokens=1500)
    return found


@pytest.fixture(scope="module")
def harvests(shelf):
    return {name: features.open(shelf, name) for name in ("zebrafish", "armadillo")}


@pytest.fixture
def book(store):
    return Ratings(store)


def rate_all(book, id, n, rater, value=3):
    for item in range(1, n + 1):
        for scale in ("consistency", "complexity"):
            book.rate(id, item, rater, scale, value)


def test_the_seed_draws_and_nothing_else_does(harvests):
    first, again = make(harvests, CONFIG), make(dict(reversed(harvests.items())), CONFIG)
    assert first == again
    other = make(harvests, replace(CONFIG, seed=4))
    assert [(i.coder, i.latent) for i in other.items] != [(i.coder, i.latent) for i in first.items]
    assert [i.number for i in first.items] == list(range(1, 13))
    assert Counter(i.coder for i in first.items) == {"zebrafish": 6, "armadillo": 6}
    runs = sum(a.coder != b.coder for a, b in zip(first.items, first.items[1:]))
    assert runs > 1, "the coders are mixed"


def test_a_coders_latents_do_not_depend_on_the_others(harvests):
    both, alone = make(harvests, CONFIG), make({"zebrafish": harvests["zebrafish"]}, CONFIG)
    assert {i.latent for i in alone.items} == {i.latent for i in both.items if i.coder == "zebrafish"}


def test_pairs_are_of_equal_rank_by_density(harvests):
    for name, f in harvests.items():
        mine = sorted((i for i in make(harvests, CONFIG).items if i.coder == name), key=lambda i: i.pair)
        assert [i.pair for i in mine] == list(range(6)) and len({i.latent for i in mine}) == 6
        counts = [f.columns["count"][i.latent] for i in mine]
        assert counts == sorted(counts, reverse=True) and min(counts) >= CONFIG.least


def test_what_is_shown_is_what_the_harvest_has(harvests):
    for item in make(harvests, CONFIG).items:
        f, (top, *intervals) = harvests[item.coder], item.shown
        assert top["interval"] is None and [g["interval"] for g in intervals] == sorted(
            (g["interval"] for g in intervals), reverse=True
        )
        assert all(3 <= g["interval"] <= 9 and 1 <= len(g["examples"]) <= CONFIG.each for g in intervals)
        assert max(v for e in top["examples"] for v in e["values"]) == 1.0, "the strongest token of all is the maximum"
        places = [(tuple(e["ids"]), e["peak"]) for g in item.shown for e in g["examples"]]
        assert len(set(places)) == len(places), "nothing is shown twice"
        example = f.examples(item.latent, "top")[0]
        shown = top["examples"][0]
        assert shown["ids"] == f.window(example.start, example.stop).ids.tolist()
        expected = np.zeros(len(shown["ids"]))
        expected[example.at] = example.values / f.columns["max"][item.latent]
        np.testing.assert_allclose(shown["values"], expected, atol=0.006)
        assert shown["values"][shown["peak"]] == max(shown["values"])


def test_nothing_shown_says_whose_it_is(harvests):
    for item in make(harvests, CONFIG).items:
        told = json.dumps(item.shown)
        assert "zebrafish" not in told and "armadillo" not in told and "latent" not in told and "density" not in told
        assert set().union(*(e for g in item.shown for e in g["examples"])) == {"ids", "values", "special", "peak"}


def test_what_cannot_be_rated_blindly_is_refused(harvests, shelf):
    with pytest.raises(BadInput, match="names zebrafish"):
        make(harvests, replace(CONFIG, title="Is Zebrafish better?"))
    with pytest.raises(BadInput, match=r"active on 5 tokens or more; 70 were asked"):
        make(harvests, replace(CONFIG, latents=70))
    for wrong in ({"latents": 0}, {"top": 0}, {"intervals": 11}, {"latents": 300}):
        with pytest.raises(BadInput):
            make(harvests, replace(CONFIG, **wrong))
    with pytest.raises(BadInput, match="at least one coder"):
        make({}, CONFIG)
    other = entry(shelf, "elsewhere", d_sae=60, k=4, tokens=1000)
    with pytest.raises(BadInput, match="different texts"):
        make(harvests | {"elsewhere": other}, CONFIG)


# ---- the book --------------------------------------------------------------------------------------------------------------------------


def test_raters_and_their_progress(book, harvests):
    id, _ = book.add(make(harvests, CONFIG))
    line = book.sheet(id)
    assert (line.title, line.items, line.raters, line.unblinded, line.complete) == ("Pilot", 12, {}, None, False)
    book.rate(id, 1, "ada", "consistency", 4)
    assert book.sheet(id).raters == {"ada": 0}, "one scale of two"
    book.rate(id, 1, " ada ", "complexity", 2)
    book.rate(id, 1, "ada", "complexity", 5)
    assert book.sheet(id).raters == {"ada": 1} and book.said(id, "ada") == {1: {"consistency": 4, "complexity": 5}}
    rate_all(book, id, 12, "bob")
    assert book.sheet(id).raters == {"ada": 1, "bob": 12} and not book.sheet(id).complete
    rate_all(book, id, 12, "ada")
    assert book.sheet(id).complete and [one.id for one in book.sheets()] == [id]


def test_what_is_shown_is_kept(book, harvests):
    sheet = make(harvests, CONFIG)
    id, _ = book.add(sheet)
    assert [book.shown(id, i.number) for i in sheet.items] == [i.shown for i in sheet.items]


def test_who_may_unblind(book, harvests):
    id, key = book.add(make(harvests, CONFIG))
    for ask in (book.results, book.config):
        with pytest.raises(BadInput, match="still blind"):
            ask(id)
    with pytest.raises(BadInput, match="nobody of 12"):
        book.unblind(id)
    book.rate(id, 1, "ada", "consistency", 4)
    with pytest.raises(BadInput, match="ada 0 of 12"):
        book.unblind(id)
    with pytest.raises(BadInput, match="not the key"):
        book.unblind(id, "guess")
    book.unblind(id, key)
    assert book.sheet(id).unblinded and book.config(id) == CONFIG
    with pytest.raises(BadInput, match="was unblinded"):
        book.rate(id, 2, "ada", "consistency", 4)
    second, _ = book.add(make(harvests, CONFIG))
    rate_all(book, second, 12, "ada")
    book.unblind(second)
    assert {(r.coder, r.latent) for r in book.results(second)} == {(i.coder, i.latent) for i in make(harvests, CONFIG).items}


def test_ratings_that_make_no_sense_are_refused(book, harvests):
    id, key = book.add(make(harvests, CONFIG))
    for item, rater, scale, value, error in [
        (13, "ada", "consistency", 3, UnknownName), (0, "ada", "consistency", 3, UnknownName), (1, "ada", "beauty", 3, UnknownName),
        (1, "ada", "consistency", 6, BadInput), (1, "ada", "consistency", 0, BadInput), (1, "  ", "consistency", 3, BadInput),
        (1, "a" * 41, "consistency", 3, BadInput), (1, "a\nb", "consistency", 3, BadInput),
    ]:  # fmt: skip
        with pytest.raises(error):
            book.rate(id, item, rater, scale, value)
    assert book.sheet(id).raters == {}
    with pytest.raises(UnknownName, match="No sheet"):
        book.rate("0" * 12, 1, "ada", "consistency", 3)
    with pytest.raises(BadInput, match="not the key"):
        book.remove(id, "guess")
    book.remove(id, key)
    assert book.sheets() == []
