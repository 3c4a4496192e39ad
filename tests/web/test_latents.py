"""The page of a latent: its data are the harvest's; text at any width; where it is silent; and the page in a browser."""

from __future__ import annotations

import numpy as np
import pytest
from fastapi.testclient import TestClient

from assay import models
from assay.features import explanations
from assay.features.explanations import Explanation
from assay.notes import Notes
from assay.store import Store
from assay.web.app import create
from assay.web.shelf import Shelf
from tests.features.made import entry
from tests.web.serving import running

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
HOME = {"base_url": "http://127.0.0.1"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("latents") / "store")
    return store, entry(store)


@pytest.fixture(scope="module")
def client(made) -> TestClient:
    return TestClient(create(Shelf(made[0])), **HOME)


@pytest.fixture(scope="module")
def live(made) -> TestClient:
    return TestClient(create(Shelf(made[0], models.load("tiny"))), **HOME)


@pytest.fixture(scope="module")
def busiest(made) -> int:
    return int(made[1].columns["count"].argmax())


def strip_fits(features, strip) -> None:
    flat = features.text.tokens.reshape(-1)
    assert strip["ids"] == flat[strip["start"] : strip["stop"]].tolist()
    assert len(strip["pieces"]) == len(strip["ids"]) == len(strip["values"])


def test_what_is_said_is_what_was_harvested(client, made, busiest):
    features = made[1]
    row, page = features.latent(busiest), client.get(f"/coders/mine/latents/{busiest}.json").json()
    assert page["numbers"]["count"] == row.count and page["numbers"]["max"] == pytest.approx(row.max)
    assert sum(page["histogram"]["counts"]) == row.count
    assert len(page["histogram"]["edges"]) == len(page["histogram"]["counts"]) + 1 and page["histogram"]["counts"][0]
    assert [t["id"] for t in page["top_logits"]] == row.top_logits.tolist()
    assert [k["latent"] for k in page["coactive"]] == row.coactive.tolist()
    assert [k["value"] for k in page["nearest"]] == pytest.approx(row.neighbour_cosines.tolist(), rel=1e-4)
    assert page["words"] and not page["live"] and page["corpus"] == "austen" and page["model"] == "tiny"
    groups = {(g["group"], g["interval"]): g for g in page["groups"]}
    kept = features.examples(busiest)
    assert sum(len(g["examples"]) for g in page["groups"]) == len(kept)
    assert sum(g["share"] for (kind, _), g in groups.items() if kind == "interval") == pytest.approx(1, rel=1e-3)
    top = groups["top", None]["examples"]
    strip_fits(features, top[0])
    assert top[0]["values"][top[0]["position"] - top[0]["start"]] == pytest.approx(row.max, rel=2e-3)
    for (kind, _), group in groups.items():
        for example in group["examples"]:
            assert any(example["values"]) == (kind in ("top", "interval"))
            if kind == "interval":
                peak = example["values"][example["position"] - example["start"]]
                assert group["low"] * 0.999 <= peak / row.max <= group["high"] * 1.001


def test_a_dead_latent_and_ones_that_are_not_there(client, made):
    dead = np.flatnonzero(entry(made[0], "thin", k=1, tokens=600).columns["dead"].astype(bool))
    assert 0 < len(dead) < 300
    page = client.get(f"/coders/thin/latents/{dead[0]}.json").json()
    assert page["numbers"]["dead"] and page["numbers"]["max"] is None and page["histogram"]["counts"] == []
    assert {g["group"] for g in page["groups"]} <= {"random", "near_miss"}
    assert client.get("/coders/thin/latents/random.json").json() not in dead
    assert client.get("/coders/mine/latents/300.json").json()["message"] == "mine has latents 0 to 299, got 300."
    assert client.get("/coders/mien/latents/3.json").status_code == 404
    for wrong in ("x", "-1", "1.5", "9999999999999999999", "%00"):
        assert client.get(f"/coders/mine/latents/{wrong}.json").status_code in (400, 404, 422)


