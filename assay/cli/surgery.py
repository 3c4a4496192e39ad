"""assay surgery: change trained coders without training: prune or merge latents, move L0, convert to JumpReLU.

For example:
    assay surgery prune topk-k32 --name small --dead
    assay surgery prune relu --name sparse --dense 0.1 --below 1e-5
    assay surgery merge topk-k32 --name merged --cosine 0.9
    assay surgery recalibrate jumprelu --name l0-50 --l0 50
    assay surgery convert topk-k32 --name threshold

What decides is measured on vectors: by default on the gathered activations that the coder learnt from; --data, --activations, --planted
and --model name others. The new coder is kept beside the old one, with what was done and to which coder in its manifest; the table
shows both, measured on the same vectors.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Group, Parameter

from assay.cli.flags import AGAIN, COMMON, MACHINE, Again, Common, Count, Machine, about, pick, takes
from assay.cli.output import note, show
from assay.cli.progress import progress
from assay.cli.source import SOURCE, TEXT
from assay.errors import BadInput

if TYPE_CHECKING:
    from assay.activations.base import ActivationSource
    from assay.coders.base import SparseCoder
    from assay.progress import Progress
    from assay.store import Store

CODER = Parameter(help="A coder's name in the store, or its directory.")
Operate = Callable[[Any, Any], tuple[Any, dict[str, Any]]]
"""From a coder and a batch of vectors to another coder, and a report of what was done."""
app = App(name="surgery", help=about(__doc__))


@Parameter(name="*", group=Group("Operation", sort_key=0))
@dataclass(frozen=True, kw_only=True)
class Job:
    """What every operation is told."""

    name: str
    """What to call the new coder."""
    tokens: Count = 50_000
    """Vectors to measure on; one pass of a source that has fewer. What is rarer than 1 in so many is not seen."""
    seed: int = 0
    """Names the sample (and the planted source)."""


def operation(chosen: Callable[..., Operate]) -> Callable[..., None]:
    """A command from what says, for its settings, how to operate: operate on a coder, keep the new one, and show both."""
    hints = typing.get_type_hints(chosen, include_extras=True)
    settings = [p.replace(annotation=hints[p.name]) for p in inspect.signature(chosen).parameters.values()]

    def command(
        coder: Annotated[str, CODER], /, *, job: Job,
        again: AGAIN = "missing", machine: Machine = MACHINE, common: Common = COMMON, **given: Any,
    ) -> None:  # fmt: skip
        from assay.cli.source import open_store

        own = pick(given, settings)
        operate = chosen(**own)
        store = open_store(common, create=False)
        old = _operated(chosen.__name__, own, operate, coder, store, job, again, machine, common, given)
        _shown(old, job.name, store, common)

    command.__name__, command.__doc__ = chosen.__name__, chosen.__doc__
    return app.command(takes(settings, SOURCE, TEXT)(command))


@operation
def prune(
    *, dead: Annotated[bool, Parameter(negative="")] = False, below: float = 0.0, dense: float | None = None,
    fold: bool | None = None,
) -> Operate:  # fmt: skip
    """Take latents out: those that never fire, that fire too rarely, or too often.

    Parameters
    ----------
    dead
        Latents that fire on none of the vectors. Reconstructions stay as they are.
    below
        Latents that fire on less than this share of the vectors.
    dense
        Latents that fire on more than this share of the vectors, e.g. 0.1.
    fold
        Add the mean of what is lost to b_dec. Left out: where that lowers the FVU.
    """
    from assay import surgery

    if not dead and not below and dense is None:
        raise BadInput("Say which latents are to go: --dead, --below 1e-5, --dense 0.1, or several of them.")

    def operate(coder: Any, batch: Any) -> Any:
        often = surgery.firing(coder, batch.x)
        gone = surgery.dead(often, below) & bool(dead or below)
        if dense is not None:
            gone |= surgery.dense(often, dense)
        return surgery.prune(coder, ~gone, batch.x, batch.y, fold=fold)

    return operate


@operation
def merge(*, cosine: float = 0.9) -> Operate:
    """Make one latent of those that say the same: alike in their decoder rows, and in their encoders or activations.

    Parameters
    ----------
    cosine
        From which cosine on latents are alike.
    """
    from assay import surgery

    return lambda coder, batch: surgery.merge(coder, batch.x, cosine, batch.y)


@operation
def recalibrate(*, l0: float) -> Operate:
    """Move the thresholds to another mean L0; ReLU, p-anneal and gated coders become JumpReLU coders.

    Parameters
    ----------
    l0
        The mean number of active latents wanted.
    """
    from assay import surgery

    return lambda coder, batch: surgery.recalibrate(coder, batch.x, l0, batch.y)


@operation
def convert() -> Operate:
    """Make a JumpReLU coder of any: the same function, or for TopK that of the same L0."""
    from assay import surgery

    return lambda coder, batch: surgery.to_jumprelu(coder, batch.x, batch.y)


def _operated(
    operation: str, settings: Mapping[str, Any], operate: Operate, ref: str, store: Store, job: Job,
    again: Again, machine: Machine, common: Common, given: Mapping[str, Any],
) -> str:  # fmt: skip
    """Operate on a coder and keep the new one, where that is to be done. Gives the old one's name."""
    from assay import surgery
    from assay.cli.origin import read_coders
    from assay.releases import references
    from assay.splice import coder_hash
    from assay.store import digest

    loaded, said = read_coders([ref], store)
    ((old, parent),) = loaded.items()
    if store.path("coders", job.name) == references.find(ref, store.root).path:
        raise BadInput(f"The new coder needs a name of its own; {old!r} is the old one's.")
    with progress(operation, common) as display:
        source = _source(given, old, said[old], store, machine, display, job.seed)
        _check_widths(parent, source)
        data = {"fingerprint": source.fingerprint, "vectors": min(job.tokens, source.tokens or job.tokens), "seed": job.seed}
        key = digest([coder_hash(parent), operation, settings, data])[:16]
        if _to_do(store, job.name, key, again):
            batch = next(iter(source.batches(data["vectors"], job.seed)))
            coder, report = operate(parent.to(machine.torch_device()), batch)
            facts = {"settings": dict(settings)} | data | {"source": source.describe()}
            surgery.save(job.name, coder, report, store, parent=parent, about=said[old], data=facts, key=key)
    return old


