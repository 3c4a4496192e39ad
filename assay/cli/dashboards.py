"""assay dashboards: what was harvested of latents, for Neuronpedia and circuit-tracer; published dashboards, into the store.

For example:
    assay dashboards export neuronpedia topk-k32 --output site           site/v1/MODEL/LAYER-topk-k32/…
    assay dashboards export circuit-tracer transcoder-3 --output features
    assay dashboards import neuronpedia downloads/v1/gemma-2-2b/12-gemmascope-res-16k --model google/gemma-2-2b
    assay dashboards import neuronpedia 10-theirs --coder theirs-10      beside the coder of that name

Export needs a harvest (assay harvest); labels and explanations in the store go along. An import is looked at with assay serve, like a harvest. See the
page on dashboards for what each format holds and what it leaves out.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cyclopts import App

from assay.cli.flags import COMMON, Common, about
from assay.cli.output import note, show
from assay.cli.progress import progress
from assay.errors import BadInput

if TYPE_CHECKING:
    from assay.models.pieces import Pieces

app = App(name="dashboards", help=about(__doc__))


@app.command
def export(
    format: Literal["neuronpedia", "circuit-tracer"], coder: str, /, *, output: Path, text: str | None = None, model_id: str | None = None,
    set: str | None = None, release: str | None = None, creator: str | None = None, common: Common = COMMON,
) -> None:  # fmt: skip
    """What was harvested of a coder's latents, in files that others show.

    Parameters
    ----------
    format
        neuronpedia: a bulk export, version 1. circuit-tracer: feature files by layer, for its `features_dir`.
    coder
        Its name in the store.
    output
        Directory to write below. circuit-tracer: the layers of several coders may go into one.
    text
        Key of the token rows whose harvest is meant, or its first digits. Left out: the newest.
    model_id
        neuronpedia: id of the model there. Left out: the last part of its name.
    set
        neuronpedia: name of the source set there; the source is LAYER-SET. Left out: the coder's name.
    release
        neuronpedia: name of the release there. Left out: the coder's name.
    creator
        neuronpedia: id of the account there. Left out: that of its own tools.
    """
    from assay import features
    from assay.cli.source import open_store
    from assay.dashboards import circuit_tracer, neuronpedia, shown

    store = open_store(common, create=False)
    found = features.open(store, coder, text)
    pieces = _pieces(found.about.get("model"), common)
    row = {"coder": coder, "format": format, "latents": found.d_sae}
    with progress("export", common) as display:
        if format == "neuronpedia":
            names = neuronpedia.Names.of(found, model=model_id, set=set, release=release, creator=creator)
            path, rows = neuronpedia.write(found, pieces, names, output, shown.said(store, found), display)
            row |= {k: rows[k] for k in ("activations", "explanations")}
        else:
            if given := [
                f"--{n}" for n, v in (("model-id", model_id), ("set", set), ("release", release), ("creator", creator)) if v
            ]:
                raise BadInput(f"{', '.join(given)}: only Neuronpedia has such names. Leave them out for circuit-tracer.")
            path = circuit_tracer.write(found, pieces, output, display)
    show([row | {"in": str(path)}], common)


@app.command(name="import")
def import_(
    format: Literal["neuronpedia"], directory: Path, /, *, coder: str | None = None, name: str | None = None, model: str | None = None,
    common: Common = COMMON,
) -> None:  # fmt: skip
    """Published dashboards into the store: numbers, examples and explanations of latents. Nothing in them is executed.

    Parameters
    ----------
    format
        neuronpedia: a source of a bulk export, version 1 or of SAEDashboard's converter.
    directory
        Directory of the source, with features/ in it, or one above.
    coder
        The coder in the store whose latents these are. One that was harvested here keeps its own numbers, and gets the explanations.
    name
        Without --coder: what to call it here. Left out: MODEL.SOURCE.
    model
        Whose tokenizer to lay the texts down with: a directory, a hub id in the cache. Left out: as the coder or the export says.
    """
    from assay import formats
    from assay.cli.source import open_store
    from assay.dashboards import importing

    if coder is not None and name is not None:
        raise BadInput("--name is for dashboards that stand alone. With --coder leave it out.")
    store = open_store(common)
    loaded = formats.read(store.find("coders", coder))[0] if coder is not None else None
    with progress("import", common) as display:
        taken = importing.take(directory, store, loaded, name=coder or name, model=model, progress=display)
    row = {"coder": taken.coder, "latents": taken.latents, "examples": taken.examples, "explanations": taken.explanations}
    show([row], common, data=vars(taken))
    if taken.entry is None:
        note(f"{taken.coder} was harvested here: its own numbers stand, and only explanations were taken.", common)
    for count, what in (
        (taken.left_out, "latents are not in the export and count as dead: its makers leave dead ones out"),
        (taken.surplus, "examples were left out: too many of one latent"),
        (taken.unspelt, "tokens in lists of logits were left out: the tokenizer does not have them"),
    ):
        if count:
            note(f"{count} {what}.", common)
    note(f"Next: assay serve --store {store.root}", common)


def _pieces(model: object, common: Common) -> Pieces:
    """Strings of the model's tokens; a note where its tokenizer is not here."""
    from assay.models.pieces import named

    name = str(model.get("name") if isinstance(model, dict) else model)
    pieces = named(name)
    if not len(pieces):
        note(f"The tokenizer of {name} is not on this machine: tokens go out as their ids.", common)
    return pieces
