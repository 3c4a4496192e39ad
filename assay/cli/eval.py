"""assay eval: score trained coders with evals, beside baselines of equal sparsity.

For example:
    assay eval core topk-k32 relu --baselines all
    assay eval core,sparse_probing topk-k32 --tokens 200k --sparse_probing.k 1,5
    assay eval all topk-k32 relu --preset fast --baselines all     every eval that these coders can take, within minutes
    assay eval synthetic topk-of-planted --baselines all

Model, site and text are those that the coders were trained on (its held-out part), as their manifests say; flags say otherwise. Evals of
a planted truth need no model: they take coders trained with --planted, and new vectors of that very source.
What is done is kept: after Ctrl-C the same command goes on, and a coder added later costs only its own passes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

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
from assay.errors import BadInput, UnknownName

if TYPE_CHECKING:
    from assay.activations.truth import PlantedSource
    from assay.cli.origin import About, Origin
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
    preset: Literal["default", "fast", "paper"] = "default",
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
        Names from `assay list evals`, separated by commas; or all: those that these coders can take.
    coders
        Names of coders in the store, or directories of coders.
    tokens
        Held-out tokens, for evals that read some. Left out: each eval's own default.
    corpus_tokens
        At most this much of the held-out text is tokenised.
    baselines
        Also score these, at the coders' own L0: all, or some of random,pca,identity,permuted_decoder, and oracle
        for coders of a planted source.
    preset
        Settings of every eval: fast is for a CPU, paper those of the published figures (hours, and data from the hub);
        see the eval's page. Flags override single settings.
    seed
        Names all random choices of the evals.
    config
        A resolved configuration, as it is kept beside the results (TOML); flags override it.
    """
    from assay.cli.origin import Flags, Origin, is_planted, read_coders, truth_of
    from assay.cli.source import open_store
    from assay.evaluate import eval_name, reads

    store = open_store(common)
    loaded, said = read_coders(coders, store)
    names = list(registry.EVALS) if evals == "all" else evals.split(",")
    chosen = [_eval(name, given, preset, tokens, seed) for name in names]
    flags = Flags(**pick(given, ORIGIN))
    planted = is_planted(said) and flags.model is None
    chosen = [one for one in chosen if evals != "all" or reads(one) in ("nothing", "planted" if planted else "model")]
    source = truth_of(said) if planted or any(reads(one) == "planted" for one in chosen) else None
    origin = None
    if any(reads(one) == "model" for one in chosen) or (baselines and source is None):
        if planted:
            unfit = ", ".join(eval_name(one) for one in chosen if reads(one) == "model")
            raise BadInput(
                f"{unfit}: {', '.join(said)} learnt from planted vectors, which no language model makes, so there is nothing to splice "
                "into. Evaluate synthetic instead, or name a --model, --site and --corpus of that width."
            )
        origin = Origin.of(said, flags, reads=bool(baselines) or any(_reads_text(one) for one in chosen))
    bench = _Bench(origin, source, None if baselines in (None, "all") else baselines.split(","), corpus_tokens, seed)
    with progress("eval", common) as display:
        records = bench.measured(chosen, loaded, said, bool(baselines), again, store, machine, common, display)
    asked = {"evals": evals, "coders": coders, "tokens": tokens, "corpus-tokens": corpus_tokens, "baselines": baselines}
    asked |= {"preset": preset, "seed": seed} | (origin.flags() if origin else {}) | named(given, *EVALS.values())
    _keep(records, store, asked)
    _report(records, common)
    note("Next: assay results table, assay results show NAME, assay results plot curves.png", common)


def _eval(name: str, given: Mapping[str, Any], preset: str, tokens: int | None, seed: int) -> Any:
    """An eval with its settings from the preset, and from the flags."""
    if name not in registry.EVALS:
        raise UnknownName.among("eval", name, registry.EVALS)
    cls = registry.EVALS.load(name)
    flags = {key.partition("__")[2]: value for key, value in pick(given, EVALS[name]).items()}
    settings = {"seed": seed} | registry.EVALS.presets(name).get(preset, {}) | flags
    if tokens is not None and any(s.name == "tokens" for s in registry.EVALS.settings(name)):
        settings["tokens"] = tokens
    return cls(cls.Config(**settings))


def _reads_text(one: Any) -> bool:
    """Whether an eval needs held-out text."""
    return any(type(need).__name__ == "Passes" for need in one.needs().values())


@dataclass(frozen=True)
class _Bench:
    """What coders are measured on, as the flags and their manifests say."""

    origin: Origin | None
    source: PlantedSource | None
    baselines: list[str] | None
    corpus_tokens: int | None
    seed: int

    def measured(
        self, evals: list[Any], coders: dict[str, SparseCoder[Any]], said: About, baselines: bool, again: Any, store: Store,
        machine: Machine, common: Common, display: Progress,
    ) -> list[Record]:  # fmt: skip
        from assay import corpora
        from assay.cli.origin import places_of
        from assay.cli.source import open_model, open_tokens
        from assay.evaluate import evaluate

        origin = self.origin
        model = open_model(origin.model, origin.model_dtype, machine, display) if origin else None
        device, text = model.device if model else machine.torch_device(), None
        coders = {name: coder.to(device) for name, coder in coders.items()}
        if origin and model and origin.corpus and any(_reads_text(one) for one in evals):
            text = open_tokens(origin.corpus, origin.text("held_out", self.corpus_tokens), model, store, display)
        places = places_of(said)
        if baselines:
            twins = self._baselines(coders, model, store, display)
            shared = next(iter(places.values())) if len({repr(place) for place in places.values()}) == 1 else {}
            coders, places = coders | {n: c.to(device) for n, c in twins.items()}, dict.fromkeys(twins, shared) | places
        about: dict[str, Any] = {
            "model": model, "site": origin.site if origin else None, "text": text, "planted": self.source,
            "labelled": corpora.load, "origins": places,
        }  # fmt: skip
        foresee = lambda estimate: note(str(estimate), common)  # noqa: E731
        return evaluate(coders, evals, store=store, again=again, foresee=foresee, progress=display, **about)

    def _baselines(
        self, coders: dict[str, Any], model: HFModel | None, store: Store, display: Progress
    ) -> dict[str, SparseCoder[Any]]:
        """Baselines at the coders' own L0, fitted to what they learnt from, in the store like them."""
        from assay.activations import Live
        from assay.baselines import matched
        from assay.cli.source import open_tokens

        origin = self.origin
        if origin is None or model is None:
            assert self.source is not None
            return matched(coders, self.source, self.baselines, store=store, seed=self.seed)
        assert origin.corpus is not None
        text = open_tokens(origin.corpus, origin.text("train", origin.packing["max_tokens"]), model, store, display)
        source = Live(model, text, origin.site, buffer_rows=128)
        facts = {"model": {"name": origin.model, "fingerprint": model.fingerprint}, "site": origin.site}
        return matched(coders, source, self.baselines, store=store, about=facts, seed=self.seed)


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
