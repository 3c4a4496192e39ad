"""The live pages over a real server and the tiny model: what is asked for, streamed, refused; who waits, who goes away."""

from __future__ import annotations

import json
import threading
import time
from contextlib import ExitStack

import httpx
import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient

import assay
from assay.store import Store
from assay.studies.steer import Steering, stream
from assay.web.app import create
from assay.web.shelf import READINGS, Shelf
from assay.web.turns import MOST, Turns
from tests.features.made import entry
from tests.web.serving import running

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
TEXT = "It is a truth universally acknowledged, that a single man"
LONG = {"coder": "mine", "text": "Emma", "effects": [{"latent": 3, "value": 5}], "new_tokens": 100}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("live") / "store")
    entry(store)
    return Shelf(store, assay.model("tiny"))


@pytest.fixture(scope="module")
def client(shelf):
    return TestClient(create(shelf), base_url="http://127.0.0.1")


@pytest.fixture(scope="module")
def address(shelf):
    with running(create(shelf)) as found:
        yield found


def events(answer):
    assert answer.headers["content-type"].startswith("text/event-stream")
    return [json.loads(block.removeprefix("data: ")) for block in answer.text.split("\n\n") if block]


def codes(client, **asked):
    return client.post("/live/codes.json", json={"coder": "mine", "text": TEXT} | asked)


def steer(client, **asked):
    effects = [{"latent": 3, "operation": "clamp", "value": 40.0}]
    return client.post("/live/steer", json={"coder": "mine", "text": TEXT, "effects": effects, "new_tokens": 6} | asked)


def test_what_there_is(client):
    found = client.get("/live.json").json()
    assert found["model"] == "tiny" and not found["chat"]
    (coder,) = found["coders"]
    assert coder == {
        "name": "mine", "site": "resid_post.2", "d_sae": 300, "harvested": True, "steers": True, "refused": None, "caution": None,
    }  # fmt: skip


def test_without_a_model_the_page_says_how_to_have_one(shelf):
    client = TestClient(create(Shelf(shelf.store)), base_url="http://127.0.0.1")
    found = client.get("/live.json").json()
    assert found["model"] is None and "--live" in found["advice"]
    for answer in (codes(client), steer(client)):
        assert answer.status_code == 503 and "--live" in answer.json()["message"]


def test_codes_are_the_coder_s(client, shelf):
    found = codes(client).json()
    assert "".join(t["text"] for t in found["tokens"][1:]) == TEXT
    assert [t["special"] for t in found["tokens"]] == [True] + [False] * (len(found["tokens"]) - 1)
    assert "<|endoftext|>" in found["begins"]
    assert {t["l0"] for t in found["tokens"]} == {8}
    ids = torch.tensor([[t["id"] for t in found["tokens"]]])
    x = shelf.live.run(ids, [assay.Site("resid_post", 2)])["resid_post.2"].float()
    z = shelf.coder("mine").encode(x).z[0]
    assert found["distinct"] == int((z != 0).any(0).sum())
    best = z[1:].amax(0).argsort(descending=True, stable=True)[:30].tolist()
    assert [one["latent"] for one in found["latents"]] == best
    for one in found["latents"]:
        assert one["values"] == pytest.approx(z[one["at"], one["latent"]].tolist(), rel=1e-3)
        assert one["at"] == z[:, one["latent"]].nonzero().flatten().tolist()
        assert one["about"]["latent"] == one["latent"]


def test_codes_by_chosen_tokens_and_density(client, shelf):
    chosen = codes(client, at=[3], limit=200).json()["latents"]
    assert len(chosen) == 8 and all(3 in one["at"] for one in chosen)
    density = shelf.features("mine").columns["density"]
    rare = codes(client, density=0.02, limit=200).json()["latents"]
    assert rare and all(density[one["latent"]] <= 0.02 for one in rare)
    everything = codes(client, limit=200).json()["latents"]
    assert len(rare) == sum(density[one["latent"]] <= 0.02 for one in everything) < len(everything)


def test_bos_is_said_and_never_doubled(client):
    without = codes(client, bos="never").json()
    assert not without["tokens"][0]["special"] and "No BOS" in without["begins"]
    twice = codes(client, text="<|endoftext|>" + TEXT).json()
    assert [t["special"] for t in twice["tokens"][:2]] == [True, False]


def test_both_continuations_side_by_side(client, shelf):
    found = events(steer(client))
    assert [e["kind"] for e in found[:1]] == ["begun"] and [e["side"] for e in found[-2:]] == ["plain", "steered"]
    ids = torch.tensor([[t["id"] for t in found[0]["tokens"]]])
    steering = [Steering(latent=3, operation="clamp", value=40.0)]
    steps = list(stream(shelf.live, shelf.coder("mine"), "resid_post.2", ids, steering, special={0}))[:6]
    for row, side in enumerate(("plain", "steered")):
        said = "".join(e["text"] for e in found if e["kind"] == "token" and e["side"] == side)
        assert said == shelf.live.tokenizer.decode([step[row].id for step in steps])
    assert len([e for e in found if e["kind"] == "token"]) == 12


