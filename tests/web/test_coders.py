"""Pages of coders: the list, one coder with and without a harvest, and the table of all its latents against plain numpy."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
from fastapi.testclient import TestClient

from assay import codec, coders, provenance, results
from assay.features import Features
from assay.formats import native
from assay.results import Record, Score
from assay.store import Store
from assay.web.app import create
from assay.web.coders import densities
from assay.web.latents_table import LABELS, numbers, ranges
from assay.web.shelf import Shelf
from tests.features import made
from tests.web.serving import running

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
HOME = {"base_url": "http://127.0.0.1"}


@pytest.fixture(scope="module")
def harvested(tmp_path_factory) -> tuple[Store, Features]:
    store = Store(tmp_path_factory.mktemp("coders") / "store")
    return store, made.entry(store)


@pytest.fixture
def client(harvested) -> TestClient:
    return TestClient(create(Shelf(harvested[0])), **HOME)


def bare(
    store: Store, name: str, architecture: str = "topk", *, baseline: bool = False, rows: list[dict] | None = None
) -> None:
    """A coder without a harvest."""
    made_ = coders.new(architecture, d_in=8, d_sae=16, k=4)
    about = {"architecture": architecture, "config": asdict(made_.config), "kind": "baseline" if baseline else "trained"}
    about |= {
        "model": {"name": "tiny", "fingerprint": "f"},
        "site": "resid_post.2",
        "train": {"tokens": 1000, "lr": 0.1},
    }
    with store.draft("coders", name) as draft:
        native.write(made_, draft.path, {})
        if rows:
            (draft.path / "train.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
        draft.finish(inputs={}, about=about, made=provenance.made())


def record(store: Store, coder: str, l0: float, value: float, *, architecture: str = "topk", baseline: bool = False) -> None:
    scores = [
        Score(metric="l0", value=l0), Score(metric="fvu", value=value, low=value - 0.1, high=value + 0.1, n=9),
        Score(metric="fvu", value=None, where={"dataset": "a"}, reason="none"), Score(metric="odd", value=None, reason="too few"),
    ]  # fmt: skip
    about = {"architecture": architecture, "baseline": baseline}
    found = Record(
        schema=codec.SCHEMAS["record"], key=results.key(coder, "core", 1, {}, {}), coder=coder, coder_hash=coder, eval="core", eval_version=1,
        config={}, inputs={}, about=about, scores=scores, details={}, made=provenance.made(),
    )  # fmt: skip
    results.write(store, found)


# ---- the table -----------------------------------------------------------------------------------------------------------------


def page(client: TestClient, **words) -> dict:
    answer = client.get("/coders/mine/latents.json", params=words)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_pages_of_the_table_are_the_whole_table_in_order(client, harvested):
    max_ = harvested[1].columns["max"]
    order = sorted(range(300), key=lambda i: (np.isnan(max_[i]), -max_[i] if max_[i] == max_[i] else 0, i))
    got = [row["latent"] for offset in (0, 128, 256) for row in page(client, sort="max", offset=offset, limit=128)["latents"]]
    assert got == order
    assert page(client)["latents"][0]["latent"] == int(np.argmax(harvested[1].columns["density"]))
    assert page(client, sort="latent", descending=False, offset=299)["latents"][0]["latent"] == 299
    beyond = page(client, offset=10**20)
    assert beyond["latents"] == [] and beyond["total"] == 300


def test_ranges_keep_what_lies_between_ends_and_both_ends(client, harvested):
    columns = harvested[1].columns
    low, high = (float(v) for v in np.sort(columns["density"][columns["density"] > 0])[[20, 80]])
    expected = np.flatnonzero((columns["density"] >= low) & (columns["density"] <= high) & (columns["cosine"] >= 0))
    found = page(client, where=f"density:{low!r}:{high!r},cosine:0:", limit=1000)
    assert 20 < found["total"] == len(expected) and sorted(r["latent"] for r in found["latents"]) == expected.tolist()
    bits = np.unpackbits(
        np.frombuffer(client.get(f"/coders/mine/matching.bin?where=density:{low!r}:{high!r},cosine:0:").content, np.uint8)
    )
    assert np.flatnonzero(bits[:300]).tolist() == expected.tolist() and not bits[300:].any()


def test_latents_are_found_by_the_tokens_they_peak_on_and_promote(client, harvested):
    features, pieces = harvested[1], Shelf(harvested[0]).pieces("mine")
    tokens = features.columns["top_token"]
    told = {i: pieces.one(int(t)) for i, t in enumerate(tokens) if t == t}
    wanted = told[next(iter(told))]
    by_text = {i for i, text in told.items() if wanted.strip().casefold() in text.casefold()}
    assert {r["latent"] for r in page(client, token=wanted.strip().upper(), limit=1000)["latents"]} == by_text
    exact = {i for i, text in told.items() if text == wanted}
    assert {r["latent"] for r in page(client, token=f'"{wanted}"', limit=1000)["latents"]} == exact
    promoted = pieces.one(int(features.latent(5).top_logits[3]))
    expected = {i for i in range(300) if promoted in {pieces.one(int(t)) for t in features.latent(i).top_logits}}
    got = page(client, promotes=f'"{promoted}"', limit=1000)
    assert 5 in expected and {r["latent"] for r in got["latents"]} == expected and got["total"] == len(expected)
    assert page(client, token="no token is like this")["total"] == 0


def test_rows_hold_what_the_harvest_says(client, harvested):
    features = harvested[1]
    for row in page(client, limit=300)["latents"]:
        latent = features.latent(row["latent"])
        assert row["values"]["count"] == latent.count and row["values"]["dead"] == latent.dead
        assert row["values"]["max"] == (None if latent.max is None else pytest.approx(latent.max, rel=1e-5))
        assert (row["token"] is None) == (latent.top_token is None) == bool(latent.dead)


def test_labels_are_put_beside_the_rows(client, monkeypatch):
    monkeypatch.setattr("assay.web.latents_table.LABELS", [*LABELS, lambda shelf, coder, ids: {7: "<b>seven</b>"}])
    row = page(client, where="latent:7:7")["latents"][0]
    assert row["latent"] == 7 and row["label"] == "<b>seven</b>"


def test_points_of_the_scatter(client, harvested):
    columns = harvested[1].columns
    got = np.frombuffer(client.get("/coders/mine/scatter.bin?x=max&colour=cosine").content, "<f4").reshape(3, 300)
    for found, name in zip(got, ("max", "y", "cosine"), strict=True):
        np.testing.assert_array_equal(found, columns[name].astype(np.float32))


@pytest.mark.parametrize(
    ("query", "status", "said"),
    [
        ("sort=nope", 404, "No column named 'nope'"), ("where=density", 400, "no range"), ("where=max:a:", 400, "no range"),
        ("where=max:nan:", 400, "not a number"), ("where=nope:1:", 404, "No column"), ("limit=0", 422, "greater"),
        ("limit=100000", 422, "less"), ("offset=-1", 422, "greater"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_refused(client, query, status, said):
    answer = client.get(f"/coders/mine/latents.json?{query}")
    assert answer.status_code == status and said in answer.text


def test_ranges_of_the_address():
    assert [(w.column, w.low, w.high) for w in ranges("density:1e-4:,max::3")] == [("density", 1e-4, None), ("max", None, 3.0)]
    assert ranges("") == ()


def test_numbers_of_json():
    assert numbers(np.array([1.23456789, np.nan, np.inf])) == [1.23457, None, None]
    assert numbers(np.array([True, False])) == [1, 0]


# ---- a coder's page ------------------------------------------------------------------------------------------------------------


def test_a_harvested_coder(client, harvested):
    found, features = client.get("/coders/mine.json").json(), harvested[1]
    latents = found["latents"]
    assert latents["dead"] == int(features.columns["dead"].sum()) and latents["n_tokens"] == features.n_tokens
    assert sum(latents["density_counts"]) == int((features.columns["density"] > 0).sum())
    assert latents["dead_latents"] == np.flatnonzero(features.columns["dead"]).tolist()[:200]
    assert all(features.columns["dense"][i] for i in latents["dense_latents"])
    assert len(latents["dense_latents"]) == min(200, latents["dense"])
    assert {c["name"] for c in latents["columns"]} == set(features.columns) and all(
        c["doc"] != c["name"] for c in latents["columns"]
    )
    assert found["advice"] is None and found["summary"].startswith("TopK")
    k = next(s for s in found["settings"] if s["name"] == "k")
    assert k["value"] == 8 and k["changed"] and "Latents kept" in k["doc"]
    assert not next(s for s in found["settings"] if s["name"] == "aux_weight")["changed"]
    assert set(found["provenance"]["files"]) >= {"config.json", "weights.safetensors"}


def test_densities_lie_in_bars_from_one_token_to_all():
    edges, counts = densities(np.array([0.0, 1e-4, 0.5, 1.0]), 10_000)
    assert edges[0] == -4 and edges[-1] == 0 and sum(counts) == 3 and counts[0] == 1 and counts[-1] == 1


def test_without_a_harvest_the_page_says_how_to_make_one(store):
    bare(store, "plain")
    client = TestClient(create(Shelf(store)), **HOME)
    found = client.get("/coders/plain.json").json()
    assert found["latents"] is None and "assay harvest plain" in found["advice"] and not found["trained"]
    assert next(s for s in found["training"] if s["name"] == "lr")["doc"]
    for part in ("latents.json", "scatter.bin", "matching.bin", "training.json"):
        assert client.get(f"/coders/plain/{part}").status_code == 404
    assert client.get("/coders/plian.json").json()["message"].endswith("Did you mean 'plain'?")


def test_training_curves(store):
    rows = [
        {"step": i, "tokens": 100 * i, "loss": 1.0 / (i + 1), "fvu": float("nan") if i == 1 else 0.5, "density": [1, 2]}
        for i in range(4)
    ]
    bare(store, "grown", rows=rows)
    client = TestClient(create(Shelf(store)), **HOME)
    found = client.get("/coders/grown/training.json").json()
    assert found["tokens"] == [0, 100, 200, 300] and found["values"]["fvu"] == [0.5, None, 0.5, 0.5]
    assert [c["key"] for c in found["columns"]] == ["loss", "fvu"] and found["values"]["loss"][-1] == 0.25
    assert client.get("/coders/grown.json").json()["trained"]


def test_scores_stand_beside_the_baselines_of_nearest_l0(store):
    bare(store, "topk")
    record(store, "topk", 30, 0.2)
    for name, l0 in (("pca-k8", 8), ("pca-k32", 32), ("pca-k90", 90)):
        record(store, name, l0, 0.6, architecture="pca", baseline=True)
    for name in ("permuted-gated", "permuted-topk"):
        record(store, name, 30, 0.9, architecture="permuted_decoder", baseline=True)
    record(store, "other", 30, 0.1)
    found = TestClient(create(Shelf(store)), **HOME).get("/coders/topk.json").json()["evals"]
    assert len(found) == 1 and found[0]["finer"] == 1
    fvu = next(s for s in found[0]["scores"] if s["spec"] == "fvu")
    assert (fvu["value"], fvu["low"], fvu["high"], fvu["headline"], fvu["better"]) == (0.2, 0.1, 0.3, True, "lower") and fvu[
        "doc"
    ]
    assert [b["coder"] for b in fvu["baselines"]] == ["pca-k32", "permuted-topk"]
    odd = next(s for s in found[0]["scores"] if s["spec"] == "odd")
    assert odd["value"] is None and odd["reason"] == "too few" and odd["baselines"] == []


# ---- size and browser ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_answer_takes_less_than_200_ms_at_65536_latents(tmp_path):
    from benchmarks import web

    found = web.measure(tmp_path / "store", web.LATENTS, 200_000, rounds=5)
    slow = {name: f"{1e3 * f['best']:.0f} ms" for name, f in found.items() if f["best"] > web.LIMIT}
    assert not slow


@pytest.mark.slow
def test_coders_in_a_browser(harvested, page, picture):
    store, features = harvested
    with running(create(Shelf(store))) as address:
        page.goto(f"{address}/coders")
        page.get_by_test_id("coders").get_by_role("link", name="mine", exact=True).click()
        page.get_by_test_id("total").get_by_text("300 of 300 latents").wait_for()
        table = page.get_by_test_id("table")
        assert 10 < table.locator("[role=row]").count() <= 60
        scatter = page.get_by_test_id("scatter")
        page.wait_for_function("() => Number(document.querySelector('[data-testid=scatter]').dataset.drawn) > 250")
        picture(page, "coder")
        table.focus()
        page.keyboard.press("End")
        table.locator("[aria-rowindex='301'] a").first.wait_for()
        page.keyboard.press("Home")
        table.locator("[aria-rowindex='2'].active a").first.wait_for()
        page.keyboard.press("Enter")
        page.wait_for_function("() => location.pathname.startsWith('/coders/mine/latents/')")
        page.go_back()
        table.get_by_role("button", name="max").click()
        strongest = int(np.nanargmax(features.columns["max"]))
        table.locator("[aria-rowindex='2']").get_by_role("link", name=str(strongest), exact=True).first.wait_for()
        assert "sort=max" in page.url
        scatter.locator("canvas").scroll_into_view_if_needed()
        frame = scatter.locator("canvas").bounding_box()
        page.mouse.move(frame["x"] + 5, frame["y"] + 5)
        page.mouse.down()
        page.mouse.move(frame["x"] + frame["width"] / 2, frame["y"] + frame["height"] - 5, steps=4)
        page.mouse.up()
        page.wait_for_function("() => location.search.includes('where=x')")
        page.wait_for_function("() => !document.querySelector('[data-testid=total]').textContent.startsWith('300 ')")
        kept = page.get_by_test_id("total").inner_text().split()[0]
        assert 0 < int(kept) < 300 and page.get_by_test_id("range").count() == 2
        page.reload()
        page.get_by_test_id("total").get_by_text(f"{kept} of 300 latents").wait_for()
        page.get_by_role("button", name="Clear the filters").click()
        page.get_by_test_id("total").get_by_text("300 of 300").wait_for()
        page.go_back()
        page.get_by_test_id("total").get_by_text(f"{kept} of 300").wait_for()
