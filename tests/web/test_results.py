"""The results explorer: its columns are the records' own numbers, settings never merge, published results stand apart."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import pytest
from fastapi.testclient import TestClient

from assay import compare, results
from assay.figures.explorer import Explorer
from assay.formats.saebench import reading
from assay.results import Score
from assay.web import shelf as shelf_module
from assay.web.app import create
from assay.web.shelf import Shelf
from tests.figures.suite import core, make, suite
from tests.figures.test_training import course, put
from tests.formats import published
from tests.web.serving import running

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
LR = "core/loss_recovered[ablation=mean]"


def client(store) -> TestClient:
    return TestClient(create(Shelf(store)), base_url="http://127.0.0.1")


def fill(store, records) -> None:
    for record in records:
        results.write(store, record)


def table(answer: dict, key: str) -> dict[tuple[str, str], tuple]:
    """(coder's name, setting) → value, low, high, n of a quantity."""
    for e in answer["evals"]:
        for q in e["quantities"]:
            if q["key"] == key:
                return rows(answer, e, q)
    raise AssertionError(f"no quantity {key}")


def rows(answer, e, q) -> dict[tuple[str, str], tuple]:
    found = {}
    for i, (coder, setting) in enumerate(zip(e["coders"], e["settings"], strict=True)):
        place = answer["coders"][coder]["name"], answer["settings"][setting]["hex"]
        found[place] = tuple(q[name][i] if q[name] else None for name in ("value", "low", "high", "n"))
    return found


def test_columns_are_the_records(store):
    records = suite()
    fill(store, records)
    answer = client(store).get("/results.json").json()
    assert len(answer["coders"]) == len({r.coder for r in records})
    for name in ("core", "sparse_probing"):
        wanted = {
            (r.coder, r.setting, f"{r.eval}/{s.spec}"): (s.value, s.low, s.high, s.n)
            for r in records
            for s in r.scores
            if r.eval == name and s.value is not None and "dataset" not in s.where
        }
        found = {
            (*place, q["key"] if q["key"] != "l0" else "core/l0"): cells
            for e in answer["evals"]
            if e["name"] == name
            for q in e["quantities"]
            for place, cells in rows(answer, e, q).items()
            if cells[0] is not None
        }
        assert found.keys() == wanted.keys()
        for place, cells in wanted.items():
            assert found[place] == pytest.approx(cells, rel=1e-6), place


def test_what_coders_are(store):
    fill(store, suite())
    answer = client(store).get("/results.json").json()
    coders = {c["name"]: c for c in answer["coders"]}
    assert {c["colour"] for c in coders.values() if c["baseline"]} == {None}
    assert (coders["topk-256-10"]["colour"], coders["relu-256-10"]["colour"]) == (0, 3), "as in every other figure"
    assert coders["topk-256-10"]["sweep"] == coders["topk-256-40"]["sweep"] != coders["topk-512-40"]["sweep"]
    assert coders["permuted-8"]["sweep"] is None, "of several architectures: no sweep"
    assert coders["pca-8"]["l0"]["value"] == 8 and coders["pca-8"]["layer"] == 1
    assert answer["home"] == ["tiny", "resid_post.1"]
    assert [(p["x"], p["y"]) for p in answer["presets"]] == [
        ("l0", LR), ("l0", "core/fvu"), ("l0", "sparse_probing/accuracy[k=1,on=latents]"),
    ]  # fmt: skip
    quantity = next(q for e in answer["evals"] for q in e["quantities"] if q["key"].endswith("accuracy[k=1,on=latents]"))
    assert [level["value"] for level in quantity["levels"].values()] == [0.6]


def test_settings_stay_apart_and_the_newest_version_is_chosen(store):
    old = [core(f"a{i}", 10 * i, 0.1, i, d_sae=64) for i in (1, 2, 3)]
    again = [replace(r, eval_version=2, key=f"{i:016x}") for i, r in enumerate(old[:2])]
    other = [replace(r, inputs=r.inputs | {"text": "other"}, key=f"{i + 9:016x}") for i, r in enumerate(old[:1])]
    fill(store, [*old, *again, *other])
    answer = client(store).get("/results.json").json()
    assert sorted((s["version"], s["coders"], s["chosen"]) for s in answer["settings"]) == [
        (1, 1, False), (1, 3, False), (2, 2, True),
    ]  # fmt: skip
    assert len(table(answer, LR)) == 6, "each record is there once"


def test_weights_that_were_replaced_are_left_out(store):
    old = core("a", 10, 0.1, 1, d_sae=64)
    later = replace(old.made, at="2999-01-01T00:00:00+00:00")
    fill(store, [old, replace(core("a", 20, 0.2, 2, d_sae=64), coder_hash="b", key="0" * 16, made=later)])
    answer = client(store).get("/results.json").json()
    assert [(c["hash"], c["l0"]["value"]) for c in answer["coders"]] == [("b", 20)]


def test_published_results_stand_beside_and_are_marked(store, tmp_path):
    own = suite()[:4]
    record = reading.read(published.write(tmp_path / "files", x=published.core()) / "x_eval_results.json")
    fill(store, [*own, record])
    answer = client(store).get("/results.json").json()
    coder = next(c for c in answer["coders"] if c["origin"])
    assert (coder["origin"], coder["release"], coder["stored"]) == (
        "SAEBench",
        "sae_bench_pythia70m_sweep_topk_ctx128_0730",
        False,
    )
    mine = [s for s in answer["settings"] if s["origin"] == "SAEBench"]
    assert [s["coders"] for s in mine] == [1] and all(s["chosen"] for s in answer["settings"])
    labels = [p["y"] for p in answer["presets"]]
    assert labels[:2] == [LR, "core/fvu"] and "core/loss_recovered[ablation=zero_everywhere]" in labels
    assert answer["home"] == ["tiny", "resid_post.1"], "one's own, however many others there are"


def test_finer_scores_are_columns_of_their_own(store):
    records = suite()
    fill(store, records)
    ask = client(store)
    answer = ask.get("/results.json").json()
    probing = next(e for e in answer["evals"] if e["name"] == "sparse_probing")
    key = "sparse_probing/accuracy[dataset=set3,k=5,on=latents]"
    assert key in probing["finer"]
    column = ask.get("/results/column.json", params={"key": key}).json()
    wanted = {(r.coder, r.setting): r.value(key.partition("/")[2]) for r in records if r.eval == "sparse_probing"}
    assert {place: cells[0] for place, cells in rows(answer, probing, column).items()} == pytest.approx(wanted)
    missing = ask.get("/results/column.json", params={"key": "sparse_probing/accurac"})
    assert missing.status_code == 404 and "sparse_probing/accuracy" in missing.json()["message"]


def test_sweeps_at_a_matched_l0(store):
    records = suite()
    fill(store, records)
    ask = client(store)
    answer = ask.get("/results.json").json()
    found = ask.get("/results/at_l0.json", params={"key": LR, "at": 25, "settings": records[0].setting}).json()
    by_sweep = {c["sweep"]: c for c in answer["coders"] if c["sweep"]}
    told = {(by_sweep[f["sweep"]]["architecture"], by_sweep[f["sweep"]]["d_sae"]): f for f in found}
    l0 = results.sparsities(records)
    for (setting, architecture, width), group in compare.sweeps(r for r in records if r.eval == "core").items():
        wanted = compare.at_l0(group, l0, 25, LR.partition("/")[2])
        assert wanted is not None and setting == records[0].setting
        got = told.pop((architecture, width))
        assert got["coders"] == len(group)
        assert [got["value"][k] for k in ("value", "low", "high")] == pytest.approx([wanted.value, wanted.low, wanted.high])
    assert not told
    assert ask.get("/results/at_l0.json", params={"key": LR, "at": 4000, "settings": records[0].setting}).json() == []
    assert ask.get("/results/at_l0.json", params={"key": LR, "at": 25, "settings": "other"}).json() == []
    for bad in ({"at": 0}, {"at": "nan"}, {"key": "core/nothing", "at": 5}):
        assert ask.get("/results/at_l0.json", params={"key": LR, "settings": "x"} | bad).status_code in (404, 422)


def test_of_a_long_sweep_the_neighbours_are_enough():
    records = [core(f"s{i}", l0, 1 / (i + 1), i, d_sae=64) for i, l0 in enumerate((5, 8, 13, 13.1, 21, 34, 55, 89))]
    explorer, l0 = Explorer(records), results.sparsities(records)
    for at in (5, 6, 10, 13.05, 20, 21, 30, 80, 90):
        [found] = explorer.at_l0(LR, at, (records[0].setting,))
        assert found.value == compare.at_l0(records, l0, at, LR.partition("/")[2]), at
        assert found.coders == len(records)


def test_records_are_read_once_and_again_where_they_changed(store, monkeypatch):
    records = suite()
    fill(store, records[:-1])
    read = []
    monkeypatch.setattr(shelf_module.results, "find", lambda s, e, k, own=results.find: read.append(k) or own(s, e, k))
    ask = client(store)
    before = ask.get("/results.json").json()
    ask.get("/results.json")
    assert len(read) == len(records) - 1
    results.write(store, records[-1])
    after = ask.get("/results.json").json()
    assert read[len(records) - 1 :] == [records[-1].key]
    assert len(after["evals"][0]["coders"]) == len(before["evals"][0]["coders"]) + 1


def test_nothing_is_shown_of_an_empty_store(store):
    ask = client(store)
    assert ask.get("/results.json").json()["evals"] == []
    assert ask.get("/training.json").json()["coders"] == []
    assert ask.get("/training/curves.json", params={"coders": "x"}).status_code == 404


def test_missing_values_and_unknown_evals(store):
    broken = [Score(metric="fvu", value=None, reason="why"), Score(metric="kl", value=1.0)]
    fill(store, [make("core", "a", broken, d_sae=64), make("nowhere", "a", [Score(metric="m", value=2.0)], d_sae=64)])
    answer = client(store).get("/results.json").json()
    assert [q["key"] for e in answer["evals"] for q in e["quantities"]] == ["core/kl", "nowhere/m"]
    assert answer["evals"][0]["quantities"][0]["low"] == []


def test_training_curves_are_the_rows(store):
    put(store, "a", course())
    put(store, "b", course(5), architecture="relu")
    put(store, "c", course(5), vectors="w")
    ask = client(store)
    lines = ask.get("/training.json").json()["coders"]
    assert [(c["name"], c["architecture"], c["tokens"]) for c in lines] == [
        ("a", "topk", 900), ("b", "relu", 900), ("c", "topk", 900),
    ]  # fmt: skip
    assert lines[0]["vectors"] == lines[1]["vectors"] != lines[2]["vectors"]
    found = ask.get("/training/curves.json", params={"coders": "b,a", "columns": "fvu"}).json()
    assert found["shown"] == ["fvu"] and {"l0", "dead"} <= {axis["key"] for axis in found["columns"]}
    for curve, n in zip(found["curves"], (5, 12), strict=True):
        assert curve["tokens"] == [row["tokens"] for row in course(n)]
        assert curve["values"] == {"fvu": [row["fvu"] for row in course(n)]}
    assert ask.get("/training/curves.json", params={"coders": "a"}).json()["shown"] == ["held_out_fvu", "l0", "dead"]
    refused = ask.get("/training/curves.json", params={"coders": "a,c"})
    assert refused.status_code == 400 and "several sets of vectors" in refused.json()["message"]


@pytest.mark.slow
def test_a_reader_explores(store, page, tmp_path, picture):
    record = reading.read(published.write(tmp_path / "files", x=published.core()) / "x_eval_results.json")
    put(store, "topk-256-10", course())
    fill(store, [*suite(), record])
    with running(create(Shelf(store))) as address:
        page.goto(f"{address}/results")
        assert page.get_by_test_id("count").inner_text().startswith("31 of 31 coders")
        page.get_by_role("button", name="sparse probing").click()
        page.get_by_text("activations themselves").wait_for()
        page.get_by_test_id("filter-width").get_by_role("button", name="Only 256").click()
        page.get_by_text("9 of 29 coders").wait_for()
        page.get_by_test_id("at").fill("25")
        page.get_by_test_id("at").press("Enter")
        page.get_by_test_id("at-l0").get_by_text("topk 256").first.wait_for()
        assert "y=sparse_probing" in page.url and "width=256" in page.url and "at=25" in page.url
        picture(page, "results")
        page.reload()
        page.get_by_text("9 of 29 coders").wait_for()
        with page.expect_download() as taken:
            page.get_by_test_id("save-csv").click()
        saved = list(csv.DictReader(taken.value.path().open()))
        assert len(saved) == 9 and {row["d_sae"] for row in saved} == {"256"}
        for kind, head in (("svg", b"<svg"), ("png", b"\x89PNG")):
            with page.expect_download() as taken:
                page.get_by_test_id(f"save-{kind}").click()
            assert taken.value.path().read_bytes().startswith(head)
        page.get_by_test_id("results-plot").focus()
        page.keyboard.press("ArrowRight")
        assert "setting" in page.get_by_test_id("tip").inner_text()
        page.goto(f"{address}/results?model=*&y={LR.replace('mean', 'zero_everywhere')}")
        page.get_by_text("by SAEBench").wait_for()
        page.get_by_role("link", name="Training curves").click()
        page.get_by_test_id("curve-held_out_fvu").wait_for()
        page.go_back()
        page.get_by_text("1 of 1 coders").wait_for()
        page.goto(f"{address}/")
        page.get_by_role("link", name="loss recovered (ablation mean) over L0").click()
        page.get_by_role("link", name="topk-256-10").click()
        page.wait_for_url(f"{address}/coders/topk-256-10")
        page.goto("about:blank")  # what that page still asks for is not awaited


def test_the_answer_is_json_that_anyone_reads(store):
    fill(store, suite()[:2])
    text = client(store).get("/results.json").text
    assert "NaN" not in text and "Infinity" not in text and json.loads(text)
