"""evaluate says beforehand what it will take, and says nothing where nothing is left to do."""

from __future__ import annotations

import pytest

from assay.evaluate import evaluate
from assay.inputs.cost import Estimate, characters_to_tokens, tokens_per_second
from tests.evaluate.tiny import SITE, core


def test_work_is_foreseen_once_and_grows_with_coders(model, text, some, store):
    said: list[Estimate] = []
    shared = {"model": model, "site": SITE, "text": text, "store": store, "foresee": said.append}
    evaluate({"topk": some["topk"]}, [core()], **shared)
    evaluate({"topk": some["topk"]}, [core()], **shared)
    assert len(said) == 1, "nothing was left to do the second time"
    assert said[0].scoring == {"core": None}
    evaluate(some, [core()], **shared)
    assert len(said) == 2
    assert said[1].scoring["core"] > 0, "by what it took before"
    assert said[1].disk > said[0].disk > 0
    assert "longer: the work of core itself" in str(said[0]) and "longer" not in str(said[1])


def test_gathering_is_tokens_over_speed(model, text, some, store, monkeypatch):
    """A pass up to the site; the clean one, two ablated and one a coder go on from there."""
    monkeypatch.setattr("assay.evaluate.tokens_per_second", lambda model: 100.0)
    said: list[Estimate] = []
    one = core()
    evaluate(some, [one], model=model, site=SITE, text=text, store=store, foresee=said.append)
    tokens, to_site = min(one.config.tokens, int(text.mask.sum())), 2 / 3
    wanted = tokens * (to_site + (1 + 2 + len(some)) * (1 - to_site)) / 100
    assert said[0].gathering == {"passes": pytest.approx(wanted)}


def test_speed_is_that_of_whole_passes(model, monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr("assay.inputs.cost.time.perf_counter", lambda: next(clock))
    assert tokens_per_second(model) == 16 * 64 / 1


def test_estimates_read_like_sentences():
    some = Estimate({"passes": 720.0, "labelled": 30.0}, {"core": 0.2, "scr": None}, 1_500_000_000)
    said = "About 13 min (passes 12 min, labelled 30 s), and longer: the work of scr itself, which has not run here before, is not in it; "
    assert str(some) == said + "1.5 GB of disk."
    assert str(Estimate({}, {"core": 7200.0}, 0)) == "About 2.0 h (core 2.0 h); 0.0 GB of disk."


def test_text_is_cut_to_the_context():
    assert characters_to_tokens([40, 4000], 128) == 11 + 128
