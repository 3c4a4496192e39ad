"""assay train: train coders: one by flags, or several over one stream by a run file.

For example:
    assay train topk --name a --model smollm2 --corpus demo --site resid_post.10 --d-sae 16k --k 32 --tokens 10M
    assay train topk --name b --data vectors.npy --d-sae 16k --tokens 10M
    assay train relu --planted superposition --d-sae 256
    assay train jumprelu --planted superposition --d-sae 256 --l0 8
    assay train topk --recipe openai --activations KEY --d-sae 16k --tokens 100M
    assay train --init a --name a-tuned --data more.npy
    assay train --config run.toml

A run file has the tables [source], [text], [train], and one [coder.NAME] with `architecture` and settings for each coder; all learn
from one stream, so the model runs once. A coder's table may name a `recipe`, a coder to go on from (`init`), and training settings of
its own ([coder.NAME.train]). With --model the whole corpus is cut into rows before training begins; --corpus-tokens 5M stops after so
many tokens, enough for a short run. Before it begins a run says what it will take, and refuses what will not fit; --budget only says
so. The resolved file is kept beside each coder as run.toml, and report.html shows how its training went. Ctrl-C at any moment; the same
command goes on from the last checkpoint and ends in the same weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from assay import registry
from assay.cli.flags import (
    AGAIN,
    COMMON,
    GENERAL,
    GROUPS,
    MACHINE,
    Common,
    Machine,
    about,
    config,
    flowing,
    options,
    pick,
    takes,
)
from assay.cli.output import note, show
from assay.cli.progress import progress, si, span
from assay.cli.source import SOURCE, TEXT
from assay.errors import BadInput, NotFinite, UnknownName

if TYPE_CHECKING:
    from assay.activations.base import ActivationSource
    from assay.coders.base import SparseCoder
    from assay.store import Store
    from assay.train import Row

NAME = Parameter(group=GROUPS["Coder"], help="What to call the coder in the store. Left out: the architecture's name.")
TRAIN = config("training/config.py", "TrainConfig", group="Training", drop=("fine_tune",))
RECIPE = Parameter(group=GROUPS["Coder"], help="Losses and schedule of a published trainer, where no flag says otherwise.")
INIT = Parameter(
    group=GROUPS["Coder"], metavar="CODER", help="Go on from the weights of this coder (fine-tuning), on this data."
)
app = App(name="train", help=about(__doc__))


@Parameter(name="*", group=GENERAL)
@dataclass(frozen=True, kw_only=True)
class Beside:
    """What happens beside the training."""

    again: AGAIN = "missing"
    sink: Annotated[tuple[Literal["tensorboard", "wandb"], ...], Parameter(negative_iterable=(), show_default=False)] = ()
    """Where else rows go as training goes on. In any case: train.jsonl and report.html beside each coder."""
    budget: Annotated[bool, Parameter(negative="", show_default=False)] = False
    """Only say what the run would take: time, memory, disk."""
    profile: Annotated[bool, Parameter(negative="", show_default=False)] = False
    """Only say where the time of a step goes, from the run's first steps."""


BESIDE = Beside()


@app.default
@takes(SOURCE, TRAIN, TEXT)
def run(
    *unknown: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: Annotated[Path | None, Parameter(metavar="FILE")] = None,
    init: Annotated[str | None, INIT] = None,
    name: Annotated[str | None, NAME] = None,
    beside: Beside = BESIDE,
    machine: Machine = MACHINE,
    common: Common = COMMON,
    said: frozenset[str] = frozenset(),
    **given: Any,
) -> None:
    """
    Parameters
    ----------
    config
        A run file (TOML).
    """
    from assay.cli import run_file

    if unknown:
        raise UnknownName.among("architecture", unknown[0], registry.CODERS)
    if config is not None and (init or name or said):
        raise BadInput("A run file says all of a run: leave the other flags out, or write them into it.")
    if config is not None:
        execute(run_file.read(config), beside, machine, common)
    elif init is not None:
        execute(_run_file({"init": init}, name or f"{init.rpartition('/')[2]}-tuned", given), beside, machine, common)
    else:
        raise BadInput(f"Name an architecture ({', '.join(registry.CODERS)}), or give a run file with --config.")


def one(architecture: str) -> Callable[..., None]:
    """The sub-command of an architecture."""
    settings = options(registry.CODERS.settings(architecture), group="Coder", drop=("d_in", "d_out"))

    @takes(settings, SOURCE, TRAIN, TEXT)
    def command(
        *,
        name: Annotated[str | None, NAME] = None,
        recipe: Annotated[str | None, RECIPE] = None,
        beside: Beside = BESIDE,
        machine: Machine = MACHINE,
        common: Common = COMMON,
        said: frozenset[str] = frozenset(),
        **given: Any,
    ) -> None:
        from assay import coders

        table = {"architecture": architecture, "seed": given["seed"]}
        if recipe is None:
            table |= {
                k: v for k, v in pick(given, settings).items() if k in said or given["l0"] is None or k not in coders.EXACT
            }
        else:
            own = {k: v for k, v in pick(given, TRAIN).items() if k in said and k not in ("tokens", "batch", "seed")}
            table |= {"recipe": recipe, "train": own} | {k: v for k, v in pick(given, settings).items() if k in said}
        execute(_run_file(table, name or architecture, given), beside, machine, common)

    return command


