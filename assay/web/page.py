"""page: a page of the application as one file, from Python: `assay.page("/coders/topk/latents/7", store="demo-store")`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from urllib.parse import urlsplit

from assay.store import Store, write_atomic


@dataclass(frozen=True)
class Page:
    """A page that opens without a server. A notebook shows it; `save` writes it."""

    address: str
    html: str = field(repr=False)
    height: int = 700
    """Pixels, in a notebook."""

    def save(self, path: str | Path) -> Path:
        """Write it into a file, which any browser opens."""
        write_atomic(Path(path), self.html)
        return Path(path)

    def _repr_html_(self) -> str:
        frame = f"width:100%;height:{self.height}px;border:1px solid #8888;border-radius:6px"
        return f'<iframe title="{escape(self.address)}" style="{frame}" srcdoc="{escape(self.html)}"></iframe>'


def page(address: str, *, store: str | Path | Store | None = None, height: int = 700) -> Page:
    """The page at an address of `assay serve` (`/results`, `/coders/NAME`, `/coders/NAME/latents/ID`, `/lists/ID`), as one file.

    `address`: as it stands in the browser; a server in front of it is left out. `store`: else `ASSAY_STORE`, else ./assay-store. `BadInput` or `UnknownName` where there is no such page.
    """
    from assay.web import export
    from assay.web.app import create
    from assay.web.shelf import Shelf

    if not isinstance(store, Store):
        store = Store(store or os.environ.get("ASSAY_STORE") or "assay-store", create=False)
    parts = urlsplit(address)
    if parts.scheme in ("http", "https"):
        address = parts._replace(scheme="", netloc="", path=parts.path or "/").geturl()
    address = address if address.startswith("/") else f"/{address}"
    return Page(address, export.html(create(Shelf(store)), address), height)
