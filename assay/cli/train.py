"""assay train: train coders: one by flags, or several over one stream by a run file.

For example:
    assay train topk --name a --model smollm2 --corpus demo --site resid_post.10 --d-sae 16k --k 32 --tokens 10M
    assay train topk --name b --activations vectors.npy --d-sae 16k --tokens 10M
    assay train --config run.toml

A run file has the tables [source], [text], [train], and one [coder.NAME] with `architecture` and settings for each coder; all learn
from one stream, so the model runs once. The resolved file is kept beside each coder as run.toml. Ctrl-C at any moment; the same
command goes on from the last checkpoint and ends in the same weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from assay import registry
from assay.cli.flags import AGAIN, COMMON, GROUPS, MACHINE, Again, Common, Machine, about, config, flowing, options, pick, takes
from assay.cli.output import note, show
from assay.cli.progress import progress
from assay.errors import BadInput, UnknownName

NAME = Parameter(group=GROUPS["Coder"], help="What to call the coder in the store. Left out: the architecture's name.")
SOURCE = config("cli/source.py", "Source", group="Source")
TEXT = config(
    "corpora/pack.py", "PackConfig", group="Text",
    drop=("layout",), rename={"max_tokens": "corpus_tokens"}, defaults={"split": "train"},
)  # fmt: skip
TRAIN = config("train.py", "TrainConfig", group="Training")
app = App(name="train", help=about(__doc__))


@app.default
def run(
    *unknown: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: Annotated[Path | None, Parameter(metavar="FILE")] = None,
    again: AGAIN = "missing",
    machine: Machine = MACHINE,
    common: Common = COMMON,
) -> None:
    """
    Parameters
    ----------
    config
        A run file (TOML).
    """
    if unknown:
        raise UnknownName.among("architecture", unknown[0], registry.CODERS)
    if config is None:
        raise BadInput(f"Name an architecture ({', '.join(registry.CODERS)}), or give a run file with --config.")
    from assay.cli import run_file

    execute(run_file.read(config), again, machine, common)


def one(architecture: str) -> Callable[..., None]:
    """The sub-command of an architecture."""
    settings = options(registry.CODERS.settings(architecture), group="Coder", drop=("d_in", "d_out"))

    @takes(settings, SOURCE, TRAIN, TEXT)
    def command(
        *,
        name: Annotated[str | None, NAME] = None,
        again: AGAIN = "missing",
        machine: Machine = MACHINE,
        common: Common = COMMON,
        **given: Any,
    ) -> None:
        from assay.cli.run_file import RunFile
        from assay.cli.source import Source
        from assay.corpora.pack import PackConfig
        from assay.train import TrainConfig

        table = {"architecture": architecture, "seed": given["seed"]} | pick(given, settings)
        run = RunFile(
            source=Source(**pick(given, SOURCE)), text=PackConfig(**pick(given, TEXT)),
            train=TrainConfig(**pick(given, TRAIN)), coder={name or architecture: table},
        )  # fmt: skip
        execute(run, again, machine, common)

    command.__doc__ = flowing(registry.CODERS.doc(architecture))
    return command


def execute(run: Any, again: Again, machine: Machine, common: Common) -> None:
    """Train the coders of a run file and show how they did."""
    from assay.cli import run_file
    from assay.cli.source import announce, open_source, open_store
    from assay.store import write_atomic
    from assay.sweep import sweep

    store = open_store(common)
    with progress("train", common) as display:
        source, facts = open_source(run.source, run.text, store, machine, display)
        coders = run_file.build(run, source, "run")
        device = machine.torch_device()
        coders = {name: coder.to(device) for name, coder in coders.items()}
        announce(source, common)
        display.total = run.train.steps * run.train.batch
        paths = sweep(coders, source, run.train, store, about=facts, again=again, listen=display.listen)
    for name, path in paths.items():
        if again != "never":
            write_atomic(path / "run.toml", run_file.write(run, name))
    show([outcome(name, path) for name, path in paths.items()], common)
    note(f"in {store.root}/coders. Next: assay eval core {' '.join(paths)}", common)


def outcome(name: str, path: Path) -> dict[str, Any]:
    """A row of the table: what a coder is, and how its training ended."""
    from assay.store import read_manifest

    about = read_manifest(path)["about"]
    last = last_row(path / "train.jsonl")
    row: dict[str, Any] = {"coder": name, "architecture": about["architecture"], "d_sae": about["config"]["d_sae"]}
    return row | {key: last.get(key) for key in ("tokens", "fvu", "l0", "dead")} | {"path": str(path)}


def last_row(path: Path) -> Mapping[str, Any]:
    """The last line of a JSONL file; empty where there is none."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return json.loads(lines[-1]) if lines else {}


for _architecture in registry.CODERS:
    app.command(one(_architecture), name=_architecture)
