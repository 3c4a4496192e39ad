"""assay serve: look inside the store in the browser: results, coders, latents, comparisons, and a live model.

For example:
    assay serve demo-store
    assay serve demo-store --live smollm2         type text, see latents, steer
    assay serve --port 0 --open                   any free port; opens the browser

Pages are on this machine only, http://127.0.0.1:8642, unless --host says otherwise: then a token is needed, which the printed link
carries. The data of every page is JSON at the page's address plus .json. The pages write labels, ratings and lists to
notes.sqlite in the store, and nothing else. Ctrl-C stops it.
"""

from __future__ import annotations

import secrets
import socket
import webbrowser
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from assay.cli.flags import COMMON, MACHINE, Common, Machine, about
from assay.cli.output import note
from assay.errors import BadInput, Unavailable

app = App(name="serve", help=about(__doc__))


@app.default
def serve(
    where: Annotated[Path | None, Parameter(show_default=False)] = None,
    /,
    *,
    live: Annotated[str | None, Parameter(metavar="MODEL")] = None,
    model_dtype: str | None = None,
    accept_terms: Annotated[bool, Parameter(negative="")] = False,
    port: int = 8642,
    host: str = "127.0.0.1",
    token: str | None = None,
    open: Annotated[bool, Parameter(negative="")] = False,
    machine: Machine = MACHINE,
    common: Common = COMMON,
) -> None:
    """
    Parameters
    ----------
    where
        The store, as with --store.
    live
        Model behind the live pages: smollm2, a directory, a hub id. Left out: those pages say how to have one.
    model_dtype
        Number type of the live model. Left out: what its checkpoint says.
    accept_terms
        Accept the terms of a model that has some (gemma3-270m).
    port
        Where to listen; 0 takes any free port.
    host
        Address to listen at. Anything but this machine itself needs a token.
    token
        What a visitor must have. Left out: none on this machine, a new one elsewhere.
    open
        Open the browser.
    """
    import uvicorn

    from assay.store import Store
    from assay.web import guard
    from assay.web.app import create
    from assay.web.shelf import Shelf

    store = Store(where or common.store or "assay-store", create=False)
    model = None
    if live is not None:
        from assay.models import load

        model = load(live, dtype=model_dtype, device=machine.torch_device(), accept_terms=accept_terms)
    here, everywhere = host in ("127.0.0.1", "localhost", "::1"), host in ("0.0.0.0", "::")
    token = token or (None if here else secrets.token_urlsafe(16))
    listening = _listen(host, port)
    address = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}/" + (
        f"?token={token}" if token else ""
    )
    names = () if here else ("*",) if everywhere else (host, socket.gethostname(), socket.getfqdn())
    application = create(Shelf(store, model), hosts=(*guard.LOCAL, *names), token=token)
    note(f"{store.root} is shown at {address}   (Ctrl-C stops)", common)
    if open:
        webbrowser.open(address)
    server = uvicorn.Server(uvicorn.Config(application, log_level="warning", timeout_graceful_shutdown=2))
    server.run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    """A socket that is bound, so that a taken port is said at once and a free one is known."""
    if not 0 <= port <= 65535:
        raise BadInput(f"--port is {port}; ports are 1 to 65535, and 0 takes any free one.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
    except OSError as error:
        found.close()
        raise Unavailable(
            f"Cannot listen at {host}, port {port}: {error.strerror}. Choose another with --port or --host."
        ) from None
    return found
