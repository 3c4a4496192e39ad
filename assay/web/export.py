"""export: a page as one file that opens anywhere, without a server: the built pages in one, and the answers that this one asks for."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse

from assay.errors import BadInput, MissingFile

router = APIRouter(tags=["export"])

PLACE = "</head>"


COMPARE = "/compare"
WAIT = 20
"""Seconds that a comparison's answer is waited for at once; it is asked for until it is there."""
ROWS = {"offset": "0", "limit": "100"}
"""What of a table goes along."""


def asked(app: FastAPI, page: str) -> dict[str, Any]:
    """All that a page asks for as it stands at this address, and the answers. Mirrors what the pages in web-ui/src ask for."""
    path = urlsplit(page).path.rstrip("/")
    query = {name: values[0] for name, values in parse_qs(urlsplit(page).query).items()}
    own = address(path + ".json", chosen(query, "a", "b", "at")) if path == COMPARE else f"{path or '/index'}.json"
    answers = {own: answer(app, own)}
    for pattern, beside in BESIDE.items():
        if re.fullmatch(pattern, path):
            answers |= {url: answer(app, url) for url in beside(path, query, answers[own])}
    return answers


def overview(path: str, query: Query, own: Any) -> Iterator[str]:
    """Beside the overview's own data: the first plot's."""
    yield "/results.json"


def coder(path: str, query: Query, own: Any) -> Iterator[str]:
    """Beside a coder's own data: curves, points, and the table as it is cut down and sorted."""
    if own["trained"]:
        yield f"{path}/training.json"
    if own["latents"] is None:
        return
    known = {column["name"] for column in own["latents"]["columns"]}
    axes = {name: value for name, value in chosen(query, "x", "y", "colour").items() if value in known}
    yield address(f"{path}/scatter.bin", {name: value for name, value in axes.items() if value != USUAL[name]})
    filters = chosen(query, "where", "token", "promotes", "label", "list")
    if filters:
        yield address(f"{path}/matching.bin", filters)
    yield address(f"{path}/latents.json", filters | ordered(query, "density") | ROWS)


def results(path: str, query: Query, own: Any) -> Iterator[str]:
    """Beside all results: scores of single datasets on the axes, and the comparison at an L0."""
    columns = {quantity["key"] for one in own["evals"] for quantity in one["quantities"]}
    first = [preset["y"] for preset in own["presets"]] + [q["key"] for one in own["evals"] for q in one["quantities"]] + ["l0"]
    x, y = ("l0" if query.get(name) == "core/l0" else query.get(name, "") for name in "xy")
    y = y or first[0]
    x = x or ("d_sae" if y == "l0" else "l0")
    for key in dict.fromkeys((x, y)):
        if key not in columns and key not in {fact["key"] for fact in own["facts"]}:
            yield address("/results/column.json", {"key": key})
    at = positive(query.get("at", ""))
    if at and "/" in y:
        shown = shown_settings(own["settings"], query.get("setting", "").split(","))
        hexes = [s["hex"] for i, s in enumerate(own["settings"]) if i in shown and s["eval"] == y.split("/")[0]]
        yield address("/results/at_l0.json", {"key": y, "at": at, "settings": ",".join(hexes)})


def shown_settings(settings: Sequence[Any], wanted: Sequence[str]) -> set[int]:
    """Places of the settings that are shown: one of each eval, model, site and maker; one that is wanted, else the one marked."""
    best: dict[tuple[Any, ...], tuple[int, int]] = {}
    for i, one in enumerate(settings):
        meant = any(len(digits) >= 4 and one["hex"].startswith(digits) for digits in wanted)
        rank, maker = 2 if meant else int(one["chosen"]), (one["eval"], one["model"], one["site"], one["origin"])
        if rank > best.get(maker, (-1, 0))[0]:
            best[maker] = (rank, i)
    return {i for _, i in best.values()}


def compare(path: str, query: Query, own: Any) -> Iterator[str]:
    """Beside a comparison's own data: names to choose from, the table as it is cut down and sorted, scores, two latents."""
    both = chosen(query, "a", "b")
    kinds = {name: value for name, value in chosen(query, "kind", "low", "high").items() if value != "all"}
    yield "/coders.json"
    yield address("/compare/latents.json", both | chosen(query, "at") | kinds | ordered(query, "cosine") | ROWS)
    yield address("/compare/scores.json", both)
    pair = re.fullmatch(r"(\d+)-(\d+)", query.get("pair", ""))
    if pair and own["found"]["a"]["harvested"] and own["found"]["b"]["harvested"]:
        yield from (f"/coders/{quote(both[side])}/latents/{i}.json" for side, i in zip("ab", pair.groups(), strict=True))


Query = Mapping[str, str]
USUAL = {"x": "x", "y": "y", "colour": "density"}
"""What a coder's scatter shows where the address does not say."""
BESIDE: dict[str, Callable[[str, Query, Any], Iterator[str]]] = {
    "": overview, "/results": results, "/coders/[^/]+": coder, COMPARE: compare,
}  # fmt: skip
"""What pages ask for beside their own data: (path, query, own data) → addresses."""


def chosen(query: Query, *names: str) -> dict[str, str]:
    """Those of some parameters that the address has."""
    return {name: query[name] for name in names if name in query}


def ordered(query: Query, usual: str) -> dict[str, str]:
    """How a table is sorted, as its data are asked for."""
    sort = {"sort": query["sort"]} if query.get("sort", usual) != usual else {}
    return sort | ({} if query.get("order", "down") == "down" else {"descending": "false"})


def address(path: str, query: Query) -> str:
    return f"{path}?{urlencode(query)}" if query else path


def positive(text: str) -> str:
    """A number above 0 as JavaScript writes it; "" for anything else."""
    try:
        value = float(text)
    except ValueError:
        return ""
    return f"{value!r}".removesuffix(".0") if 0 < value < math.inf else ""


@router.get("/export.html", response_class=HTMLResponse)
def export(request: Request, page: str) -> HTMLResponse:
    """A page as one file: `/export.html?page=/coders/topk/latents/7`."""
    name = re.sub(r"[^A-Za-z0-9._=+-]+", "-", urlsplit(page).path).strip("-") or "overview"
    return HTMLResponse(html(request.app, page), headers={"Content-Disposition": f'attachment; filename="{name}.html"'})


def html(app: FastAPI, start: str) -> str:
    """The page at `start` (`/coders/topk?where=dense:1:1`), with the answers it asks for; of a list, with the pages of its latents."""
    if not re.fullmatch(r"/[^\s\\]*", start) or start.startswith("//"):
        raise BadInput(f"{start!r} is no page of this site. Give its address as in the browser, e.g. /coders/topk/latents/7.")
    template = app.state.static / "single" / "index.html"
    if not template.exists():
        raise MissingFile("The pages were not built: run `make web` in the repository (needs Node 20).")
    answers = {url: found for page in [start, *linked(app, start)] for url, found in asked(app, page).items()}
    return inlined(template.read_text(encoding="utf-8"), start, answers)


def linked(app: FastAPI, page: str) -> list[str]:
    """Pages that go along with one: of a list, its latents."""
    if not re.fullmatch(r"/lists/\d+", urlsplit(page).path):
        return []
    entries = (line["entry"] for line in answer(app, f"{urlsplit(page).path}.json")["entries"] if line["there"])
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
