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

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Group, Parameter

from assay.cli.flags import AGAIN, COMMON, MACHINE, Again, Common, Count, Machine, about, config, pick, takes
from assay.cli.output import note, show
from assay.cli.progress import progress
from assay.errors import BadInput

if TYPE_CHECKING:
    from assay.activations.base import ActivationSource
    from assay.coders.base import Batch, SparseCoder
    from assay.progress import Progress
    from assay.store import Store

SOURCE = config("cli/source.py", "Source", group="Source")
TEXT = config(
    "corpora/pack.py", "PackConfig", group="Text",
    drop=("layout",), rename={"max_tokens": "corpus_tokens"}, defaults={"split": "train"},
)  # fmt: skip
Operate = Callable[["SparseCoder[Any]", "Batch"], "tuple[SparseCoder[Any], dict[str, Any]]"]
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


@app.command
@takes(SOURCE, TEXT)
def prune(
    coder: str, /, *, dead: Annotated[bool, Parameter(negative="")] = False, below: float = 0.0, dense: float | None = None,
    fold: bool | None = None, job: Job, again: AGAIN = "missing", machine: Machine = MACHINE, common: Common = COMMON, **given: Any,
) -> None:  # fmt: skip
    """Take latents out: those that never fire, that fire too rarely, or too often.

    Parameters
    ----------
    coder
        A coder's name in the store, or its directory.
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

    def operate(coder: SparseCoder[Any], batch: Batch) -> Any:
        often = surgery.firing(coder, batch.x)
        gone = surgery.dead(often, below) & bool(dead or below)
        if dense is not None:
            gone |= surgery.dense(often, dense)
        return surgery.prune(coder, ~gone, batch.x, batch.y, fold=fold)

    _run(
        "prune",
        {"dead": dead, "below": below, "dense": dense, "fold": fold},
        operate,
        coder,
        job,
        again,
        machine,
        common,
        given,
    )


@app.command
@takes(SOURCE, TEXT)
def merge(
    coder: str, /, *, cosine: float = 0.9, job: Job,
    again: AGAIN = "missing", machine: Machine = MACHINE, common: Common = COMMON, **given: Any,
) -> None:  # fmt: skip
    """Make one latent of those that say the same: alike in their decoder rows, and in their encoders or activations.

    Parameters
    ----------
    coder
        A coder's name in the store, or its directory.
    cosine
        From which cosine on latents are alike.
    """
    from assay import surgery

    def operate(coder: SparseCoder[Any], batch: Batch) -> Any:
        return surgery.merge(coder, batch.x, cosine, batch.y)

    _run("merge", {"cosine": cosine}, operate, coder, job, again, machine, common, given)


@app.command
@takes(SOURCE, TEXT)
def recalibrate(
    coder: str, /, *, l0: float, job: Job,
    again: AGAIN = "missing", machine: Machine = MACHINE, common: Common = COMMON, **given: Any,
) -> None:  # fmt: skip
    """Move the thresholds to another mean L0; ReLU, p-anneal and gated coders become JumpReLU coders.

    Parameters
    ----------
    coder
        A coder's name in the store, or its directory.
    l0
        The mean number of active latents wanted.
    """
    from assay import surgery

    def operate(coder: SparseCoder[Any], batch: Batch) -> Any:
        return surgery.recalibrate(coder, batch.x, l0, batch.y)

    _run("recalibrate", {"l0": l0}, operate, coder, job, again, machine, common, given)


@app.command
@takes(SOURCE, TEXT)
def convert(
    coder: str, /, *, job: Job, again: AGAIN = "missing", machine: Machine = MACHINE, common: Common = COMMON, **given: Any
) -> None:
    """Make a JumpReLU coder of any: the same function, or for TopK that of the same L0.

    Parameters
    ----------
    coder
        A coder's name in the store, or its directory.
    """
    from assay import surgery

    def operate(coder: SparseCoder[Any], batch: Batch) -> Any:
        return surgery.to_jumprelu(coder, batch.x, batch.y)

    _run("convert", {}, operate, coder, job, again, machine, common, given)


def _run(
    operation: str, settings: Mapping[str, Any], operate: Operate, ref: str, job: Job,
    again: Again, machine: Machine, common: Common, given: Mapping[str, Any],
) -> None:  # fmt: skip
    """Operate on a coder, keep the new one, and show both."""
    from assay import surgery
    from assay.cli.origin import read_coders
    from assay.cli.source import entry, open_store
    from assay.splice import coder_hash
    from assay.store import digest

    store = open_store(common, create=False)
    loaded, said = read_coders([ref], store)
    ((old, parent),) = loaded.items()
    if store.path("coders", job.name) == entry(store, "coders", ref):
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
    done = store.manifest("coders", job.name)["about"]["surgery"][-1]
    rows = [{"coder": old} | done["before"], {"coder": job.name} | done["after"]]
    if done["operation"] in ("prune", "merge") and done["before"]["latents"] == done["after"]["latents"]:
        note(f"No latent was to {operation}: {job.name} is a copy.", common)
    show(rows, common, data=done | {"name": job.name})
    note(f"in {store.path('coders', job.name)}. Next: assay eval core {old} {job.name}", common)


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
