"""assay list: what there is: architectures, evals, corpora, models, formats, assets, releases.

For example:
    assay list coders
    assay list releases --model gemma-2-2b --layer 12 --width 16k

Names to type elsewhere, each with a line about it. Other packages may add architectures and evals to these lists.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from assay import registry
from assay.cli.flags import COMMON, Common, about
from assay.cli.output import note, show
from assay.errors import BadInput, UnknownName

if TYPE_CHECKING:
    from assay.releases.catalogue import Entry

KINDS = ("coders", "evals", "corpora", "models", "formats", "assets")
SHOWN = 60  # coders of releases in one table
app = App(name="list", help=about(__doc__))


@app.default
def list_(kind: str, /, *, common: Common = COMMON) -> None:
    """
    Parameters
    ----------
    kind
        coders, evals, corpora, models, formats or assets; or releases, see below.
    """
    if kind not in KINDS:
        raise UnknownName.among("list", kind, [*KINDS, "releases"])
    show(entries(kind), common)


@app.command
def releases(
    name: str | None = None, /, *, model: str | None = None, layer: int | None = None, site: str | None = None,
    width: str | None = None, l0: Annotated[str | None, Parameter(metavar="FROM..TO")] = None,
    all: Annotated[bool, Parameter(negative="", show_default=False)] = False, common: Common = COMMON,
) -> None:  # fmt: skip
    """Coders that others have published: what `assay import` and `assay.load` fetch by name. Nothing is asked of the hub.

    Few coders are listed one by one; many, by release. L0 is what a release says; where that is not known, the column is empty.

    Parameters
    ----------
    name
        Part of a release's name.
    model
        Only of this model: gemma-2-2b, or its hub id.
    layer
        Only of this layer.
    site
        Only of this kind of site, or of this one: resid_post, resid_post.12.
    width
        Only of so many latents: 16k, 65k, 1m, 24576.
    l0
        Only of an L0 in this range, where the release says one: 20..100, 20.. or ..100.
    all
        Every coder, however many.
    """
    from assay.cli.which import span
    from assay.releases import catalogue

    found = catalogue.search(name, model=model, layer=layer, site=site, width=width, l0=span(l0) if l0 else None)
    if not found:
        flags = {"model": model, "layer": layer, "site": site, "width": width, "l0": l0}
        said = " ".join([*filter(None, [name]), *(f"--{flag} {value}" for flag, value in flags.items() if value is not None)])
        raise BadInput(
            f"No coder of the catalogue is all of this: {said}. Leave one out; hf:owner/name/path names what it lacks."
        )
    one_by_one = all or len(found) <= SHOWN
    show([_coder(e) for e in found] if one_by_one else _by_release(found), common)
    if not one_by_one:
        note(f"{len(found):,} coders. Narrow down to {SHOWN} to see them, or say --all.", common)
    else:
        note(f"Next: assay import {found[0].ref} --name NAME", common)


def _coder(e: Entry) -> dict[str, Any]:
    site = e.site if e.predicts is None else f"{e.site or '?'} to {e.predicts}"
    row = {"coder": e.ref, "model": e.model, "site": site, "d_sae": e.d_sae, "l0": e.l0, "format": e.format}
    return row | {"also": ", ".join(e.also) or None}


def _by_release(found: Iterable[Entry]) -> list[dict[str, Any]]:
    """A row a release: how many coders, of what."""
    by: dict[str, list[Entry]] = {}
    for e in found:
        by.setdefault(e.release, []).append(e)
    return [
        {
            "release": name, "model": some[0].model, "site": (some[-1].site or "–").removesuffix(f".{some[-1].layer}").removesuffix(".*"),
            "coders": len(some) if "*" not in some[0].id else None, "layers": _span(e.layer for e in some),
            "d_sae": _span(e.d_sae for e in some), "l0": _span(e.l0 for e in some), "format": some[0].format,
        }
        for name, some in by.items()
    ]  # fmt: skip


def _span(values: Iterable[float | None]) -> str | None:
    """The least and the greatest of those that are known."""
    known = sorted({v for v in values if v is not None})
    return None if not known else f"{known[0]:g}" if len(known) == 1 else f"{known[0]:.7g} to {known[-1]:.7g}"


def entries(kind: str) -> list[dict[str, str]]:
    """Name and summary of everything of a kind."""
    folders = {"coders": registry.CODERS, "evals": registry.EVALS, "formats": registry.FORMATS}
    if kind in folders:
        folder = folders[kind]
        baselines = set(folder.names(tag="baseline"))
        rows = [{"name": key, "summary": folder.summary(key).partition(": ")[2] or folder.summary(key)} for key in folder]
        return [
            row | ({"kind": "baseline" if row["name"] in baselines else "trained"} if kind == "coders" else {}) for row in rows
        ]
    if kind == "corpora":
        from assay.corpora.embedded import SUMMARIES

        return [{"name": name, "summary": text} for name, text in SUMMARIES.items()]
    if kind == "models":
        from assay.models.embedded import EMBEDDED

        return [{"name": name, "licence": one.licence, "summary": one.summary} for name, one in EMBEDDED.items()]
    from assay.carriers import CARRIERS

    return [{"name": name, "licence": one.licence, "summary": one.summary} for name, one in CARRIERS.items()]
