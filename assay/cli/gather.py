"""assay gather: run a model over text once and keep the activations of one or more sites.

For example:
    assay gather smollm2 --corpus demo --site resid_post.10 --tokens 300k

The space is checked before it starts. Ctrl-C at any moment; the same command goes on where it was. Prints the key that
`assay train --activations KEY` takes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from assay.cli.flags import COMMON, GENERAL, MACHINE, Common, Machine, about, config, named, pick, takes
from assay.cli.output import note, show
from assay.cli.progress import progress
from assay.cli.toml import resolved

TEXT = config(
    "corpora/pack.py",
    "PackConfig",
    group="Text",
    drop=("layout",),
    rename={"max_tokens": "tokens"},
    defaults={"split": "train"},
)
GATHER = config("activations/gather.py", "GatherConfig", group="Gathering")
app = App(name="gather", help=about(__doc__))


@app.default
@takes(TEXT, GATHER)
def gather(
    model: str,
    *,
    corpus: str,
    site: Annotated[tuple[str, ...], Parameter(negative=())],
    model_dtype: str | None = None,
    accept_terms: Annotated[bool, Parameter(negative="")] = False,
    config: Annotated[Path | None, Parameter(group=GENERAL, metavar="FILE")] = None,
    machine: Machine = MACHINE,
    common: Common = COMMON,
    **given: Any,
) -> None:
    """
    Parameters
    ----------
    model
        smollm2, gemma3-270m, tiny, a local directory, or a hub id such as org/name.
    corpus
        demo, a file or folder, hub:org/name; `assay list corpora` names the embedded ones.
    site
        Where to read: KIND.LAYER, e.g. resid_post.10. Give it several times for several sites in one pass.
    model_dtype
        Number type of the model: bfloat16, float32. Left out: what runs clearly fastest here, else its checkpoint's.
    accept_terms
        Accept the terms of a model that has some (gemma3-270m).
    config
        gather.toml, as it is kept beside the activations; flags override it.
    """
    from assay.activations import GatherConfig
    from assay.activations import gather as run
    from assay.cli.source import open_model, open_store, open_tokens, said_of
    from assay.corpora.pack import PackConfig
    from assay.store import read_manifest, write_atomic

    store = open_store(common)
    with progress("gather", common) as display:
        opened = open_model(model, model_dtype or "fastest", machine, display, accept_terms=accept_terms)
        tokens = open_tokens(corpus, PackConfig(**pick(given, TEXT)), opened, store, display)
        path = run(opened, tokens, list(site), GatherConfig(**pick(given, GATHER)), store, display)
    note(said_of(opened), common)
    used = str(opened.dtype).removeprefix("torch.")
    flags = {"model": model, "model-dtype": used, "corpus": corpus, "site": site} | named(given, TEXT, GATHER)
    write_atomic(path / "gather.toml", resolved("gather", flags))
    manifest = read_manifest(path)
    rows = [{"site": name} | facts for name, facts in manifest["about"]["sites"].items()]
    size = sum(file["bytes"] for file in manifest["files"].values())
    data = {"key": path.name, "path": str(path), "tokens": manifest["about"]["tokens"], "bytes": size, "sites": rows}
    show(rows, common, data=data)
    note(f"{data['tokens']:,} tokens, {size / 1e6:.1f} MB in {path}", common)
    note(f"Next: assay train topk --activations {path.name} --site {rows[0]['site']} --d-sae 4k", common)
    if not common.json:
        print(path.name)
