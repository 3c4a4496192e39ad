"""Blind rating over the API: nobody is told whose an item is before the sheet is unblinded, whatever is asked."""

from __future__ import annotations

import csv
import io
import json

import pytest
from fastapi.testclient import TestClient

from assay import rating
from assay.rating import Ratings
from assay.store import Store
from assay.web.app import create
from assay.web.shelf import Shelf
from tests.features.made import entry
from tests.web.serving import running

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
NAMES = ("zebrafish", "armadillo")
HOME = {"base_url": "http://127.0.0.1"}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two harvested coders of one text."""
    found = Store(tmp_path_factory.mktemp("rated") / "store")
    for seed, name in enumerate(NAMES):
        entry(found, name, d_sae=60, k=4, seed=seed, tokens=1500)
    return found


@pytest.fixture
def client(store):
    (store.root / "notes.sqlite").unlink(missing_ok=True)
    return TestClient(create(Shelf(store)), **HOME)


def new(client, **more):
    answer = client.post("/ratings.json", json={"title": "Pilot", "coders": list(NAMES), "latents": 4, "seed": 77123} | more)
    assert answer.status_code == 200, answer.text
    return answer.json()["id"], answer.json()["key"]


def rate_all(client, id, rater, n=8):
    for item in range(1, n + 1):
        for scale in rating.SCALES:
            value = 1 + (item + len(scale)) % 5
            answer = client.put(f"/ratings/{id}/items/{item}.json", json={"rater": rater, "scale": scale, "value": value})
            assert answer.status_code == 200, answer.text
            yield answer


def test_no_answer_tells_whose_an_item_is(client, store):
    """Every route of the slice, by every method, on a blind sheet: with and without ratings, refusals included."""
    id, key = new(client)
    told = list(rate_all(client, id, "ada"))
    client.put(f"/ratings/{id}/items/1.json", json={"rater": "bob", "scale": "complexity", "value": 2})
    for path in (
        "/ratings.json", f"/ratings/{id}.json", f"/ratings/{id}/mine.json?rater=ada", f"/ratings/{id}/results.json", f"/ratings/{id}.csv",
        *(f"/ratings/{id}/items/{i}.json" for i in range(12)),
    ):  # fmt: skip
        told += [client.request(method, path) for method in ("GET", "HEAD", "OPTIONS")]
    told += [client.post(f"/ratings/{id}/unblind.json", json=body) for body in ({}, {"key": "guess"})]
    told += [client.request("DELETE", f"/ratings/{id}.json", json={"key": "guess"})]
    told += [client.put(f"/ratings/{id}/items/1.json", json={"rater": "bob", "scale": "beauty", "value": 2})]
    assert client.get(f"/ratings/{id}/results.json").status_code == 400 == client.get(f"/ratings/{id}.csv").status_code
    whole = "\n".join(f"{dict(answer.headers)} {answer.text}" for answer in told).casefold()
    for secret in (*NAMES, key.casefold(), "77123", "density", "coder_hash", '"latent"', '"coder"', '"pair"', "features/"):
        assert secret not in whole, secret
    client.post(f"/ratings/{id}/unblind.json", json={"key": key})
    assert all(name in client.get(f"/ratings/{id}/results.json").text for name in NAMES), "which the test would have seen"


def test_a_harvest_that_is_gone_tells_nothing(client, store, tmp_path):
    id, _ = new(client)
    before = client.get(f"/ratings/{id}/items/3.json").json()
    gone = store.path("features", store.names("features")[0])
    gone.rename(tmp_path / "gone")
    try:
        assert client.get(f"/ratings/{id}/items/3.json").json() == before, "a sheet holds what it shows"
    finally:
        (tmp_path / "gone").rename(gone)


def test_everybody_sees_the_same_in_the_same_order(client, store):
    id, _ = new(client)
    other = TestClient(create(Shelf(store)), **HOME)
    for item in range(1, 9):
        shown = client.get(f"/ratings/{id}/items/{item}.json").json()
        assert shown == other.get(f"/ratings/{id}/items/{item}.json").json()
        assert shown["number"] == item and shown["of"] == 8 and shown["groups"][0]["title"] == "Strongest"
        for example in (e for group in shown["groups"] for e in group["examples"]):
            assert len(example["pieces"]) == len(example["values"]) == len(example["special"]) > example["peak"]
            assert min(example["values"]) >= 0 and max(example["values"]) <= 1
    again, _ = new(client)
    items = [client.get(f"/ratings/{again}/items/{i}.json").json() for i in range(1, 9)]
    assert items == [client.get(f"/ratings/{id}/items/{i}.json").json() for i in range(1, 9)], "the seed decides"


def test_progress_is_kept_and_others_ratings_stay_hidden(client):
    id, _ = new(client)
    list(rate_all(client, id, "ada"))
    mine = client.get(f"/ratings/{id}/mine.json", params={"rater": "ada"}).json()["ratings"]
    assert len(mine) == 8 and mine["1"] == {"consistency": 1 + (1 + 11) % 5, "complexity": 1 + (1 + 10) % 5}
    assert client.get(f"/ratings/{id}/mine.json", params={"rater": "bob"}).json()["ratings"] == {}
    line = client.get(f"/ratings/{id}.json").json()["sheet"]
    assert line["raters"] == {"ada": 8} and line["complete"] and line["unblinded"] is None


def test_results_are_those_of_the_book(client, store):
    id, _ = new(client)
    for rater in ("ada", "bob"):
        list(rate_all(client, id, rater))
    assert client.post(f"/ratings/{id}/unblind.json", json={}).json()["unblinded"]
    found = client.get(f"/ratings/{id}/results.json").json()
    expected = rating.outcome(Ratings(store), id)
    assert found["raters"] == ["ada", "bob"] and found["seed"] == 77123 and found["level"] == 0.9
    assert len(found["means"]) == 4 and len(found["differences"]) == 2
    for line, other in zip(found["differences"], expected.differences, strict=True):
        assert (line["a"], line["b"], line["n"], line["mean"], line["p"]) == (*sorted(NAMES), 4, other.mean, other.p)
    assert found["agreement"] == {"consistency": 0.0, "complexity": 0.0}
    rows = list(csv.DictReader(io.StringIO(client.get(f"/ratings/{id}.csv").text)))
    assert len(rows) == 2 * 2 * 8 and {r["coder"] for r in rows} == set(NAMES)
    assert {(int(r["item"]), r["coder"], int(r["latent"])) for r in rows} == {
        (i.item, i.coder, i.latent) for i in expected.items
    }
    late = client.put(f"/ratings/{id}/items/1.json", json={"rater": "eve", "scale": "complexity", "value": 1})
    assert late.status_code == 400 and "unblinded" in late.json()["message"]


def test_refusals(client):
    id, key = new(client)
    for body in (
        {"coders": []}, {"coders": ["zebrafish", "zebrafish"]}, {"coders": ["zebrafish"], "title": "zebrafish!"},
        {"coders": ["zebrafish"], "latents": 59}, {"coders": ["zebrafish"], "seed": -1}, {"coders": ["zebrafish"], "more": 1},
    ):  # fmt: skip
        assert client.post("/ratings.json", json=body).status_code in (400, 422), body
    assert client.post("/ratings.json", json={"coders": ["zebrafihs"]}).status_code == 404
    assert client.get("/ratings/000000000000.json").status_code == 404
    assert client.get("/ratings/..%2Fstore.json").status_code in (404, 422)
    assert client.get(f"/ratings/{id}/items/9.json").status_code == 404
    rated = {"rater": "ada", "scale": "complexity", "value": 3}
    for wrong in ({"value": 6}, {"value": 0}, {"rater": ""}, {"rater": "x" * 41}, {"rater": "a\u0000b"}, {"scale": "beauty"}):
        assert client.put(f"/ratings/{id}/items/1.json", json=rated | wrong).status_code in (400, 404, 422), wrong
    assert client.request("DELETE", f"/ratings/{id}.json", json={"key": key}).status_code == 204
    assert json.loads(client.get("/ratings.json").text)["sheets"] == []


@pytest.mark.slow
def test_rating_by_keyboard(client, store, page, picture):
    """A sheet is made, rated with the keys alone, unblinded, and its results read."""
    with running(create(Shelf(store))) as address:
        page.goto(f"{address}/ratings")
        for name in NAMES:
            page.get_by_label(name).check()
        page.get_by_label("Latents of each").fill("2")
        page.get_by_role("button", name="Make the sheet").click()
        page.get_by_test_id("key").wait_for()
        page.get_by_role("link", name="Open the sheet").click()
        page.get_by_label("Your name").fill("ada")
        page.get_by_role("button", name="Begin").click()
        for item in range(1, 5):
            page.get_by_text(f"Item {item} of 4").wait_for()
            page.get_by_test_id("tokens").first.wait_for()
            assert not any(name in page.content() for name in NAMES)
            page.keyboard.press("4")
            page.keyboard.press("2")
            page.get_by_text(f"{item} of 4 rated").wait_for()
            picture(page, "rating")
            page.keyboard.press("ArrowRight")
        page.get_by_role("button", name="Unblind").click()
        page.get_by_test_id("differences").wait_for()
        assert page.get_by_text("armadillo").count() > 0
        picture(page, "rating-results")
