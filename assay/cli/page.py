"""assay page: write a page of `assay serve` as one HTML file, which opens anywhere without a server.

For example:
    assay page /coders/topk/latents/123 --output latent.html
    assay page /coders/topk --output topk.html         a coder's summary
    assay page /results --output results.html          the results explorer
    assay page /lists/1 --output list.html             a list, with the pages of its latents

The address is the one in the browser, with or without the server. Nothing is fetched from elsewhere when the file is opened.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from assay.cli.flags import COMMON, Common, about
from assay.cli.output import print_json
from assay.cli.source import open_store

app = App(name="page", help=about(__doc__))


@app.default
def page(address: str, /, *, output: Annotated[Path, Parameter(metavar="FILE")], common: Common = COMMON) -> None:
    """
    Parameters
    ----------
    address
        /results, /coders/NAME, /coders/NAME/latents/ID, /lists/ID, /compare?a=NAME&b=NAME.
    output
        The file to write.
    """
    from assay.web.page import page as made

    written = made(address, store=open_store(common, create=False)).save(output)
    if common.json:
        print_json({"page": address, "path": str(written), "bytes": written.stat().st_size})
    elif not common.quiet:
        print(f"{written} ({written.stat().st_size / 1e6:.2f} MB)")