def test_units_are_the_harvest_s_maximum(client, shelf):
    top = float(shelf.features("mine").columns["max"][3])
    raw = {"latent": 3, "value": 2 * top}
    assert (
        events(steer(client, effects=[{"latent": 3, "value": 2, "unit": "max"}]))[1:]
        == events(steer(client, effects=[raw]))[1:]
    )
    assert events(steer(client, effects=[raw]))[1:] != events(steer(client, effects=[raw | {"value": 2.0}]))[1:]


def test_strength_0_is_no_steering(client):
    found = events(steer(client, strength=0, temperature=1.5, seed=3, new_tokens=20))
    sides = [
        [(e["text"], e["probability"]) for e in found if e["kind"] == "token" and e["side"] == s] for s in ("plain", "steered")
    ]
    assert sides[0] == sides[1] and len(sides[0]) > 0


def test_characters_of_several_tokens_come_whole(client, shelf):
    """Forced by the steps themselves: the tiny model has never seen such a character."""
    from assay.models.pieces import Pieces
    from assay.models.streaming import Token
    from assay.web.live import Side

    tokenizer = shelf.live.tokenizer
    ids = tokenizer("a ☃ b", add_special_tokens=False).input_ids
    side, given = Side("plain", Pieces(tokenizer), tokenizer), []
    for i in ids:
        given.append([e.text for e in side.take(Token(i, 0.5, False))])
    assert "".join(t for part in given for t in part) == "a ☃ b"
    assert [] in given and all("�" not in t and "<0x" not in t for part in given for t in part)


def test_a_sweep(client):
    asked = {"coder": "mine", "text": TEXT, "effects": [{"latent": 3, "value": 30}], "strengths": [0, 1, 2], "new_tokens": 6}
    found = events(client.post("/live/sweep", json=asked))
    points = [e for e in found if e["kind"] == "point"]
    assert [p["strength"] for p in points] == [0, 1, 2] and points[0]["kl"] == 0 < points[1]["kl"] < points[2]["kl"]
    assert all(p["perplexity"] >= 1 and p["text"] for p in points) and any(e["kind"] == "share" for e in found)


@pytest.mark.parametrize(
    ("asked", "status", "said"),
    [
        ({"text": "a b " * 200}, 400, "at most 128"),
        ({"text": "a" * 4001}, 422, "4000"),
        ({"text": ""}, 422, ""),
        ({"coder": "none"}, 404, "none"),
        ({"bos": "maybe"}, 422, ""),
        ({"chat": True}, 400, "chat template"),
        ({"unheard": 1}, 422, ""),
    ],
)
def test_refusals(client, asked, status, said):
    for answer in (codes(client, **asked), steer(client, **asked)):
        assert answer.status_code == status and said in answer.text


def test_refusals_of_steering(client):
    assert steer(client, effects=[{"latent": 300}]).status_code == 400
    assert steer(client, effects=[]).status_code == 422
    assert steer(client, text="word " * 127).status_code == 400


def test_what_goes_wrong_on_the_way_is_an_event(client, shelf, monkeypatch):
    monkeypatch.setattr(shelf.coder("mine"), "decode", lambda code: code.base * float("nan") + code.z.sum(-1, keepdim=True))
    found = events(steer(client))
    assert found[-1]["kind"] == "failed" and "not finite" in found[-1]["message"]


def test_turns_come_in_order():
    turns, order, entered = Turns(), [], []

    def work(name):
        with turns.one(0.01) as waiting:
            entered.append(name)
            for ahead in waiting:
                assert ahead > 0
            order.append(name)
            time.sleep(0.005)

    with turns.one() as mine:
        assert list(mine) == []
        threads = []
        for name in range(5):
            threads.append(threading.Thread(target=work, args=(name,)))
            threads[-1].start()
            while len(entered) <= name:
                time.sleep(0.001)
        assert order == []
    for thread in threads:
        thread.join(5)
    assert order == [0, 1, 2, 3, 4] and len(turns) == 0


def test_too_many_are_refused():
    from assay.errors import Busy

    turns = Turns()
    with ExitStack() as stack:
        for _ in range(MOST + 1):
            stack.enter_context(turns.one())
        with pytest.raises(Busy), turns.one():
            pass
    assert len(turns) == 0


def test_reading_many_texts_leaves_threads_for_the_pages(shelf, client):
    with ExitStack() as stack:
        for _ in range(READINGS):
            stack.enter_context(shelf.reading())
        answer = codes(client)
        assert answer.status_code == 409 and "Try again" in answer.json()["message"]
    assert codes(client).status_code == 200


def codes_of(shelf):
    """What the coder sees of TEXT."""
    from assay.corpora.prompt import prompt
    from assay.studies.reading import read

    ids = torch.from_numpy(prompt(shelf.live.tokenizer, TEXT).ids)[None]
    return read(shelf.live, shelf.coder("mine"), "resid_post.2", ids)


def lines(answer):
    return (json.loads(line.removeprefix("data: ")) for line in answer.iter_lines() if line)


