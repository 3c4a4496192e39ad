"""export: a page as one file that opens anywhere, without a server: the built pages in one, and the answers that this one asks for."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse

from assay.errors import BadInput, MissingFile

router = APIRouter(tags=["export"])

PLACE = "</head>"


COMPANIONS = {
    r"": ("/results.json",),
    r"/coders/[^/]+": ("/training.json", "/scatter.bin", "/latents.json?offset=0&limit=100"),
}
"""What a page asks for beside its own data, when it is opened without a choice in its address."""
COMPARE = "/compare"
WAIT = 20
"""Seconds that a comparison's answer is waited for at once; it is asked for until it is there."""


def asked(page: str) -> list[str]:
    """Addresses of the data that a page shows."""
    parts = urlsplit(page)
    path = parts.path.rstrip("/")
    if path == COMPARE:
        which = parts.query
        return [
            f"/compare.json?{which}",
            "/coders.json",
            f"/compare/latents.json?{which}&offset=0&limit=100",
            f"/compare/scores.json?{which}",
        ]
    beside = (path + more for pattern, found in COMPANIONS.items() if re.fullmatch(pattern, path) for more in found)
    return [f"{path or '/index'}.json", *beside]


@router.get("/export.html", response_class=HTMLResponse)
def export(request: Request, page: str) -> HTMLResponse:
    """A page as one file: `/export.html?page=/coders/topk/latents/7`."""
    name = re.sub(r"[^A-Za-z0-9._=+-]+", "-", urlsplit(page).path).strip("-") or "overview"
    return HTMLResponse(html(request.app, page), headers={"Content-Disposition": f'attachment; filename="{name}.html"'})


def html(app: FastAPI, start: str) -> str:
    """The page at `start` (`/coders/topk/latents/7`), with the answers it asks for; of a list, with the pages of its latents."""
    if not re.fullmatch(r"/[^\s\\]*", start) or start.startswith("//"):
        raise BadInput(f"{start!r} is no page of this site. Give its address as in the browser, e.g. /coders/topk/latents/7.")
    template = app.state.static / "single" / "index.html"
    if not template.exists():
        raise MissingFile("The pages were not built: run `make web` in the repository (needs Node 20).")
    answers: dict[str, Any] = {}
    for page in [start, *linked(app, start)]:
        own, *companions = asked(page)
        answers[own] = answer(app, own)
        for url in companions:
            with suppress(BadInput):  # a coder without a harvest, or without training curves: its page says so
                answers[url] = answer(app, url)
    return inlined(template.read_text(encoding="utf-8"), start, answers)


def linked(app: FastAPI, page: str) -> list[str]:
    """Pages that go along with one: of a list, its latents."""
    if not re.fullmatch(r"/lists/\d+", urlsplit(page).path):
        return []
    entries = (line["entry"] for line in answer(app, asked(page)[0])["entries"] if line["there"])
    return list(dict.fromkeys(f"/coders/{quote(entry['coder'])}/latents/{entry['latent']}" for entry in entries))


def inlined(page: str, start: str, answers: Mapping[str, Any]) -> str:
    """The built page with data in it. Nothing in the data can end the element that it stands in."""
    data = json.dumps({"start": start, "answers": answers}, ensure_ascii=False, separators=(",", ":"))
    safe = data.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    head, found, rest = page.partition(PLACE)
    if not found:
        raise MissingFile("The built page has no head: run `make web` again.")
    return f'{head}<script type="application/json" id="assay-data">{safe}</script>{found}{rest}'


def answer(app: FastAPI, url: str) -> Any:
    """What the application answers to a GET, in the end: JSON as it is, bytes in base64. Raises the refusal as `BadInput`."""
    if not url.startswith(COMPARE):
        return _answer(app, url)
    while True:
        found = _answer(app, url if "/latents.json" in url else f"{url}&wait={WAIT}")
        if None not in (found.get("found", 0), found.get("evals", 0)):
            return found


def _answer(app: FastAPI, url: str) -> Any:
    with ThreadPoolExecutor(1) as apart:  # a notebook's own thread has a loop that runs already
        status, body = apart.submit(lambda: asyncio.run(_ask(app, url))).result()
    if status != 200:
        try:
            said = json.loads(body)["message"]
        except (ValueError, KeyError, TypeError):
            said = "there is no such page" if status == 422 else f"status {status}"
        raise BadInput(f"{url} cannot be exported: {said}")
    return base64.b64encode(body).decode() if urlsplit(url).path.endswith(".bin") else json.loads(body)


async def _ask(app: FastAPI, url: str) -> tuple[int, bytes]:
    parts = urlsplit(url)
    headers = [(b"host", b"localhost"), (b"authorization", f"Bearer {app.state.token}".encode())]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http", "path": unquote(parts.path),
        "raw_path": parts.path.encode(), "query_string": parts.query.encode(), "root_path": "", "headers": headers,
        "server": ("localhost", 80), "client": ("127.0.0.1", 0),
    }  # fmt: skip
    status, body = 500, b""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        nonlocal status, body
        if message["type"] == "http.response.start":
            status = message["status"]
        else:
            body += message.get("body", b"")

    await app(scope, receive, send)
    return status, body
