"""Labels, ratings and lists over HTTP, and by hand in a browser. Nothing but the notes is written."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

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
    store = Store(tmp_path_factory.mktemp("lists") / "store")
    return store, entry(store)


@pytest.fixture
def store(made) -> Store:
    for file in made[0].root.glob("notes.sqlite*"):
        file.unlink()
    return made[0]


@pytest.fixture
def client(store) -> TestClient:
    return TestClient(create(Shelf(store)), **HOME)


def test_labels_and_ratings(client, made):
    here = "/coders/mine/latents/7"
    label = client.post(f"{here}/labels.json", json={"text": " <i>the sea</i>", "author": "ada"}).json()
    assert (label["text"], label["coder_hash"]) == ("<i>the sea</i>", made[1].coder_hash)
    assert client.put(f"{here}/rating.json", json={"stars": 4}).json()["stars"] == 4
    page = client.get(f"{here}.json").json()
    assert page["labels"] == [label] and [r["stars"] for r in page["ratings"]] == [4]
    assert client.put(f"{here}/rating.json", json={}).json() is None
    both = client.get("/lists.json").json()
    assert both["labels"] == [label] and both["ratings"] == []
    assert client.delete(f"/labels/{label['id']}.json").status_code == 204
    assert client.delete(f"/labels/{label['id']}.json").status_code == 404


def test_a_list_from_beginning_to_end(client, made):
    one = client.post("/lists.json", json={"name": "sea", "about": "ships"}).json()
    here = f"/lists/{one['id']}"
    ids = [client.post(f"{here}/entries.json", json={"coder": "mine", "latent": i}).json()["id"] for i in (3, 1, 2)]
    assert client.put(f"/lists/entries/{ids[2]}.json", json={"place": 0, "note": "best"}).json()["note"] == "best"
    page = client.get(f"{here}.json").json()
    assert [e["entry"]["latent"] for e in page["entries"]] == [2, 3, 1]
    density = made[1].columns["density"]
    assert [e["density"] for e in page["entries"]] == pytest.approx([density[i] for i in (2, 3, 1)])
    assert all(e["there"] and not e["earlier"] for e in page["entries"])
    assert client.get("/coders/mine/latents/3.json").json()["lists"][0]["name"] == "sea"
    client.delete(f"/lists/entries/{ids[0]}.json")
    file = client.get(f"{here}/file.json")
    assert file.headers["content-disposition"] == f'attachment; filename="list-{one["id"]}.json"'
    again = client.post("/lists/file.json", json=file.json()).json()
    assert (again["name"], again["about"], again["entries"]) == ("sea (2)", "ships", 2)
    assert client.put(f"{here}.json", json={"name": "sea (2)"}).status_code == 400
    assert client.put(f"{here}.json", json={"name": "see", "about": ""}).json()["name"] == "see"
    assert client.delete(f"{here}.json").status_code == 204 and client.get(f"{here}.json").status_code == 404


def test_entries_of_coders_that_are_not_here(client):
    entries = [
        {"coder": "elsewhere", "latent": 3},
        {"coder": "mine", "latent": 5000},
        {"coder": "../..", "latent": 0},
        {"coder": "mine", "latent": 2, "coder_hash": "another"},
    ]
    one = client.post("/lists/file.json", json={"kind": "assay list", "schema": 1, "name": "n", "entries": entries}).json()
    page = client.get(f"/lists/{one['id']}.json").json()
    assert [(e["there"], e["earlier"]) for e in page["entries"]] == [(False, False)] * 3 + [(True, True)]


@pytest.mark.parametrize(
    ("method", "url", "body"),
    [
        ("POST", "/coders/mine/latents/7/labels.json", {"text": " "}),
        ("POST", "/coders/mine/latents/7/labels.json", {"text": "x" * 2001}),
        ("POST", "/coders/mine/latents/7/labels.json", {"text": "a", "more": 1}),
        ("POST", "/coders/mine/latents/300/labels.json", {"text": "a"}),
        ("POST", "/coders/none/latents/3/labels.json", {"text": "a"}),
        ("PUT", "/coders/mine/latents/7/rating.json", {"stars": 6}),
        ("PUT", "/coders/mine/latents/7/rating.json", {"stars": True}),
        ("POST", "/lists.json", {"name": ""}),
        ("POST", "/lists/1/entries.json", {"coder": "mine", "latent": 3}),
        ("POST", "/lists/file.json", {"kind": "else", "schema": 1, "name": "n", "entries": []}),
        ("POST", "/lists/file.json", {"kind": "assay list", "schema": 2, "name": "n", "entries": []}),
        ("PUT", "/lists/entries/1.json", {"place": 0}),
        ("PUT", "/lists/99999999999999999999.json", {"name": "n"}),
    ],
)
def test_what_is_refused_leaves_nothing(client, store, method, url, body):
    answer = client.request(method, url, json=body)
    assert answer.status_code in (400, 404, 422), answer.text
    notes = Notes(store)
    assert (notes.lists(), notes.labels(), notes.ratings()) == ([], [], [])


def test_the_table_of_latents_knows_labels_and_lists(client):
    client.post("/coders/mine/latents/7/labels.json", json={"text": "The sea"})
    one = client.post("/lists.json", json={"name": "mine"}).json()
    for latent in (9, 4):
        client.post(f"/lists/{one['id']}/entries.json", json={"coder": "mine", "latent": latent})
    labelled = client.get("/coders/mine/latents.json?label=SEA").json()
    assert [(x["latent"], x["label"]) for x in labelled["latents"]] == [(7, "The sea")]
    listed = client.get("/coders/mine/latents.json?list=mine&sort=latent&descending=false").json()
    assert [x["latent"] for x in listed["latents"]] == [4, 9]
    Notes(client.app.state.shelf.store).label("mine", 4000, "the sea of an earlier coder")
    assert client.get("/coders/mine/latents.json?label=sea").json()["total"] == 1


@pytest.mark.slow
def test_lists_in_a_browser(store, page, picture):
    with running(create(Shelf(store))) as address:
        page.goto(f"{address}/coders/mine/latents/7")
        page.get_by_test_id("new-label").fill("the sea <3")
        page.get_by_test_id("add-label").click()
        page.get_by_test_id("label").get_by_text("the sea <3").wait_for()
        page.get_by_test_id("star-4").click()
        page.get_by_test_id("list-name").fill("favourites")
        page.get_by_test_id("add-to-list").click()
        page.get_by_test_id("notes").get_by_role("link", name="favourites").wait_for()
        page.goto(f"{address}/coders/mine/latents/9")
        page.get_by_test_id("list-name").fill("favourites")
        page.get_by_test_id("add-to-list").click()
        page.get_by_test_id("notes").get_by_role("link", name="favourites").click()
        page.get_by_test_id("note").first.fill("waves")
        page.get_by_role("button", name="Move mine 9 up").click()
        page.get_by_test_id("entries").locator("tbody tr").first.get_by_text("mine 9").wait_for()
        picture(page, "list")
        with page.expect_download() as saved:
            page.get_by_test_id("download").click()
        page.goto(f"{address}/lists")
        page.get_by_test_id("ratings").get_by_text("★★★★").wait_for()
        page.get_by_test_id("list-file").set_input_files(saved.value.path())
        page.get_by_role("heading", name="favourites (2)").wait_for()
        page.get_by_test_id("note").nth(1).wait_for()
        assert page.get_by_test_id("note").nth(1).input_value() == "waves"
        page.once("dialog", lambda dialog: dialog.accept())
        page.get_by_role("button", name="Delete the list").click()
        page.get_by_test_id("lists").wait_for()
        assert page.get_by_text("favourites (2)").count() == 0
