"""A real server over a real store, and a real browser. Without a browser its tests are skipped, unless ASSAY_BROWSER=required."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """The system's Chromium, or Playwright's own."""
    required = os.environ.get("ASSAY_BROWSER") == "required"
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        if required:
            raise
        pytest.skip("playwright is not installed")
    system = next((found for name in CHROMIUM if (found := shutil.which(name))), None)
    with sync_playwright() as playwright:
        try:
            found = playwright.chromium.launch(executable_path=system, args=["--no-sandbox", "--disable-background-networking"])
        except Error as error:
            if required:
                raise
            pytest.skip(
                f"no browser: install Debian's chromium, or `playwright install chromium` ({str(error).splitlines()[0]})"
            )
        yield found
        found.close()


@pytest.fixture
def page(browser) -> Iterator[Any]:
    """An empty page, 1280 by 900; what the page's own scripts complain of fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(10_000)
    found, complaints = context.new_page(), []
    found.on("pageerror", lambda error: complaints.append(str(error)))
    found.on("console", lambda m: complaints.append(m.text) if m.type == "error" and "status of 4" not in m.text else None)
    yield found
    context.close()
    assert not complaints, complaints


@pytest.fixture(scope="session")
def picture() -> Callable[[Any, str], None]:
    """Keeps a screenshot where ASSAY_SCREENSHOTS says; nowhere otherwise."""
    folder = os.environ.get("ASSAY_SCREENSHOTS")

    def take(page: Any, name: str) -> None:
        if folder:
            page.screenshot(path=Path(folder) / f"{name}.png")

    return take
