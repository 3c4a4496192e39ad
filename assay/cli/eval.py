"""assay eval: score trained coders with evals, beside baselines of equal sparsity.

For example:
    assay eval core topk-k32 relu --baselines all
    assay eval core,sparse_probing topk-k32 --tokens 200k --sparse_probing.k 1,5
    assay eval synthetic topk-of-planted --baselines all

Model, site and text are those that the coders were trained on (its held-out part), as their manifests say; flags say otherwise. Evals of
a planted truth need no model: they take coders trained with --planted, and new vectors of that very source.
What is done is kept: after Ctrl-C the same command goes on, and a coder added later costs only its own passes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from assay import registry
from assay.cli.flags import (
    AGAIN,
    COMMON,
    GENERAL,
    MACHINE,
    Common,
    Count,
    Machine,
    about,
    config,
    named,
    options,
    pick,
    takes,
)
from assay.cli.output import note, print_json
from assay.cli.progress import progress
from assay.cli.toml import resolved
from assay.errors import UnknownName

if TYPE_CHECKING:
    from assay.activations.truth import PlantedSource
    from assay.cli.origin import Origin
    from assay.coders.base import SparseCoder
    from assay.models.hf import HFModel
    from assay.progress import Progress
    from assay.results import Record
    from assay.store import Store

ORIGIN = config("cli/origin.py", "Flags", group="Model and text (left out: the coders' own)")
EVALS = {e: options(registry.EVALS.settings(e), group=f"Eval {e}", drop=("tokens", "seed"), prefix=e) for e in registry.EVALS}
app = App(name="eval", help=about(__doc__))


@app.default
@takes(ORIGIN, *EVALS.values())
def eval_(
    evals: Annotated[str, Parameter(metavar="EVAL,EVAL")],
    coders: Annotated[list[str], Parameter(negative=())],
    *,
    tokens: Count | None = None,
    corpus_tokens: Count | None = None,
    baselines: str | None = None,
    seed: int = 0,
    again: AGAIN = "missing",
    config: Annotated[Path | None, Parameter(group=GENERAL, metavar="FILE")] = None,
    machine: Machine = MACHINE,
    common: Common = COMMON,
    **given: Any,
) -> None:
    """
    Parameters
    ----------
    evals
        Names from `assay list evals`, separated by commas.
    coders
        Names of coders in the store, or directories of coders.
    tokens
        Held-out tokens, for evals that read some. Left out: each eval's own default.
    corpus_tokens
        At most this much of the held-out text is tokenised.
    baselines
        Also score these, at the coders' own L0: all, or some of random,pca,identity,permuted_decoder, and oracle
        for coders of a planted source.
    seed
        Names all random choices of the evals.
    config
        A resolved configuration, as it is kept beside the results (TOML); flags override it.
    """
    from assay.cli.origin import Flags, Origin, read_coders, truth_of
    from assay.cli.source import open_store

    chosen = [_eval(name, given, tokens, seed) for name in evals.split(",")]
    store = open_store(common)
    loaded, said = read_coders(coders, store)
    source = truth_of(said) if any(_wants(one, "Truth") for one in chosen) else None
    origin, reads = None, bool(baselines) or any(_wants(one, "Passes") for one in chosen)
    if any(_wants(one, "Passes", "Labelled") for one in chosen):
        origin = Origin.of(said, Flags(**pick(given, ORIGIN)), reads=reads)
    with progress("eval", common) as display:
        records = _measured(chosen, loaded, origin, source, baselines, corpus_tokens, seed, again, store, machine, display)
    flags = {
        "evals": evals,
        "coders": coders,
        "tokens": tokens,
        "corpus-tokens": corpus_tokens,
        "baselines": baselines,
        "seed": seed,
    }
    _keep(records, store, flags | (origin.flags() if origin else {}) | named(given, *EVALS.values()))
    _report(records, common)
    note("Next: assay results table, assay results show NAME, assay results plot curves.png", common)


def _eval(name: str, given: Mapping[str, Any], tokens: int | None, seed: int) -> Any:
    """An eval with its settings from the flags."""
    if name not in registry.EVALS:
        raise UnknownName.among("eval", name, registry.EVALS)
    cls = registry.EVALS.load(name)
    settings = {key.partition("__")[2]: value for key, value in pick(given, EVALS[name]).items()} | {"seed": seed}
    if tokens is not None and any(s.name == "tokens" for s in registry.EVALS.settings(name)):
        settings["tokens"] = tokens
    return cls(cls.Config(**settings))


def _wants(one: Any, *kinds: str) -> bool:
    """Whether an eval has a need of one of these kinds: Passes (held-out text), Labelled, Truth."""
    return any(type(need).__name__ in kinds for need in one.needs().values())


def _measured(
    evals: list[Any], coders: dict[str, SparseCoder[Any]], origin: Origin | None, source: PlantedSource | None,
    baselines: str | None, corpus_tokens: int | None, seed: int, again: Any, store: Store, machine: Machine, display: Progress,
) -> list[Record]:  # fmt: skip
    from assay import corpora
    from assay.baselines import matched
    from assay.cli.source import open_model, open_tokens
    from assay.evaluate import evaluate

    model = open_model(origin.model, origin.model_dtype, machine, display) if origin else None
    device, text = model.device if model else machine.torch_device(), None
    coders = {name: coder.to(device) for name, coder in coders.items()}
    if origin and model and origin.corpus and any(_wants(one, "Passes") for one in evals):
        text = open_tokens(origin.corpus, origin.text("held_out", corpus_tokens), model, store, display)
    wanted = None if baselines in (None, "all") else baselines.split(",")
    if baselines and origin and model:
        coders = coders | _baselines(wanted, coders, origin, model, store, seed, display)
    elif baselines and source:
        twins = matched(coders, source, wanted, store=store, seed=seed)
        coders = coders | {name: coder.to(device) for name, coder in twins.items()}
    about: dict[str, Any] = {
        "model": model,
        "site": origin.site if origin else None,
        "text": text,
        "planted": source,
        "labelled": corpora.load,
    }
    return evaluate(coders, evals, store=store, again=again, progress=display, **about)


def _baselines(
    wanted: list[str] | None, coders: dict[str, Any], origin: Origin, model: HFModel, store: Store, seed: int, display: Progress
) -> dict[str, SparseCoder[Any]]:
    """Baselines at the coders' own L0, fitted to the text they learnt from, in the store like them."""
    from assay.activations import Live
    from assay.baselines import matched
    from assay.cli.source import open_tokens

    assert origin.corpus is not None
    text = open_tokens(origin.corpus, origin.text("train", origin.packing["max_tokens"]), model, store, display)
    source = Live(model, text, origin.site, buffer_rows=128)
    facts = {"model": {"name": origin.model, "fingerprint": model.fingerprint}, "site": origin.site}
    return matched(coders, source, wanted, store=store, about=facts, seed=seed)


def _keep(records: list[Record], store: Store, flags: Mapping[str, Any]) -> None:
    """The resolved configuration beside the results, under the name of their setting."""
    from assay.store import write_atomic

    for eval, setting in {(record.eval, record.setting) for record in records}:
        write_atomic(store.path("results", eval) / f"{setting}.toml", resolved("eval", flags))


def _report(records: list[Record], common: Common) -> None:
    from assay import codec
    from assay.cli.results import tables

    if common.json:
        print_json([codec.to_data(r) for r in records])
    else:
        tables(records, None, common)