def _run_file(table: dict[str, Any], name: str, given: Mapping[str, Any]) -> Any:
    """The run file that flags stand for."""
    from assay.cli.run_file import RunFile
    from assay.cli.source import Source
    from assay.corpora.pack import PackConfig
    from assay.train import TrainConfig

    return RunFile(
        source=Source(**pick(given, SOURCE)), text=PackConfig(**pick(given, TEXT)),
        train=TrainConfig(**pick(given, TRAIN)), coder={name: table},
    )  # fmt: skip


def execute(run: Any, beside: Beside, machine: Machine, common: Common) -> None:
    """Train the coders of a run file and show how they did."""
    from assay import report
    from assay.cli import run_file, sinks
    from assay.cli.source import announce, open_source, open_store
    from assay.store import write_atomic
    from assay.sweep import sweep

    store = open_store(common)
    with progress("train", common) as display, sinks.open(beside.sink, store.root / "sinks") as tell:
        source, facts = open_source(run.source, run.text, store, machine, display, run.train.seed)
        if run.source.model is not None:  # as it was chosen here: the same run elsewhere is the same
            run = replace(run, source=replace(run.source, model_dtype=facts["model_dtype"]))
        plan = run_file.build(run, source, store, "run")
        device = machine.torch_device()
        coders = {name: coder.to(device) for name, coder in plan.coders.items()}
        announce(source, common)
        if beside.profile:
            return show(profile(coders, source, plan, common), common)
        if beside.budget or beside.again == "always" or not all(store.has("coders", name) for name in coders):
            found = budget(coders, source, plan, store, common)
            if beside.budget:
                return show(found, common)
        display.total = plan.train.steps * plan.train.batch

        def listen(row: Row) -> None:
            display.listen(row)
            tell(row)

        stopped: NotFinite | None = None
        try:
            paths = sweep(coders, source, plan.train, store, each=plan.each, about=facts, again=beside.again, listen=listen)
        except NotFinite as error:  # some coder diverged; the others are there
            stopped, paths = error, {name: store.path("coders", name) for name in coders if store.has("coders", name)}
    for name, path in paths.items():
        if beside.again != "never":
            write_atomic(path / "run.toml", run_file.write(run, name))
        report.write(path)
    if stopped:
        raise stopped
    show([outcome(name, path) for name, path in paths.items()], common)
    for name, path in paths.items():
        missed(name, path, common)
    suited = "core" if "site" in facts and "text" in facts else "synthetic" if run.source.planted else None
    note(
        f"in {store.root}/coders, each with a report.html"
        + (f". Next: assay eval {suited} {' '.join(paths)}" if suited else ""),
        common,
    )


def missed(name: str, path: Path, common: Common) -> None:
    """Say so where a coder did not come to the L0 that was asked for."""
    from assay.store import read_manifest

    wanted, last = read_manifest(path)["about"].get("train", {}).get("l0"), last_row(path / "train.jsonl")
    found = last.get("held_out_l0", last.get("l0"))
    if wanted and found is not None and abs(found / wanted - 1) > 0.05:
        note(
            f"note: {name} ended at an L0 of {found:.3g}, {wanted:g} was asked for. Where that is not how the held-out vectors differ, "
            "train it longer (some thousand steps) or with a higher lr.",
            common,
        )


def budget(
    coders: Mapping[str, SparseCoder[Any]], source: ActivationSource, plan: Any, store: Store, common: Common
) -> list[dict]:
    """Predict, refuse what will not fit, and say the rest in a line. Rows of the table of --budget."""
    from assay.budget import estimate

    found = estimate(coders, source, plan.train, plan.each)
    found.check(store.root)
    note(
        f"budget: {span(found.seconds)}, most of it {found.dominant}; {found.memory / 1e9:.1f} GB of memory, "
        f"{found.disk / 1e9:.2f} GB of disk; {si(found.tokens_per_latent)} vectors a latent",
        common,
    )
    rows = [{"part": part, "seconds": seconds} for part, seconds in found.parts.items()]
    facts = {"memory_bytes": found.memory, "disk_bytes": found.disk, "tokens_per_latent": found.tokens_per_latent}
    return [*rows, {"part": "all", "seconds": found.seconds, **facts}]


def profile(
    coders: Mapping[str, SparseCoder[Any]], source: ActivationSource, plan: Any, common: Common
) -> list[dict[str, Any]]:
    """Rows of the table of --profile."""
    from assay import profile

    found = profile.profile(coders, source, plan.train, plan.each)
    waits = "" if found.syncs is None else f"; the host waits for the GPU {found.syncs:.3g} times a step, outside logging"
    note(f"profile of {found.steps} steps: {1e3 * found.step:.3g} ms a step{waits}", common)
    return [
        {"part": name, "ms": round(1e3 * seconds, 2), "share": round(found.shares()[name], 3)}
        for name, seconds in found.parts.items()
    ]


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


def __getattr__(name: str) -> Any:
    """Sub-commands are made when they are asked for: each has some sixty options."""
    if name.startswith("train_") and name.removeprefix("train_") in registry.CODERS:
        return one(name.removeprefix("train_"))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


for _architecture in registry.CODERS:
    app.command(f"{__name__}:train_{_architecture}", name=_architecture, help=flowing(registry.CODERS.doc(_architecture)))
