"""assay eval: score trained coders with evals, beside baselines of equal sparsity.

For example:
    assay eval core topk-k32 relu --baselines all
    assay eval core,sparse_probing topk-k32 --tokens 200k --sparse_probing.k 1,5

Model, site and text are those that the coders were trained on (its held-out part), as their manifests say; flags say otherwise.
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
        Also score these, at the coders' own L0: all, or some of random,pca,identity,permuted_decoder.
    seed
        Names all random choices of the evals.
    config
        A resolved configuration, as it is kept beside the results (TOML); flags override it.
    """
    from assay.cli.origin import Flags, Origin, read_coders
    from assay.cli.source import open_store

    chosen = [_eval(name, given, tokens, seed) for name in evals.split(",")]
    store = open_store(common)
    loaded, said = read_coders(coders, store)
    origin = Origin.of(said, Flags(**pick(given, ORIGIN)), reads=bool(baselines) or any(map(_reads, chosen)))
    with progress("eval", common) as display:
        records = _measured(chosen, loaded, origin, baselines, corpus_tokens, seed, again, store, machine, display)
    flags = {
        "evals": evals,
        "coders": coders,
        "tokens": tokens,
        "corpus-tokens": corpus_tokens,
        "baselines": baselines,
        "seed": seed,
    }
    _keep(records, store, flags | origin.flags() | named(given, *EVALS.values()))
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


def _reads(one: Any) -> bool:
    """Whether an eval needs held-out text."""
    from assay.evals.base import Passes

    return any(isinstance(need, Passes) for need in one.needs().values())


def _measured(
    evals: list[Any], coders: dict[str, SparseCoder[Any]], origin: Origin, baselines: str | None, corpus_tokens: int | None,
    seed: int, again: Any, store: Store, machine: Machine, display: Progress,
) -> list[Record]:  # fmt: skip
    from assay import corpora
    from assay.cli.source import open_model, open_tokens
    from assay.evaluate import evaluate

    model = open_model(origin.model, origin.model_dtype, machine, display)
    coders = {name: coder.to(model.device) for name, coder in coders.items()}
    text = None
    if origin.corpus and any(map(_reads, evals)):
        text = open_tokens(origin.corpus, origin.text("held_out", corpus_tokens), model, store, display)
    if baselines:
        coders = coders | _baselines(baselines, coders, origin, model, store, seed, display)
    return evaluate(
        coders,
        evals,
        model=model,
        site=origin.site,
        store=store,
        text=text,
        labelled=corpora.load,
        again=again,
        progress=display,
    )


def _baselines(
    names: str, coders: dict[str, Any], origin: Origin, model: HFModel, store: Store, seed: int, display: Progress
) -> dict[str, SparseCoder[Any]]:
    """Baselines at the coders' own L0, fitted to the text they learnt from, in the store like them."""
    from assay.activations import Live
    from assay.baselines import matched
    from assay.cli.source import open_tokens

    assert origin.corpus is not None
    text = open_tokens(origin.corpus, origin.text("train", origin.packing["max_tokens"]), model, store, display)
    source = Live(model, text, origin.site, buffer_rows=128)
    facts = {"model": {"name": origin.model, "fingerprint": model.fingerprint}, "site": origin.site}
    wanted = None if names == "all" else names.split(",")
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
