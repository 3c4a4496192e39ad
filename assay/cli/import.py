"""assay import: SAEs of other libraries, into the store, where they are evaluated like your own.

For example:
    assay import path/to/sae --name sl-12                SAELens, dictionary_learning, sparsify, Gemma Scope, OpenAI
    assay import average_l0_82/params.npz --name gs-12 --model google/gemma-2-2b --site resid_post.12
    assay eval core sl-12 --corpus demo                  model and site are as the files say

The format is found out from the files; nothing in them is executed. What they say of model, site and rows of text is kept, and where
the coder is from: path, sha256, format, version. `assay eval` and `assay export` also take a path in place of a name.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from assay.cli.flags import AGAIN, COMMON, Again, Common, about
from assay.cli.output import note, show
from assay.errors import BadInput

if TYPE_CHECKING:
    from assay.coders.base import SparseCoder
    from assay.store import Store

app = App(name="import", help=about(__doc__))


@app.default
def import_(
    path: Path, /, *, name: str, format: Annotated[str | None, Parameter(metavar="FORMAT")] = None, scale: float | None = None,
    k: int | None = None, model: str | None = None, site: str | None = None, again: AGAIN = "missing", common: Common = COMMON,
) -> None:  # fmt: skip
    """
    Parameters
    ----------
    path
        Directory or file of the coder.
    name
        What to call it here.
    format
        Its format, where the files leave it open: see `assay list formats`.
    scale
        What activations were multiplied by in training, where the files say that they were but not by what.
    k
        Latents kept a token, where neither the files nor their path say it.
    model
        The model it is for, where the files do not say: a hub id, a directory, smollm2.
    site
        The site it stands for, where the files do not say, e.g. resid_post.12.
    """
    from assay import formats
    from assay.cli.source import open_store
    from assay.models.base import Site

    coder, said = formats.read(path, format, scale=scale, k=k)
    if "imported" not in said:
        raise BadInput(
            f"{path} is Assay's own format already. Give its path to `assay eval`, or copy it into the store's coders."
        )
    if model is not None:
        said["model"] = {"name": model}
    if site is not None:
        said["site"] = str(Site.parse(site))
    store = open_store(common)
    if _to_do(store, name, said, again):
        _keep(store, name, coder, said)
    facts = store.manifest("coders", name)["about"]
    row = {"coder": name, "format": facts["imported"]["format"], "architecture": facts["architecture"]}
    row |= {
        "d_in": coder.d_in,
        "d_sae": coder.d_sae,
        "model": (facts.get("model") or {}).get("name"),
        "site": facts.get("site"),
    }
    show([row], common, data=row | {"imported": facts["imported"]})
    for line in facts["imported"]["notes"]:
        note(f"note: {line}", common)
    note(f"in {store.path('coders', name)}. Next: assay eval core {name}", common)


def _to_do(store: Store, name: str, said: dict[str, Any], again: Again) -> bool:
    """Whether this is not imported yet; a name that another coder has is an error rather than a loss."""
    if again == "always" or not store.has("coders", name):
        return True
    old = store.manifest("coders", name)["about"]
    alike = (old.get("imported") or {}).get("files") == said["imported"]["files"]
    if again == "never" or (alike and all(old.get(fact) == said.get(fact) for fact in ("model", "site"))):
        return False
    raise BadInput(
        f"{store.root} already has another coder named {name!r}. "
        "Give this one another name, or replace the old one with --again always."
    )


def _keep(store: Store, name: str, coder: SparseCoder[Any], said: dict[str, Any]) -> None:
    from dataclasses import asdict

    from assay import provenance
    from assay.formats import native

    facts = {"kind": "imported", "architecture": native.architecture_of(coder), "config": asdict(coder.config)} | said
    with store.draft("coders", name) as draft:
        native.write(coder, draft.path, {fact: facts[fact] for fact in ("model", "site") if fact in facts})
        draft.finish(inputs={"files": said["imported"]["files"]}, about=facts, made=provenance.made())
