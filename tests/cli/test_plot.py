"""assay results plot: every kind of figure into every kind of file, with the filters of the tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from assay import results
from assay.store import Store
from tests.figures.suite import suite
from tests.figures.test_training import course, put


@pytest.fixture
def filled(home):
    """A store with results and two trainings."""
    store = Store("assay-store")
    for record in suite():
        results.write(store, record)
    put(store, "a", course())
    put(store, "b", course(5), architecture="relu")


def data(path: str) -> dict:
    """What a page draws."""
    return json.loads(Path(path).read_text(encoding="utf-8").partition('id="data">')[2].partition("</script>")[0])


@pytest.mark.parametrize(
    ("words", "panels"),
    [("", 3), ("--pareto --at-l0 20 --eval core", 2), ("--kind width --metrics fvu", 1), ("--kind training", 3), ("--kind correlation", 1)],
)  # fmt: skip
def test_every_kind(run, filled, words, panels):
    for name in ("a.png", "a.html"):
        done = run(f"results plot {name} {words} --json")
        assert done.code == 0, done.err
        assert done.json == {"path": name} and Path(name).stat().st_size > 5000
    assert len(data("a.html")["panels"]) == panels


def test_filters_choose(run, filled):
    assert run("results plot a.html --architecture topk,pca --width 256,64 --l0 ..45").code == 0
    assert {p["name"] for p in data("a.html")["points"]} == {"topk-256-10", "topk-256-20", "topk-256-40", "pca-8"}
    assert run("results plot a.html --kind training --architecture relu").code == 0
    assert [line["label"] for line in data("a.html")["lines"]] == ["b"]
    assert "No coder has an L0 in the range" in run("results plot a.html --l0 900..").err


def test_names_may_hold_commas(run, filled):
    assert run("results plot", "a.html", "--metrics", "accuracy[k=5,on=latents],fvu").code == 0
    keys = [axis["key"] for axis in data("a.html")["axes"]]
    assert [keys[y] for _, y in data("a.html")["panels"]] == ["sparse_probing/accuracy[k=5,on=latents]", "core/fvu"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("a.gif", "png, svg"), ("a.png --pareto --kind width", "--pareto goes with --kind l0"),
        ("a.png --at-l0 5 --kind correlation", "--at-l0 goes with --kind l0 or width"), ("a.png --kind training --eval core", "--eval goes"),
        ("a.png --metrics fvuu", "Did you mean 'fvu'"), ("a.png --eval cor", "Did you mean 'core'"), ("a.png --kind tokens", "how many tokens"),
        ("a.png --kind training --metrics fvuu", "Did you mean 'fvu'"), ("a.png --baselines", "goes with --kind correlation"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_said(run, filled, words, says):
    done = run(f"results plot {words}")
    assert done.code == 1 and says in done.err, done.err
    assert not Path("a.png").exists() and not Path("a.gif").exists()


def test_an_empty_store_says_what_to_do(run, home):
    Store("assay-store")
    assert "assay eval" in run("results plot a.png").err
    assert "assay train" in run("results plot a.png --kind training").err
