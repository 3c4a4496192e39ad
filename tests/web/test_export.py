"""Pages as one file: they hold what was on the screen, and going back works in them; and the way back on a server's pages."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest
from fastapi.testclient import TestClient

from assay import results
from assay.errors import BadInput
from assay.features import Features
from assay.notes import Notes
from assay.store import Store
from assay.web import export
from assay.web.app import create
from assay.web.page import page as exported
from assay.web.shelf import Shelf
from tests.features import made
from tests.figures.suite import core, suite
from tests.web.serving import running

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
CHOSEN = {"where": "dense:0:0,max:0.1:", "sort": "max", "order": "up", "x": "max", "colour": "nope"}


@pytest.fixture(scope="module")
def harvested(tmp_path_factory) -> tuple[Store, Features]:
    store = Store(tmp_path_factory.mktemp("export") / "store")
    return store, made.entry(store)


@pytest.fixture(scope="module")
def scored(tmp_path_factory) -> Store:
    store = Store(tmp_path_factory.mktemp("scored") / "store")
    for record in [*suite(), core("topk-other", 20, 0.2, 5, inputs={"model": "m", "text": "another"})]:
        results.write(store, record)
    return store


def packed(store: Store, address: str) -> dict:
    """The answers in the file of a page."""
    found = re.search(r'id="assay-data">(.*?)</script>', exported(address, store=store).html, re.DOTALL)
    assert found
    data = json.loads(found[1])
    assert data["start"] == address
    return data["answers"]


# ---- what is inside ------------------------------------------------------------------------------------------------------------


def test_an_address_is_taken_as_the_browser_shows_it(scored):
    assert exported("http://127.0.0.1:8642/results?at=30", store=scored).address == "/results?at=30"
    assert exported("results", store=scored).address == "/results"
    assert exported("https://there", store=scored).address == "/"


def test_a_selection_is_exported_as_it_is_shown(harvested):
    store, features = harvested
    answers = packed(store, f"/coders/mine?{urlencode(CHOSEN)}")
    columns = features.columns
    wanted = np.flatnonzero((columns["dense"] == 0) & (columns["max"] >= 0.1))
    first = wanted[np.lexsort((wanted, columns["max"][wanted]))][:100]
    table = next(answers[url] for url in answers if "/latents.json" in url)
    assert 100 < table["total"] == len(wanted) < 300
    assert [row["latent"] for row in table["latents"]] == first.tolist()
    scatter = next(url for url in answers if "/scatter.bin" in url)
    assert scatter == "/coders/mine/scatter.bin?x=max"  # no column nope: the page shows what it shows unless asked
    points = np.frombuffer(base64.b64decode(answers[scatter]), "<f4").reshape(3, 300)
    np.testing.assert_array_equal(points[0], columns["max"].astype(np.float32))
    bits = next(answers[url] for url in answers if "/matching.bin" in url)
    assert np.unpackbits(np.frombuffer(base64.b64decode(bits), np.uint8))[:300].sum() == len(wanted)


def test_a_selection_that_the_page_refuses_is_not_exported(harvested):
    with pytest.raises(BadInput, match="No column named 'nope'"):
        exported("/coders/mine?where=nope:1:1", store=harvested[0])


def test_a_comparison_at_an_l0_is_exported_with_the_settings_that_are_shown(scored):
    all_ = TestClient(create(Shelf(scored)), base_url="http://127.0.0.1").get("/results.json").json()
    key = next(p["y"] for p in all_["presets"] if p["y"] != "l0")
    own = [s for s in all_["settings"] if s["eval"] == key.split("/")[0]]
    assert any(not s["chosen"] for s in own)
    answers = packed(scored, f"/results?at=30.0&y={key}")
    marked = ",".join(s["hex"] for s in own if s["chosen"])
    asked = export.address("/results/at_l0.json", {"key": key, "at": "30", "settings": marked})
    assert answers[asked] and set(answers) == {"/results.json", asked}
    other = next(s for s in own if not s["chosen"])
    replaced = [
        s["hex"] for i, s in enumerate(all_["settings"]) if i in export.shown_settings(all_["settings"], [other["hex"][:8]])
    ]
    assert other["hex"] in replaced and len(replaced) == sum(s["chosen"] for s in all_["settings"])
    finer = next(key for one in all_["evals"] for key in one["finer"])
    assert export.address("/results/column.json", {"key": finer}) in packed(scored, f"/results?{urlencode({'y': finer})}")


@pytest.mark.parametrize(
    ("text", "number"), [("30", "30"), ("0.5", "0.5"), ("3e1", "30"), ("-1", ""), ("inf", ""), ("x", ""), ("", "")]
)
def test_numbers_are_written_as_the_pages_write_them(text, number):
    assert export.positive(text) == number


# ---- in a browser --------------------------------------------------------------------------------------------------------------


def seen(page) -> int:
    """The row at the upper edge of the table."""
    return page.get_by_test_id("table").evaluate("t => Math.round(t.scrollTop / 30)")


def scroll(page, row: int, y: int) -> None:
    """The table to a row and the page to a height, and both at rest."""
    page.get_by_test_id("table").evaluate(f"t => t.scrollTop = {30 * row}")
    page.evaluate(f"scrollTo(0, {y})")
    page.get_by_test_id("table").locator(f"[aria-rowindex='{row + 4}'] a").first.wait_for()
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def at(page, row: int | None, y: int) -> None:
    """Waits until the page stands there."""
    page.wait_for_function(f"() => Math.abs(scrollY - {y}) < 3")
    if row is not None:
        page.get_by_test_id("table").locator(f"[aria-rowindex='{row + 4}'] a").first.wait_for()
        assert abs(seen(page) - row) <= 1


@pytest.mark.slow
def test_going_back_leads_to_where_the_reader_was(harvested, page):
    with running(create(Shelf(harvested[0]))) as address:
        page.goto(f"{address}/coders/mine")
        page.get_by_test_id("total").get_by_text("300 of 300").wait_for()
        scroll(page, 200, 350)
        page.get_by_test_id("table").locator("[aria-rowindex='205'] a").first.click()
        page.get_by_test_id("logits").wait_for()
        at(page, None, 0)
        page.evaluate("scrollTo(0, 240)")
        page.get_by_test_id("next").evaluate("link => link.click()")
        page.wait_for_function("() => scrollY === 0")
        page.go_back()
        page.get_by_test_id("logits").wait_for()
        at(page, None, 240)
        page.go_back()
        at(page, 200, 350)
        page.reload()
        at(page, 200, 350)
        page.go_forward()
        at(page, None, 240)
        page.go_back()
        page.mouse.wheel(0, -5000)  # whoever scrolls is left alone
        page.wait_for_timeout(500)
        assert page.evaluate("scrollY") < 350


@pytest.mark.slow
def test_going_back_undoes_one_choice(harvested, page):
    with running(create(Shelf(harvested[0]))) as address:
        page.goto(f"{address}/coders")
        page.get_by_test_id("coders").get_by_role("link", name="mine", exact=True).click()
        total = page.get_by_test_id("total")
        total.get_by_text("300 of 300").wait_for()
        for name in ("dense", "active"):
            page.get_by_role("button", name=name, exact=True).click()
            page.get_by_role("button", name=name, exact=True, pressed=True).wait_for()
        field = page.get_by_test_id("filter-token")
        for letter in "th":  # slower than the table waits, faster than a pause
            field.press(letter)
            page.wait_for_timeout(400)
        assert "token=th" in page.url and "dead%3A0" in page.url
        page.go_back()
        page.wait_for_function("() => !location.search.includes('token')")
        assert field.input_value() == "" and "dead%3A0" in page.url
        page.go_back()
        page.get_by_role("button", name="active", exact=True, pressed=False).wait_for()
        assert page.get_by_role("button", name="dense", exact=True).get_attribute("aria-pressed") == "true"
        page.go_back()
        total.get_by_text("300 of 300").wait_for()
        assert page.url.endswith("/coders/mine")
        page.go_back()
        page.get_by_test_id("coders").wait_for()


@pytest.mark.slow
def test_going_back_undoes_a_tick_in_the_results(scored, page):
    with running(create(Shelf(scored))) as address:
        page.goto(f"{address}/results")
        front = page.get_by_label("Pareto front")
        front.check()
        page.get_by_label("lines", exact=True).uncheck()
        assert "front=1" in page.url and "lines=0" in page.url
        page.go_back()
        page.wait_for_function("() => !location.search.includes('lines')")
        assert front.is_checked() and page.get_by_label("lines", exact=True).is_checked()
        page.go_back()
        page.wait_for_function("() => location.search === ''")
        assert not front.is_checked()


@pytest.mark.slow
def test_an_address_that_is_no_text_says_so(store, page):
    with running(create(Shelf(store))) as address:
        page.goto(f"{address}/coders/%E0%A4%A")
        page.get_by_role("heading", name="No such page").wait_for()


@pytest.mark.slow
def test_a_page_saves_itself_as_it_stands(harvested, page, tmp_path):
    store, _ = harvested
    with running(create(Shelf(store))) as address:
        page.goto(f"{address}/coders")
        page.get_by_test_id("coders").wait_for()
        assert not page.get_by_test_id("as-file").count()
        page.goto(f"{address}/coders/mine?{urlencode(CHOSEN)}")
        page.get_by_test_id("total").get_by_text(re.compile(r"\d+ of 300 latents")).wait_for()
        shown = page.get_by_test_id("total").inner_text().split()[0]
        first = page.get_by_test_id("table").locator("[aria-rowindex='2'] a").first.inner_text()
        with page.expect_download() as saved:
            page.get_by_test_id("as-file").click()
        saved.value.save_as(tmp_path / "page.html")
    page.goto((tmp_path / "page.html").as_uri())
    page.get_by_test_id("kept").get_by_text(
        f"The first 100 of {shown} latents with dense 0, max from 0.1 to any, smallest max first"
    ).wait_for()
    assert page.get_by_test_id("table").locator("[aria-rowindex='2'] a").first.inner_text() == first
    page.wait_for_function("() => Number(document.querySelector('[data-testid=scatter]').dataset.drawn) > 100")
    assert not page.get_by_role("alert").count() and not page.get_by_test_id("as-file").count()
    page.get_by_role("link", name="Evals", exact=True).click()  # within the page
    assert page.get_by_role("heading", name="mine").count()


@pytest.mark.slow
def test_a_comparison_at_an_l0_is_in_the_file(scored, page, tmp_path):
    file = exported("/results?at=30", store=scored).save(tmp_path / "page.html")
    page.goto(file.as_uri())
    page.get_by_test_id("at-l0").locator("li").first.wait_for()
    assert not page.get_by_role("alert").count()


@pytest.fixture
def listed(store, tmp_path) -> Path:
    """A list of two latents as a file."""
    made.entry(store)
    notes = Notes(store)
    mine = notes.new_list("two")
    for latent in (5, 7):
        notes.add(mine.id, "mine", latent)
    return exported(f"/lists/{mine.id}", store=store).save(tmp_path / "list.html")


@pytest.mark.slow
@pytest.mark.parametrize("frame", [False, True], ids=["file", "notebook"])
def test_going_back_within_an_exported_list(listed, page, tmp_path, frame):
    home = page
    if frame:
        notebook = tmp_path / "notebook.html"
        notebook.write_text(f"<body>{export_frame(listed)}</body>")
        page.goto(notebook.as_uri())
        home = page.frames[1]
    else:
        page.goto(listed.as_uri())
    home.get_by_role("link", name="mine 7", exact=True).click()
    home.get_by_text("Latent 7 of mine").wait_for()
    home.evaluate("history.back()")
    home.get_by_role("link", name="mine 5", exact=True).click()
    home.get_by_text("Latent 5 of mine").wait_for()
    if not frame:
        page.reload()
        home.get_by_text("Latent 5 of mine").wait_for()
        assert page.url.endswith("#/coders/mine/latents/5")


def export_frame(file: Path) -> str:
    """What a notebook shows of a page."""
    from assay.web.page import Page

    return Page("/lists/1", file.read_text())._repr_html_()