def _shown(old: str, new: str, store: Store, common: Common) -> None:
    """The old coder and the new one, as they were measured on the same vectors."""
    done = store.manifest("coders", new)["about"]["surgery"][-1]
    rows = [{"coder": old} | done["before"], {"coder": new} | done["after"]]
    if done["operation"] in ("prune", "merge") and done["before"]["latents"] == done["after"]["latents"]:
        note(f"No latent was to {done['operation']}: {new} is a copy.", common)
    show(rows, common, data=done | {"name": new})
    note(f"in {store.path('coders', new)}. Next: assay eval core {old} {new}", common)


def _check_widths(coder: SparseCoder[Any], source: ActivationSource) -> None:
    from assay.errors import WidthMismatch

    if (coder.d_in, coder.d_out) != (source.d_in, source.d_out):
        raise WidthMismatch(
            f"The coder reads vectors of width {coder.d_in} and predicts {coder.d_out}; the source gives {source.d_in} and "
            f"{source.d_out}. Name the data that it was trained on."
        )


def _source(
    given: Mapping[str, Any], name: str, said: Mapping[str, Any], store: Store, machine: Machine, display: Progress, seed: int
) -> ActivationSource:
    """What flags name, or else the gathered activations that the coder learnt from."""
    from assay.cli.source import Source, open_source
    from assay.corpora.pack import PackConfig

    flags = pick(given, SOURCE)
    if all(flags[p.name] == p.default for p in SOURCE):
        own = said.get("source") or {}
        if own.get("kind") != "stored" or not store.has("activations", own["activations"]):
            raise BadInput(
                f"{name} did not learn from activations that {store.root} has. "
                "Name vectors to measure on: --data, --activations, --planted or --model."
            )
        flags |= {"activations": own["activations"], "site": tuple(own["read"]), "predict": own["predict"]}
    return open_source(Source(**flags), PackConfig(**pick(given, TEXT)), store, machine, display, seed)[0]


def _to_do(store: Store, name: str, key: str, again: Again) -> bool:
    """Whether the operation is not done yet; a name that another coder has is an error rather than a loss."""
    if again == "always" or not store.has("coders", name):
        return True
    about = store.manifest("coders", name)["about"]
    if about.get("run") == key:
        return False
    if again == "missing" or "surgery" not in about:
        raise BadInput(
            f"{store.root} already has a coder named {name!r}, made otherwise. "
            "Give this one another name, or replace the old one with --again always."
        )
    return False
