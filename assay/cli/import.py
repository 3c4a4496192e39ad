"""assay import: SAEs of other libraries and of releases on the hub, into the store, where they are evaluated like your own.

For example:
    assay import path/to/sae --name sl-12                SAELens, dictionary_learning, sparsify, Gemma Scope, OpenAI
    assay import gemma-scope-2b-pt-res/layer_12/width_16k/canonical --name gs-12        of `assay list releases`
    assay import hf:owner/name/path/in/it --name theirs                                 any repository on the hub
    assay import average_l0_82/params.npz --name gs-12 --model google/gemma-2-2b --site resid_post.12
    assay eval core sl-12 --corpus demo                  model and site are as the files say

The format is found out from the files; nothing in them is executed. What they say of model, site and rows of text is kept, and where
the coder is from: path or release, sha256, format, version. Figures that were published with it stand in the store beside ours, as
those of `published:NAME`. `assay eval`, `assay check` and `assay export` also take a path or a reference in place of a name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cyclopts import App

from assay.cli.flags import AGAIN, COMMON, Again, Common, about
from assay.cli.output import note, show
from assay.cli.reading import FORMAT, READING, Reading
from assay.errors import BadInput

if TYPE_CHECKING:
    from assay.coders.base import SparseCoder
    from assay.releases.references import Located
    from assay.store import Store

app = App(name="import", help=about(__doc__))


@app.default
def import_(
    ref: str, /, *, name: str, format: FORMAT = None, model: str | None = None, site: str | None = None,
    reading: Reading = READING, again: AGAIN = "missing", common: Common = COMMON,
) -> None:  # fmt: skip
    """
    Parameters
    ----------
    ref
        Directory or file of the coder; RELEASE/ID from `assay list releases`; or hf:owner/name/path[@revision].
    name
        What to call it here.
    format
        Its format, where the files leave it open: see `assay list formats`.
    model
        The model it is for, where the files do not say: a hub id, a directory, smollm2.
    site
        The site it stands for, where the files do not say, e.g. resid_post.12.
    """
    from assay import formats
    from assay.cli.source import open_store
    from assay.models.base import Site
    from assay.releases import references

    located = references.locate(ref, reading.mirror)
    if not located.origin and formats.known(located.path) == [formats.NATIVE]:
        raise BadInput(
            f"{ref} is Assay's own format already. Give its path to `assay eval`, or copy it into the store's coders."
        )
    coder, said = references.read(located, format, scale=reading.scale, k=reading.k, layer=reading.layer)
    if model is not None:
        said["model"] = {"name": model}
    if site is not None:
        said["site"] = str(Site.parse(site))
    store = open_store(common)
    if _to_do(store, name, said, again):
        _keep(store, name, coder, said)
    left = _publish(store, name, coder, said, located)
    facts = store.manifest("coders", name)["about"]
    row = {"coder": name, "format": facts["imported"]["format"], "architecture": facts["architecture"]}
    row |= {
        "d_in": coder.d_in,
        "d_sae": coder.d_sae,
        "model": (facts.get("model") or {}).get("name"),
        "site": facts.get("site"),
    }
    show([row], common, data=row | {"imported": facts["imported"]})
    for line in [*facts["imported"]["notes"], *left]:
        note(f"note: {line}", common)
    note(f"in {store.path('coders', name)}. Next: assay eval core {name}", common)


def _publish(store: Store, name: str, coder: SparseCoder[Any], said: dict[str, Any], located: Located) -> list[str]:
    """Keep what was published with the coder; what of it cannot be read."""
    from assay.evaluate import describe
    from assay.releases import published
    from assay.splice import coder_hash

    about = describe(coder) | {"model": (said.get("model") or {}).get("name"), "site": said.get("site")}
    found, left = published.records(name, coder_hash(coder), about, located)
    published.keep(store, found)
    return left


def _to_do(store: Store, name: str, said: dict[str, Any], again: Again) -> bool:
    """Whether this is not imported yet; a name that another coder has is an error rather than a loss."""
    if again == "always" or not store.has("coders", name):
        return True
    was, now = _identity(store.manifest("coders", name)["about"]), _identity(said)
    other = [what for what in now if was[what] != now[what]]
    if again == "never" or not other:
        return False
    there = f"{store.root} already has another coder named {name!r}."
    if "files" not in other:
        one_by_one = ", ".join(f"{what} {_word(was[what])}, now {_word(now[what])}" for what in other)
        there = f"{store.root} has {name!r} from these files already, imported otherwise: {one_by_one}."
    raise BadInput(f"{there} Give this one another name, or replace the old one with --again always.")


def _identity(about: Mapping[str, Any]) -> dict[str, Any]:
    """All that decides what an imported coder is: its files, how they were read, and what it is for."""
    imported, model = about.get("imported") or {}, about.get("model") or {}
    read = {what: imported.get(what) for what in ("files", "format", "scale", "k", "layer")}
    return read | {"model": model.get("name"), "site": about.get("site")}


def _word(value: Any) -> str:
    return "not said" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _keep(store: Store, name: str, coder: SparseCoder[Any], said: dict[str, Any]) -> None:
    from dataclasses import asdict

    from assay import provenance
    from assay.formats import native

    facts = {"kind": "imported", "architecture": native.architecture_of(coder), "config": asdict(coder.config)} | said
    with store.draft("coders", name) as draft:
        native.write(coder, draft.path, {fact: facts[fact] for fact in ("model", "site") if fact in facts})
        draft.finish(inputs={"files": said["imported"]["files"]}, about=facts, made=provenance.made())
