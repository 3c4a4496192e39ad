"""How long the pages' data take over a store with 65,536 latents and 10 million tokens.

    python -m benchmarks web               the table in docs/web.md is written anew
    python -m benchmarks web --tiny        a trial in seconds, printed only
    python -m benchmarks web --keep DIR    the store is kept in DIR, and used again where it is there: `assay serve DIR`

Requests go through the whole application, compression too, but not through a socket. `first` is the first request of its kind after
the server has started (files are opened, columns read); `then` the median of the next.
"""

from __future__ import annotations

import argparse
import re
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import _harvested
from benchmarks._rounds import ROOT, machine

PAGE = ROOT / "docs" / "web.md"
LATENTS, TOKENS = 65_536, 10_000_000
LIMIT = 0.2
"""Seconds that an answer may take."""
AT = f"/coders/{_harvested.NAME}"
ENDPOINTS: dict[str, str] = {
    "overview": "/index.json",
    "all coders": "/coders.json",
    "a coder": f"{AT}.json",
    "latents by density": f"{AT}/latents.json",
    "… another order, far down": f"{AT}/latents.json?sort=max&descending=false&offset=60000",
    "… three ranges": f"{AT}/latents.json?where=density:1e-5:1e-2,max:5:,cosine::0.8&sort=purity",
    "… peak token": f"{AT}/latents.json?token=the",
    "… tokens it raises": f"{AT}/latents.json?promotes=%22%20the%22",
    "scatter of all latents": f"{AT}/scatter.bin",
    "… of other columns": f"{AT}/scatter.bin?x=density&y=max&colour=cosine",
    "which latents fit": f"{AT}/matching.bin?where=density:1e-5:1e-2,max:5:",
    "a latent": f"{AT}/latents/77.json",
    "… any": f"{AT}/latents/random.json",
    "a document around an example": f"{AT}/latents/77/document.json?position=5000",
    "where a phrase stands and it is silent": f"{AT}/latents/77/silent.json?query=the",
    "… a regular expression on tokens": f"{AT}/latents/77/silent.json?query=^%20th&regex=true",
    "lists, labels, ratings": "/lists.json",
}
"""What is asked for. A page with a new endpoint adds a line."""


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks web", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="512 latents, 20,000 tokens; writes nothing")
    parser.add_argument("--keep", type=Path, help="where the store stays")
    asked = parser.parse_args(arguments)
    size = (512, 20_000) if asked.tiny else (LATENTS, TOKENS)
    with tempfile.TemporaryDirectory() as scratch:
        found = measure(asked.keep or Path(scratch) / "store", *size)
    content = table(found, size)
    print(content)
    if not asked.tiny:
        text = PAGE.read_text(encoding="utf-8")
        text, count = re.subn(r"(<!-- times -->\n).*?(<!-- end -->)", lambda m: m[1] + content + m[2], text, flags=re.DOTALL)
        assert count == 1, f"{PAGE} has no place for the times"
        PAGE.write_text(text, encoding="utf-8")


def measure(root: Path, d_sae: int, n_tokens: int, rounds: int = 7) -> dict[str, dict[str, Any]]:
    """Seconds and bytes of each endpoint, over a made-up store in `root`."""
    from fastapi.testclient import TestClient

    from assay.store import Store
    from assay.web.app import create
    from assay.web.shelf import Shelf

    store = Store(root)
    if not store.names("features"):
        _harvested.make(store, d_sae, n_tokens)
    client = TestClient(create(Shelf(store)), base_url="http://127.0.0.1")
    return {name: timed(client, url, rounds) for name, url in ENDPOINTS.items()}


def timed(client: Any, url: str, rounds: int) -> dict[str, Any]:
    """One endpoint: the first request, the median and the fastest of the others, bytes as they are sent."""
    seconds, sent = [], 0
    for _ in range(1 + rounds):
        start = time.perf_counter()
        with client.stream("GET", url) as answer:
            sent = sum(len(part) for part in answer.iter_raw())
        seconds.append(time.perf_counter() - start)
        assert answer.status_code == 200, f"{url}: {answer.status_code}"
    return {"first": seconds[0], "then": statistics.median(seconds[1:]), "best": min(seconds[1:]), "bytes": sent, "url": url}


def table(found: Mapping[str, Mapping[str, Any]], size: tuple[int, int]) -> str:
    """The figures as Markdown."""
    about = machine()
    lines = ["| answer | first, ms | then, ms | kB sent |", "| --- | ---: | ---: | ---: |"]
    lines += [f"| {n} | {1e3 * f['first']:.0f} | {1e3 * f['then']:.1f} | {f['bytes'] / 1e3:.0f} |" for n, f in found.items()]
    where = f"{size[0]:,} latents, {size[1]:,} tokens; {about['processor']}, {about['cores']} cores, {about['date']}."
    return "\n".join([*lines, "", f"{where} Measured by `python -m benchmarks web`."]) + "\n"
