"""assay push: a coder of the store onto the Hugging Face hub, with a model card made from its manifest and its evals.

For example:
    assay push topk-k32 me/my-saes --card-only there            writes all files into ./there, and uploads nothing
    assay push topk-k32 me/my-saes --licence mit
    assay push topk-k32 me/my-saes --path layer_10/k32 --format saelens

The card says what the coder is, how it was trained, what its evals found, with intervals, its licence, and how to load it; results.json
takes the records along, so that `assay import hf:me/my-saes` finds them. Log in first (hf auth login, or HF_TOKEN).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from assay.cli.flags import COMMON, Common, about
from assay.cli.output import note, show
from assay.errors import BadInput

if TYPE_CHECKING:
    from assay.results import Record
    from assay.store import Store

CODER = Parameter(help="A coder's name in the store.")
REPO = Parameter(help="The repository: owner/name. Made where there is none.", metavar="OWNER/NAME")
app = App(name="push", help=about(__doc__))


@app.default
def push(
    coder: Annotated[str, CODER], repo: Annotated[str, REPO], /, *, format: Annotated[str, Parameter(metavar="FORMAT")] = "native",
    licence: str | None = None, path: str = "", private: Annotated[bool, Parameter(negative="")] = False,
    card_only: Annotated[Path | None, Parameter(metavar="DIRECTORY")] = None, message: str | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] | None = None, common: Common = COMMON,
) -> None:  # fmt: skip
    """
    Parameters
    ----------
    format
        native, or a format that `assay export` writes.
    licence
        Of the weights: mit, apache-2.0, cc-by-4.0. Left out, the card says that none was stated.
    path
        Directory in the repository. Left out: its root.
    private
        Make a new repository private.
    card_only
        Write card and files into this new directory, and upload nothing.
    message
        Of the commit.
    dtype
        Number type of the weights, where the format leaves a choice.
    """
    import tempfile

    import torch

    from assay import formats
    from assay.cli.source import open_store
    from assay.releases import upload

    store = open_store(common, create=False)
    place = store.find("coders", coder)
    one, _ = formats.read(place)
    number = getattr(torch, dtype) if dtype else None
    if card_only is not None and card_only.exists() and (not card_only.is_dir() or any(card_only.iterdir())):
        raise BadInput(f"{card_only} is there and not empty. Give --card-only a new directory.")
    with tempfile.TemporaryDirectory() as scratch:
        directory = card_only or Path(scratch) / coder
        made = {"format": format, "licence": licence, "path": path, "dtype": number}
        lost = upload.prepare(directory, one, coder, store.manifest("coders", coder), _records(store, coder), repo, **made)
        files = ", ".join(sorted(p.name for p in directory.iterdir()))
        where = str(directory) if card_only else upload.push(directory, repo, path=path, private=private, message=message)
    row = {"coder": coder, "format": format, "files": files, "in" if card_only else "at": where}
    show([row], common, data=row | {"lost": lost})
    for line in lost:
        note(f"not kept: {line}", common)
    if card_only:
        note("Nothing was uploaded.", common)


def _records(store: Store, name: str) -> list[Record]:
    """The newest records of a coder, and what was published with it."""
    from assay import results
    from assay.releases.published import MARK

    found = [r for r in results.load(store) if r.coder in (name, MARK + name)]
    return results.latest(found)