def empty(shelf, seconds=3.0):
    """Whether the queue empties."""
    until = time.monotonic() + seconds
    while (turns := shelf.kept("live turns", None, Turns)) and time.monotonic() < until:
        time.sleep(0.01)
    return len(turns) == 0 and not shelf.model_lock.locked()


@pytest.mark.timeout(60)
def test_going_away_stops_the_work_and_gives_the_turn_on(address, shelf, monkeypatch):
    step, passes = shelf.live.step, []

    def slow(*args, **words):
        passes.append(time.sleep(0.05))
        return step(*args, **words)

    monkeypatch.setattr(shelf.live, "step", slow)
    with ExitStack() as stack:

        def ask(new_tokens):
            answer = stack.enter_context(httpx.stream("POST", f"{address}/live/steer", json=LONG | {"new_tokens": new_tokens}))
            return answer, lines(answer)

        first, told = ask(100)
        assert next(told)["kind"] == "begun"
        assert next(told)["kind"] == "token"
        second, waits = ask(100)
        assert next(waits) == {"kind": "waiting", "ahead": 1}
        _, others = ask(2)
        assert next(others) == {"kind": "waiting", "ahead": 2}
        started = time.monotonic()
        assert httpx.get(f"{address}/live.json").json()["model"] == "tiny"  # pages are not blocked
        assert httpx.post(f"{address}/live/codes.json", json={"coder": "mine", "text": "Emma"}).status_code == 200
        assert time.monotonic() - started < 2
        first.close()
        second.close()
        rest = [e["kind"] for e in others]
        assert rest.count("token") == 4 and rest[-1] == "ended"
    assert empty(shelf)
    done = len(passes)
    time.sleep(0.2)
    assert len(passes) == done < 60


@pytest.mark.slow
def test_live_in_a_browser(address, shelf, page, picture):
    """Type, look, choose tokens, steer, stop, sweep; the link brings it all back."""
    from playwright.sync_api import expect

    page.goto(f"{address}/live")
    page.get_by_test_id("text").fill(TEXT)
    page.get_by_test_id("show").click()
    rows = page.get_by_test_id("heat-row")
    rows.first.wait_for()
    assert rows.count() == 30
    found = codes_of(shelf)
    first = found.strongest("max", np.arange(found.tokens) > 0, limit=1)[0]
    assert rows.first.get_attribute("data-latent") == str(first)
    page.get_by_test_id("tokens").first.locator("[data-unit='3']").click()
    page.get_by_text("1 chosen token", exact=False).wait_for()
    expect(rows).to_have_count(8)
    rows.first.get_by_role("button").click()
    page.get_by_label("By how much").fill("3")
    page.get_by_test_id("new-tokens").fill("12")
    page.get_by_test_id("generate").click()
    page.get_by_test_id("stop").wait_for(state="detached")
    for side in ("plain", "steered"):
        page.get_by_test_id(side).locator(".token").nth(5).wait_for()
    picture(page, "live")
    address_bar, said = page.url, page.get_by_test_id("steered").inner_text()
    assert "steer=" in address_bar and "at=3" in address_bar
    page.get_by_test_id("sweep-steps").fill("3")
    page.get_by_test_id("run-sweep").click()
    expect(page.get_by_test_id("sweep").locator("tbody tr")).to_have_count(3)
    assert page.get_by_test_id("sweep").locator("tbody tr").first.inner_text().split()[:2] == ["0", "0"]
    page.goto(address_bar)  # a deep link
    expect(page.get_by_test_id("steered")).to_have_text(said, use_inner_text=True)
    rows.first.get_by_role("link").first.click()
    page.wait_for_url("**/coders/mine/latents/*")
    page.go_back()
    rows.first.wait_for()


@pytest.mark.slow
def test_stopping_and_waiting_in_a_browser(address, shelf, page, monkeypatch):
    step = shelf.live.step
    monkeypatch.setattr(shelf.live, "step", lambda *args, **words: time.sleep(0.05) or step(*args, **words))
    link = f"{address}/live?coder=mine&text=Emma&steer=3:add:5:raw:all&n=100&run=steer"
    page.goto(link)
    other = page.context.new_page()
    page.get_by_test_id("plain").locator(".token").nth(2).wait_for()
    other.goto(link)
    other.get_by_text("1 request is ahead").wait_for()
    page.get_by_test_id("stop").click()
    page.get_by_text("Stopped.").wait_for()
    other.get_by_test_id("plain").locator(".token").nth(2).wait_for()
    other.close()  # going away stops the work too
    assert empty(shelf)


@pytest.mark.slow
def test_live_can_be_used_by_everybody(address, page):
    from axe_playwright_python.sync_playwright import Axe
    from playwright.sync_api import expect

    link = f"{address}/live?coder=mine&text={TEXT}&steer=3:add:5:raw:all;4:ablate&n=8&run=sweep&steps=3&at=2"
    for width, scheme in ((1280, "light"), (360, "dark")):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 800})
        page.goto(link)
        expect(page.get_by_test_id("sweep").locator("tbody tr")).to_have_count(3)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
