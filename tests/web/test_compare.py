"""Two coders side by side over the API: counts that add up, both directions, filters and order, scores; and work in the background."""

from __future__ import annotations

import json
import shutil
import threading
import time

import numpy as np
import pytest
from fastapi.testclient import TestClient

from assay import compare, corpora, matching, models, provenance, results
from assay.activations.gather import GatherConfig, gather
from assay.corpora.pack import PackConfig, tokenise
from assay.errors import BadInput
from assay.results import Record, Score
from assay.store import Store
from assay.web.app import create
from assay.web.background import Background
from assay.web.shelf import Shelf
from tests.features.made import entry
from tests.web.serving import running

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
LEFT, RIGHT = "left", "right"
WIDTHS = {LEFT: 240, RIGHT: 150}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two harvested coders of one site, vectors of that site, and scores."""
    found = Store(tmp_path_factory.mktemp("compared") / "store")
    for seed, (name, width) in enumerate(WIDTHS.items()):
        entry(found, name, d_sae=width, k=2, seed=seed, tokens=1500)
        for metric, values in {"probe": [0.5 + 0.1 * seed + 0.01 * i for i in range(8)]}.items():
            units = {metric: [v + 0.001 * seed * i for i, v in enumerate(values)]}
            score = Score(metric=metric, value=float(np.mean(units[metric])), low=0.1, high=0.9, n=8)
            results.write(found, record(name, [score, Score(metric="none", value=None, reason="why not")], units))
    model = models.load("tiny")
    text = tokenise(corpora.load("austen"), model.tokenizer, PackConfig(context=64, max_tokens=1500), found)
    gather(model, text, ["resid_post.2"], GatherConfig(), found)
    return found


def record(coder, scores, units):
    return Record(
        schema=1, key=f"{coder}0", coder=coder, coder_hash=coder, eval="sparse_probing", eval_version=1, config={}, inputs={}, about={},
        scores=scores, details={"units": units}, made=provenance.made(),
    )  # fmt: skip


@pytest.fixture(scope="module")
def client(store):
    return TestClient(create(Shelf(store)), base_url="http://127.0.0.1")


def asked(client, path, **parameters):
    answer = client.get(path, params={"a": LEFT, "b": RIGHT} | parameters)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_counts_add_up_from_both_sides(client):
    found = asked(client, "/compare.json", wait=60, at=0.2)["found"]
    turned = asked(client, "/compare.json", a=RIGHT, b=LEFT, wait=60, at=0.2)["found"]
    assert found["a"] == turned["b"] and found["b"] == turned["a"]
    assert (found["splits"], found["merges"]) == (turned["merges"], turned["splits"])
    for name, half in ((LEFT, found["a"]), (RIGHT, found["b"])):
        assert half["coder"]["name"] == name and half["compared"] + half["dead"] == WIDTHS[name] and half["dead"] > 0
        assert half["shared"] + half["unique"] == half["compared"] == sum(half["counts"])
        assert half["single"] <= half["shared"] <= half["single"] + half["split"] + half["merged"]
        assert sum(half["random"]) == pytest.approx(1, abs=1e-4) == sum(half["permuted"])
        assert half["mmcs"] == pytest.approx(half["mmcs_random"], abs=0.05), "random weights are at chance"
    assert found["width"] == 128 and found["vectors"] > 1000 and found["reason"] is None
    assert sum(g["n"] for g in found["splits"]) <= found["b"]["shared"]
    assert found["n_splits"] == found["a"]["split"] > 0


def test_it_is_what_matching_finds(client, store):
    shelf = Shelf(store)
    alive = [shelf.features(name).columns["count"] > 0 for name in (LEFT, RIGHT)]
    expected = matching.match(*(matching.decoder(shelf.coder(name)) for name in (LEFT, RIGHT)), (alive[0], alive[1]))
    rows = asked(client, "/compare/latents.json", sort="latent", descending=False, limit=500)
    assert rows["total"] == alive[0].sum() == len(rows["latents"])
    for row in rows["latents"]:
        i = row["latent"]
        assert row["nearest"] == expected.a.nearest[i] and row["cosine"] == pytest.approx(expected.a.cosine[i], abs=1e-5)
        assert (row["partner"] if row["partner"] is not None else -1) == expected.a.partner[i]
        assert row["token"] == shelf.pieces(LEFT).one(int(shelf.features(LEFT).columns["top_token"][i]))
        assert row["density"] == pytest.approx(shelf.features(LEFT).columns["density"][i], rel=1e-5)
        assert row["together"] is None or alive[1][row["together"]]
        assert row["correlation"] is None or row["correlation"] <= row["together_correlation"] + 1e-6


def test_a_coder_is_itself(client):
    found = asked(client, "/compare.json", b=LEFT, wait=60)["found"]
    assert found["a"]["mmcs"] == pytest.approx(1, abs=1e-5) and found["a"]["correlation"] == pytest.approx(1, abs=1e-5)
    assert found["a"]["single"] == found["a"]["mutual"] == found["a"]["compared"] and found["a"]["unique"] == 0
    assert all(
        row["nearest"] == row["partner"] == row["latent"] for row in asked(client, "/compare/latents.json", b=LEFT)["latents"]
    )


def test_filters_and_order(client):
    found = asked(client, "/compare.json", wait=60, at=0.2)["found"]["a"]
    for kind in ("unique", "split", "merged", "single", "mutual"):
        page = asked(client, "/compare/latents.json", kind=kind, at=0.2, limit=500)
        assert page["total"] == found[kind] == len(page["latents"]) and all(kind in row["kinds"] for row in page["latents"])
    for sort in ("latent", "cosine", "paired", "correlation", "together", "density"):
        name = {"together": "together_correlation"}.get(sort, sort)
        values = [row[name] for row in asked(client, "/compare/latents.json", sort=sort, limit=500)["latents"]]
        known = [v for v in values if v is not None]
        assert known == sorted(known, reverse=True) and values[: len(known)] == known, "those without a value come last"
        up = [row[name] for row in asked(client, "/compare/latents.json", sort=sort, descending=False, limit=500)["latents"]]
        assert [v for v in up if v is not None] == known[::-1]
    some = asked(client, "/compare/latents.json", low=0.2, high=0.3, limit=500)["latents"]
    assert some and all(0.2 <= row["cosine"] <= 0.3 for row in some)
    other = asked(client, "/compare/latents.json", kind="otherwise", limit=500)["latents"]
    assert other and all(row["together"] != row["nearest"] for row in other)
    paged = [
        row for start in range(0, 240, 29) for row in asked(client, "/compare/latents.json", offset=start, limit=29)["latents"]
    ]
    assert paged == asked(client, "/compare/latents.json", limit=500)["latents"]


def test_scores_side_by_side(client, store):
    (found,) = asked(client, "/compare/scores.json", wait=60)["evals"]
    probe, none = found["rows"]
    mine, theirs = (r for r in results.load(store) if r.eval == "sparse_probing")
    expected = compare.against(mine, theirs, "probe")
    assert (
        expected is not None
        and probe["difference"] == pytest.approx(expected.value)
        and probe["p"] == pytest.approx(expected.p)
    )
    assert probe["difference"] == pytest.approx(probe["a"] - probe["b"], abs=1e-4) and probe["n"] == 8
    assert none["a"] is None and none["difference"] is None


def test_without_a_harvest_or_vectors(store, tmp_path):
    """Directions are compared all the same; what is missing is said."""
    bare = Store(tmp_path / "bare")
    for name in (LEFT, RIGHT):
        (bare.root / "coders").mkdir(exist_ok=True)
        (bare.root / "coders" / name).symlink_to(store.path("coders", name).absolute())
    client = TestClient(create(Shelf(bare)), base_url="http://127.0.0.1")
    found = asked(client, "/compare.json", wait=60)["found"]
    assert found["a"]["compared"] == WIDTHS[LEFT] and found["a"]["dead"] == 0 and not found["a"]["harvested"]
    assert found["vectors"] == 0 and "assay gather" in found["reason"]
    row = asked(client, "/compare/latents.json", sort="density")["latents"][0]
    assert row["token"] is None and row["density"] is None and row["correlation"] is None


def test_a_harvest_of_other_weights_is_none_of_these(tmp_path):
    changed = Store(tmp_path / "changed")
    entry(changed, LEFT, d_sae=60, k=2, tokens=600)
    features = changed.path("features", changed.names("features")[0]).rename(tmp_path / "old")
    shutil.rmtree(changed.path("coders", LEFT))
    entry(changed, LEFT, d_sae=60, k=2, tokens=600, seed=1)
    shutil.rmtree(changed.path("features", changed.names("features")[0]))
    there = features.rename(changed.path("features", f"{LEFT}.{changed.names('tokens')[0]}")) / "manifest.json"
    client = TestClient(create(Shelf(changed)), base_url="http://127.0.0.1")
    answer = client.get(f"/coders/{LEFT}/latents.json")
    assert answer.status_code == 404 and "harvested with other weights than it has now" in answer.json()["message"]
    assert not asked(client, "/compare.json", wait=60, b=LEFT)["found"]["a"]["harvested"]
    said = json.loads(there.read_text())
    assert said["about"].pop("weights")  # of an older harvest: nothing is known until the two are compared
    there.write_text(json.dumps(said))
    answer = client.get("/compare.json", params={"a": LEFT, "b": LEFT, "wait": 60})
    assert answer.status_code == 400 and "assay harvest left" in answer.json()["message"]


def test_refusals(client):
    assert client.get("/compare.json", params={"a": LEFT}).status_code == 422
    answer = client.get("/compare.json", params={"a": LEFT, "b": "rigth"})
    assert answer.status_code == 404 and "right" in answer.json()["message"]
    for wrong in ({"at": 2}, {"wait": 1e9}, {"at": "nan"}):
        assert client.get("/compare.json", params={"a": LEFT, "b": RIGHT} | wrong).status_code == 422
    for wrong in ({"sort": "beauty"}, {"kind": "odd"}, {"offset": -1}, {"limit": 10**9}):
        assert client.get("/compare/latents.json", params={"a": LEFT, "b": RIGHT} | wrong).status_code == 422


# ---- work in the background ------------------------------------------------------------------------------------------------------------


def test_work_is_done_once_and_told_of():
    work, gate, begun = Background(), threading.Event(), []

    def slow(progress):
        begun.append(1)
        progress(1, 4, "steps")
        gate.wait(10)
        return "done"

    job = work.ask("x", slow, wait=0.2)
    assert (job.result, job.done, job.total, job.unit) == (None, 1, 4, "steps")
    threads = [threading.Thread(target=work.ask, args=("x", slow, 10)) for _ in range(3)]
    for thread in threads:
        thread.start()
    gate.set()
    for thread in threads:
        thread.join()
    assert work.ask("x", slow, wait=10).result == "done" and begun == [1]


def test_work_that_nobody_asks_for_stops():
    work, ended = Background(patience=0.05), threading.Event()

    def endless(progress):
        try:
            while True:
                progress(0, None, "")
                time.sleep(0.01)
        finally:
            ended.set()

    work.ask("x", endless)
    assert ended.wait(5)
    assert work.ask("x", lambda progress: 7, wait=5).result == 7, "and may begin again"


def test_errors_reach_who_asks_and_results_are_not_kept_for_ever():
    work, made = Background(kept=2), []

    def refused(progress):
        raise BadInput("no")

    with pytest.raises(BadInput):
        work.ask("x", refused, wait=5)
    for key in (1, 2, 3, 1):
        work.ask(key, lambda progress: made.append(1), wait=5)
    assert len(made) == 4, "the first was dropped"


@pytest.mark.slow
def test_the_page(store, page, picture):
    with running(create(Shelf(store))) as address:
        page.goto(f"{address}/compare?a={LEFT}&b={RIGHT}&at=0.2")
        page.get_by_test_id("halves").get_by_text("left", exact=True).first.wait_for()
        page.get_by_test_id("pairs").get_by_role("link").first.wait_for()
        page.get_by_test_id("kind").select_option("unique")
        page.wait_for_url("**kind=unique**")
        page.get_by_text("look").first.click()
        page.get_by_test_id("side-by-side").get_by_test_id("tokens").first.wait_for()
        picture(page, "compare")
        page.get_by_role("button", name="Swap").click()
        page.wait_for_url("**a=right**")
        page.get_by_test_id("halves").get_by_role("columnheader").first.get_by_text(RIGHT).wait_for()
        page.get_by_test_id("scores").get_by_text("probe", exact=True).wait_for()
        page.get_by_test_id("total").get_by_text("latents").wait_for()
        page.goto("about:blank")  # or it would ask on when the server is gone
