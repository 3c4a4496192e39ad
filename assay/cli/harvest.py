"""assay harvest: collect what to look at of every latent of trained coders: examples, histograms, logits, neighbours.

For example:
    assay harvest topk-k32 relu
    assay harvest topk-k32 --corpus my-texts.jsonl --tokens 3M --umap

One pass of the model over the text serves all latents of all coders. Model, site and text are those that the coders were trained on, as their
manifests say; flags say otherwise. The text is the part that they learnt from, up to a million tokens of it: examples of what a latent
has become are looked for where it became it. --split held_out takes the other part. After Ctrl-C the same command goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from assay.cli.flags import AGAIN, COMMON, GENERAL, MACHINE, Common, Count, Machine, about, config, pick, takes
from assay.cli.output import note, show
from assay.cli.progress import progress
from assay.cli.toml import resolved

if TYPE_CHECKING:
    from assay.cli.origin import Flags, Origin
    from assay.harvest import Place

ORIGIN = config("cli/origin.py", "Flags", group="Model and text (left out: the coders' own)")
TOKENS = 1_000_000
app = App(name="harvest", help=about(__doc__))


@app.default
@takes(ORIGIN)
def harvest(
    coders: Annotated[list[str], Parameter(negative=())],
    *,
    tokens: Count | None = None,
    split: Literal["train", "held_out", "all"] = "train",
    umap: Annotated[bool, Parameter(negative="")] = False,
    again: AGAIN = "missing",
    config: Annotated[Path | None, Parameter(group=GENERAL, metavar="FILE")] = None,
    machine: Machine = MACHINE,
    common: Common = COMMON,
    **given: Any,
) -> None:
    """
    Parameters
    ----------
    coders
        Names of coders in the store, or directories of coders, separated by spaces. They may be of several sites of one model.
    tokens
        Tokens of text that are read. Left out: as many as the coders' training text has, at most 1M.
    split
        Which documents of the text: those that coders learn from, those held out, or all.
    umap
        Also lay the decoder rows out by UMAP (needs the extra `umap`). PCA is always there.
    config
        harvest.toml, as it is kept beside what was harvested; flags override it.
    """
    from assay.cli.origin import Flags, elsewhere, read_coders
    from assay.cli.source import open_model, open_store, open_tokens, said_of
    from assay.harvest import harvest as run
    from assay.store import write_atomic

    store = open_store(common)
    loaded, manifests = read_coders(coders, store)
    places, origin = whereabouts(manifests, Flags(**pick(given, ORIGIN)))
    assert origin.corpus is not None
    own = origin.packing["max_tokens"]
    wanted = min(TOKENS, own or TOKENS) if tokens is None else tokens
    with progress("harvest", common) as display:
        model = open_model(origin.model, origin.model_dtype, machine, display)
        text = open_tokens(origin.corpus, replace(origin.text("train", wanted), split=split), model, store, display)
        on = {name: coder.to(model.device) for name, coder in loaded.items()}
        found = run(on, model, text, places, store=store, umap=umap, again=again, progress=display)
    for line in [said_of(model), *elsewhere(manifests, given["site"])]:
        note(line, common)
    flags = {"coders": coders, "tokens": wanted, "split": split, "umap": umap} | origin.flags() | {"site": given["site"]}
    for path in found.values():
        write_atomic(path / "harvest.toml", resolved("harvest", flags))
    _report(found, common)


def whereabouts(manifests: Mapping[str, Mapping[str, Any]], flags: Flags) -> tuple[dict[str, Place], Origin]:
    """Where each coder belongs, and what they all have in common: model and text."""
    from assay.cli.origin import Origin, is_planted
    from assay.errors import BadInput
    from assay.harvest import Place

    if is_planted(manifests) and flags.model is None:
        raise BadInput(
            f"{', '.join(manifests)} learnt from planted vectors: there is no text to look at. See `assay eval synthetic`."
        )
    places = {n: Place.at(flags.site) if flags.site else Place.of(n, said) for n, said in manifests.items()}
    first = str(next(iter(places.values())).read[0])
    origin = Origin.of(manifests, replace(flags, site=first), reads=False)
    if origin.corpus is None:
        raise BadInput(f"{', '.join(manifests)}: no manifest says which text the coder learnt from. Say --corpus.")
    return places, origin


def _report(found: Mapping[str, Path], common: Common) -> None:
    from assay.store import Store

    rows, data = _rows(found.values()), []
    for row, path in zip(rows, found.values()):
        data.append(row | {"path": str(path), "entry": path.name})
    show(rows, common, data=data)
    store = Store(next(iter(found.values())).parents[1], create=False)
    note(f"Next: assay serve --store {store.root}", common)


def _rows(paths: Sequence[Path] | Any) -> list[dict[str, Any]]:
    """A line a coder."""
    from assay import features
    from assay.store import Store

    rows = []
    for path in paths:
        one = features.Features(Store(path.parents[1], create=False), path.name)
        size = sum(file["bytes"] for file in one.manifest["files"].values())
        columns = one.columns
        rows.append(
            {
                "coder": one.coder, "site": one.about["site"], "latents": one.d_sae, "tokens": one.n_tokens,
                "dead": int(columns["dead"].sum()), "dense": int(columns["dense"].sum()),
                "median density": float(sorted(columns["density"])[one.d_sae // 2]), "bytes a latent": round(size / one.d_sae),
            }
        )  # fmt: skip
    return rows