def test_text_at_any_width(client, live, made, busiest):
    features = made[1]
    best = features.examples(busiest, "top")[0]
    base = f"/coders/mine/latents/{busiest}"
    bare = client.get(f"{base}/document.json?position={best.position}").json()
    full = live.get(f"{base}/document.json?position={best.position}").json()
    assert (bare["live"], full["live"], bare["note"], full["note"]) == (False, True, None, None)
    assert None in bare["values"] and None not in full["values"]
    for text in (bare, full):
        strip_fits(features, text)
        inside = text["values"][best.start - text["start"] :][: best.stop - best.start]
        assert np.flatnonzero(inside).tolist() == best.at.tolist()
    for known, now in zip(bare["values"], full["values"], strict=True):
        assert known is None or known == pytest.approx(now, rel=2e-3)
    assert (full["start"], full["stop"]) == features.document(best.position) or not full["whole"]
    window = live.get(f"{base}/window.json?start={best.start}&stop={best.stop}").json()
    assert window["values"] == full["values"][best.start - full["start"] :][: best.stop - best.start]
    assert not window["whole"] and window["special"] == [False] * (best.stop - best.start)


def test_long_documents_come_in_part(client, made, monkeypatch):
    monkeypatch.setattr("assay.web.passages.WIDEST", 10)
    start, stop = made[1].document(100)
    for position in (start, 100, stop - 1):
        text = client.get(f"/coders/mine/latents/0/document.json?position={position}").json()
        assert not text["whole"] and text["stop"] - text["start"] == 10 and text["start"] <= position < text["stop"]
        assert start <= text["start"] and text["stop"] <= stop


@pytest.mark.parametrize(
    "where", ["start=5&stop=5", "start=9&stop=5", "start=0&stop=999999999", "start=-1&stop=5", "start=a&stop=5", "stop=5"]
)
def test_windows_that_are_none(client, where):
    assert client.get(f"/coders/mine/latents/0/window.json?{where}").status_code in (400, 422)
    assert client.get("/coders/mine/latents/0/document.json?position=999999999").status_code == 400


def test_the_live_model_is_waited_for_a_moment_only(made, monkeypatch):
    monkeypatch.setattr("assay.web.passages.PATIENCE", 0.01)
    shelf = Shelf(made[0], models.load("tiny"))
    with shelf.model_lock:
        text = TestClient(create(shelf), **HOME).get("/coders/mine/latents/0/document.json?position=100").json()
    assert not text["live"] and "busy" in text["note"]
    assert shelf.model_lock.acquire(timeout=1)


