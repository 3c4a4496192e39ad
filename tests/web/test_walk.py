"""A walk through every page on a real store: `assay demo`, smaller, with the real model live.

On the way: what a person would see, accessibility (axe), a phone's width, dark colours; and pages exported as single files.
"""

from __future__ import annotations

import re

import pytest
from filelock import FileLock

from assay import demo, models
from assay.notes import Notes
from assay.store import Store
from assay.web.app import create
from assay.web.page import page as exported
from assay.web.shelf import Shelf
from tests.web.serving import running

SMALL = demo.DemoConfig(
    tokens=12_000, passes=4, d_sae=512, eval_tokens=1500, probing="probe:97", probing_train=60, probing_test=40
)
PAGES = (
    "/",
    "/results",
    "/training",
    "/coders",
    "/coders/topk",
    "/coders/topk/latents/{latent}",
    "/live",
    "/compare?a=topk&b=relu",
    "/ratings",
    "/lists",
)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    """Made once, however many processes the tests run in."""
    root = tmp_path_factory.getbasetemp().parent / "walk"
    with FileLock(root.with_suffix(".lock")):
        found = Store(root / "demo-store")
        demo.run(found, SMALL)
    return found


@pytest.fixture(scope="module")
def walked(store):
    with running(create(Shelf(store, models.load("smollm2")))) as address:
        yield address


def violations(page) -> list[str]:
    """What axe finds wrong on a page."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [f"{v['id']}: {v['nodes'][0]['target']} {v['nodes'][0]['html'][:120]}" for v in found]


def settled(page) -> None:
    """Until nothing is loading any more."""
    page.wait_for_load_state("networkidle", timeout=60_000)  # a comparison is computed meanwhile
    page.locator("[aria-busy=true]").first.wait_for(state="detached")


def busiest(store: Store) -> int:
    import assay.features as features

    return int(features.open(store, "topk").select("density", where=[features.Where("density", high=0.1)])[0][0])


def test_from_the_explorer_to_steering(store, walked, page, picture):
    page.goto(f"{walked}/")
    page.get_by_test_id("coders").get_by_text("topk").first.wait_for()
    picture(page, "overview")
    page.get_by_role("link", name="Results", exact=True).click()
    page.get_by_text(re.compile(r"\d+ of \d+ coders")).wait_for()
    settled(page)
    picture(page, "results")
    page.get_by_role("link", name="topk", exact=True).first.click()
    page.wait_for_url("**/coders/topk")
    page.get_by_test_id("total").get_by_text("512 of 512 latents").wait_for()
    page.wait_for_function("() => Number(document.querySelector('[data-testid=scatter]').dataset.drawn) > 400")
    settled(page)
    picture(page, "coder")
    page.get_by_test_id("table").locator("a[href*='/latents/']").first.click()
    page.wait_for_url("**/coders/topk/latents/*")
    page.get_by_test_id("example").first.locator(".token").first.wait_for()
    page.goto(f"{walked}/coders/topk/latents/{busiest(store)}")
    page.get_by_test_id("logits").wait_for()
    settled(page)
    picture(page, "latent")
    page.get_by_role("link", name="steer it").click()
    page.wait_for_url("**/live?*")
    page.get_by_test_id("text").fill("The film was a complete waste of")
    page.get_by_test_id("show").click()
    page.locator("a[href*='/latents/']").first.wait_for()
    page.get_by_test_id("new-tokens").fill("4")
    page.get_by_test_id("generate").click()
    for side in ("plain", "steered"):
        page.get_by_test_id(side).locator(".token").nth(3).wait_for(timeout=60_000)
    picture(page, "live")
    page.go_back()
    page.wait_for_url("**/latents/*")


@pytest.mark.parametrize("look", ["light", "dark", "phone"])
def test_every_page_can_be_read(store, walked, page, picture, look):
    if look == "phone":
        page.set_viewport_size({"width": 360, "height": 780})
    page.emulate_media(color_scheme="dark" if look == "dark" else "light")
    for path in (one.format(latent=busiest(store)) for one in PAGES):
        page.goto(walked + path)
        settled(page)
        assert page.locator("h1").first.inner_text().strip(), path
        assert not page.get_by_role("alert").count(), (path, page.get_by_role("alert").first.inner_text())
        assert violations(page) == [], path
        if look == "phone":
            assert page.evaluate("document.documentElement.scrollWidth") <= 360, f"{path} is wider than a phone"
        picture(page, f"{look}-{re.sub(r'[^a-z]+', '-', path.split('?')[0]).strip('-') or 'overview'}")


def test_exported_pages_open_without_a_server(store, page, tmp_path):
    latent = busiest(store)
    notes = Notes(store)
    kept = notes.new_list("waste")
    notes.add(kept.id, "topk", latent)
    for path, seen in {
        "/results": re.compile(r"\d+ of \d+ coders"), "/coders/topk": "The 100 latents", f"/coders/topk/latents/{latent}": f"Latent {latent} of topk",
        "/compare?a=topk&b=relu": "mean largest cosine", f"/lists/{kept.id}": "waste",
    }.items():  # fmt: skip
        file = exported(path, store=store).save(tmp_path / "page.html")
        page.goto(file.as_uri())
        page.get_by_text(seen).first.wait_for()
        assert not page.get_by_role("alert").count(), (path, page.get_by_role("alert").first.inner_text())
    page.get_by_role("link", name=str(latent)).first.click()  # a latent of the list, in the same file
    page.get_by_text(f"Latent {latent} of topk").first.wait_for()
