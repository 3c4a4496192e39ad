"""Sinks: where else the rows of a training go: TensorBoard, Weights & Biases. (train.jsonl is always written, the display always on.)

Both are optional extras. Curves are drawn over vectors seen, so that runs with different batches compare.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay.errors import Unavailable, UnknownName

if TYPE_CHECKING:
    from assay.train import Row

Listener = Callable[["Row"], None]
SINKS = ("tensorboard", "wandb")
DENSITY = (-7.0, -6.5, *(half / 2 for half in range(-12, 1)))
"""Edges of the bins of `Row.density`, as log10 of the firing frequency; "never" and "below 10⁻⁶" have a half decade each."""


@contextmanager
def open(names: Sequence[str], directory: Path) -> Iterator[Listener]:
    """`with sinks.open(["tensorboard"], directory) as listen: sweep(…, listen=listen)`. What they write goes below `directory`.

    Raises UnknownName, and Unavailable where the extra package is missing.
    """
    for name in names:
        if name not in SINKS:
            raise UnknownName.among("sink", name, SINKS)
    makers = {"tensorboard": _tensorboard, "wandb": _wandb}
    with ExitStack() as stack:
        listeners = [stack.enter_context(makers[name](directory)) for name in dict.fromkeys(names)]

        def listen(row: Row) -> None:
            for listener in listeners:
                listener(row)

        yield listen


def _package(name: str, module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise Unavailable(f"The sink {name} needs one more package ({error}): pip install 'assay-sae[{name}]'.") from None


@contextmanager
def _tensorboard(directory: Path) -> Iterator[Listener]:
    """Event files in `directory`/tensorboard/CODER: `tensorboard --logdir directory/tensorboard` shows the coders side by side."""
    made = _package("tensorboard", "torch.utils.tensorboard").SummaryWriter
    writers: dict[str, Any] = {}

    def listen(row: Row) -> None:
        if (
            row.coder not in writers
        ):  # what an interrupted run wrote from here on is written again, so TensorBoard is told to drop it
            writers[row.coder] = made(str(directory / "tensorboard" / row.coder), purge_step=row.tokens)
        writer = writers[row.coder]
        for key, value in (*row.metrics.items(), *row.speed.items()):
            writer.add_scalar(key, value, row.tokens)
        if row.density:
            _histogram(writer, row)
        if row.stopped:
            writer.add_text("stopped", row.stopped, row.tokens)

    try:
        yield listen
    finally:
        for writer in writers.values():
            writer.close()


def _histogram(writer: Any, row: Row) -> None:
    """Firing frequencies, by the middles of their bins."""
    total = sum(row.density)
    middles = [(low + high) / 2 for low, high in pairwise(DENSITY)]
    moments = [sum(n * m**power for n, m in zip(row.density, middles)) for power in (1, 2)]
    writer.add_histogram_raw(
        "log10_density", min=DENSITY[0], max=DENSITY[-1], num=total, sum=moments[0], sum_squares=moments[1],
        bucket_limits=list(DENSITY[1:]), bucket_counts=list(row.density), global_step=row.tokens,
    )  # fmt: skip


@contextmanager
def _wandb(directory: Path) -> Iterator[Listener]:
    """One W&B run a coder, in one group. Offline unless WANDB_MODE says otherwise: nothing leaves the machine unasked.

    Offline runs lie in `directory`/wandb; `wandb sync` uploads them.
    """
    wandb = _package("wandb", "wandb")
    runs: dict[str, Any] = {}
    mode = os.environ.get("WANDB_MODE", "offline")
    (directory / "wandb").mkdir(parents=True, exist_ok=True)  # without it wandb falls back to a temporary directory

    def listen(row: Row) -> None:
        if row.coder not in runs:
            project = os.environ.get("WANDB_PROJECT", "assay")
            group = os.environ.get("WANDB_RUN_GROUP", directory.name)
            quiet = wandb.Settings(silent=True, console="off")
            run = wandb.init(
                project=project, group=group, name=row.coder, dir=str(directory), mode=mode, reinit="create_new", settings=quiet
            )
            run.define_metric("*", step_metric="tokens")
            runs[row.coder] = run
        facts = {"tokens": row.tokens, "step": row.step, **row.metrics, **row.speed}
        if row.density:
            facts["log10_density"] = wandb.Histogram(np_histogram=(list(row.density), list(DENSITY)))
        runs[row.coder].log(facts)
        if row.stopped:
            runs[row.coder].summary["stopped"] = row.stopped

    try:
        yield listen
    finally:
        for run in runs.values():
            run.finish()