def test_where_it_is_silent(client, live, made, busiest):
    features, base = made[1], f"/coders/mine/latents/{busiest}/silent.json"
    flat = features.text.tokens.reshape(-1)
    token = int(features.examples(busiest, "top")[0].position)
    word = Shelf(made[0]).pieces("mine").one(int(flat[token]))
    now = live.get(base, params={"query": word}).json()
    assert now["live"] and now["matches"] and now["checked"] == min(24, len({p // 64 for p in places(features, flat[token])}))
    assert now["silent"] == len(now["places"]) < now["checked"]
    for place in now["places"]:
        strip_fits(features, place)
        assert place["values"][place["position"] - place["start"]] == 0
    bare = client.get(base, params={"query": word}).json()
    assert bare["matches"] == now["matches"] and bare["checked"] >= 1
    values = [p["values"][p["position"] - p["start"]] for p in bare["places"]]
    assert all(v in (0, None) for v in values) and values == sorted(values, key=lambda v: v is None)
    assert values.count(0) == min(24, bare["silent"])
    fits = client.get(base, params={"query": "^ th", "regex": True}).json()
    assert " the" in fits["tokens"] and fits["matches"] > 24 == len(fits["places"])
    again, other = (client.get(base, params={"query": "^ th", "regex": True, "seed": s}).json() for s in (0, 1))
    assert again == fits and other["places"] != fits["places"]
    assert client.get(base, params={"query": "qqqq"}).json()["matches"] == 0
    assert client.get(base, params={"query": "(", "regex": True}).status_code == 400
    assert client.get(base, params={"query": "x" * 201}).status_code == 422


def places(features, token) -> list[int]:
    at = np.flatnonzero(features.text.tokens.reshape(-1) == token)
    return at[features.text.mask.reshape(-1)[at]].tolist()


def test_explanations_and_notes_stand_on_the_page(client, made):
    store, features = made
    said = [
        Explanation(latent=4, text="<b>ships</b>", method="rule", scores={"detection": 0.75}),
        Explanation(latent=5, text="no", method="rule"),
    ]
    explanations.write(store, "mine", "one", said, features.coder_hash)
    explanations.write(store, "mine", "two", said[:1], "an earlier coder")
    Notes(store).label("mine", 4, "mine", author="ada")
    page = client.get("/coders/mine/latents/4.json").json()
    assert [(e["text"], e["scores"], e["earlier"]) for e in page["explanations"]] == [
        ("<b>ships</b>", {"detection": 0.75}, False),
        ("<b>ships</b>", {"detection": 0.75}, True),
    ]
    assert [label["text"] for label in page["labels"]] == ["mine"]


def test_without_a_tokenizer_tokens_are_ids(made, busiest, monkeypatch):
    monkeypatch.setattr("assay.models.pieces._file", lambda model: None)
    client = TestClient(create(Shelf(made[0])), **HOME)
    page = client.get(f"/coders/mine/latents/{busiest}.json").json()
    assert not page["words"] and page["top_logits"][0]["text"] == f"<{page['top_logits'][0]['id']}>"
    assert client.get(f"/coders/mine/latents/{busiest}/silent.json?query=a").json()["matches"] == 0


@pytest.mark.slow
def test_the_page_in_a_browser(made, busiest, page, picture):
    store, features = made
    hostile = '<img src=x onerror="document.title=1">'
    Notes(store).label("mine", busiest, hostile)
    best = features.examples(busiest, "top")[0]
    with running(create(Shelf(store, models.load("tiny")))) as address:
        page.goto(f"{address}/coders/mine/latents/{busiest}")
        page.get_by_test_id("label").get_by_text(hostile).wait_for()  # as text
        first = page.get_by_test_id("example").first
        first.locator(".framed").hover()
        assert f"{best.values.max():.3g}" in first.get_by_test_id("token-value").inner_text()
        first.get_by_test_id("tokens").focus()
        page.keyboard.press("ArrowRight")
        first.get_by_test_id("token-value").wait_for()
        picture(page, "latent")
        first.get_by_test_id("widen").click()
        page.get_by_test_id("document-note").get_by_text("computed now").wait_for()
        assert f"document=top-{best.position}" in page.url
        page.get_by_test_id("silent-query").fill("the")
        page.get_by_test_id("silent-find").click()
        page.get_by_test_id("silent-told").get_by_text("that were tried now").wait_for()
        page.keyboard.press("j")
        page.wait_for_url(f"**/latents/{(busiest + 1) % 300}")
        page.keyboard.press("k")
        page.wait_for_url(f"**/latents/{busiest}")
        page.go_back()
        page.wait_for_url(f"**/latents/{(busiest + 1) % 300}")
        page.keyboard.press("?")
        page.get_by_test_id("keys-card").get_by_text("any latent that is not dead").wait_for()
        page.keyboard.press("Escape")
        page.goto(f"{address}/coders/mine/latents/{busiest}")
        near = page.get_by_test_id("nearest").get_by_role("link").first
        to = near.inner_text()
        near.click()
        page.get_by_role("heading", name=f"Latent {to} of mine").wait_for()
