"""The frame of the application: pages, their data, refusals, and that the built pages are those of the sources."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from assay.web.app import create
from assay.web.shelf import Shelf
from tests.web.serving import running

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
HOME = {"base_url": "http://127.0.0.1"}


@pytest.fixture
def client(store) -> TestClient:
    return TestClient(create(Shelf(store)), **HOME)


def test_a_page_and_its_data(client):
    assert client.get("/coders/any").text == client.get("/").text
    assert "<title>Assay</title>" in client.get("/").text
    assert client.get("/index.json").json()["coders"] == []


def test_what_is_not_there(client):
    answer = client.get("/nothing.json")
    assert answer.status_code == 404 and answer.json()["error"] == "UnknownName"


@pytest.mark.parametrize(
    "path", ["/assets/../app.py", "/assets/%2e%2e/%2e%2e/app.py", "/%2e%2e/app.py", "/..%2f..%2fstore.toml"]
)
def test_no_way_out_of_the_pages(client, path):
    answer = client.get(path)
    assert "import" not in answer.text and "schema" not in answer.text


def test_other_hosts_are_refused(store):
    assert TestClient(create(Shelf(store)), base_url="http://evil.example").get("/index.json").status_code == 400


def test_a_token_is_asked_for_and_kept(store):
    client = TestClient(create(Shelf(store), token="secret"), **HOME)
    assert client.get("/index.json").status_code == 401
    assert client.get("/index.json?token=wrong").status_code == 401
    assert client.get("/index.json", headers={"authorization": "Bearer secret"}).status_code == 200
    link = client.get("/index.json?token=secret", follow_redirects=False)
    assert "samesite=lax" in link.headers["set-cookie"].lower()  # strict: a link from a chat or a wiki would not open
    assert client.get("/index.json?token=secret").status_code == 200  # through the cookie that the link sets
    assert client.get("/index.json").status_code == 200


def test_writes_of_other_sites_types_and_sizes_are_refused(client):
    assert client.post("/index.json", json={}, headers={"origin": "http://evil.example"}).status_code == 403
    assert client.post("/index.json", content="a=1", headers={"content-type": "text/plain"}).status_code == 415
    assert client.post("/index.json", json="x" * 2**20).status_code == 413
    assert client.post("/index.json", json={}, headers={"content-length": "-5"}).status_code in (400, 413)


def test_headers_keep_hostile_text_harmless(client):
    headers = client.get("/").headers
    assert "script-src" not in headers["content-security-policy"] and "default-src 'self'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


def test_the_built_pages_are_those_of_the_sources():
    place = Path(__file__).parents[2] / "web-ui" / "make.py"
    spec = importlib.util.spec_from_file_location("web_ui_make", place)
    assert spec and spec.loader
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    assert make.stale() == [], "run `make web` and commit what it changes"


@pytest.mark.slow
def test_the_overview_in_a_browser(store, page, picture):
    with running(create(Shelf(store))) as address:
        page.goto(address)
        page.get_by_text("0 coders").wait_for()
        page.get_by_role("link", name="Assay").click()
        picture(page, "empty")
