"""assay eval: score trained coders with evals, beside baselines of equal sparsity.

For example:
    assay eval core topk-k32 relu --baselines all
    assay eval core,sparse_probing topk-k32 --tokens 200k --sparse_probing.k 1,5
    assay eval all topk-k32 relu --preset fast --baselines all     every eval that these coders can take, within minutes
    assay eval synthetic topk-of-planted --baselines all

Model, site and text are those that the coders were trained on (its held-out part), as their manifests say; flags say otherwise. Evals of
a planted truth need no model: they take coders trained with --planted, and new vectors of that very source.
Settings of an eval are flags of its name, as --sparse_probing.k; `assay eval NAME --help` tells them.
What is done is kept: after Ctrl-C the same command goes on, and a coder added later costs only its own passes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
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
    options,
    pick,
    takes,
)
from assay.cli.output import note, print_json
from assay.cli.progress import progress
from assay.cli.reading import MIRROR
from assay.cli.toml import resolved
from assay.errors import UnknownName

if TYPE_CHECKING:
    from assay.cli.bench import Bench
    from assay.results import Record
    from assay.store import Store

ORIGIN = config("cli/origin.py", "Flags", group="Model and text (left out: the coders' own)")
SHARED = ("tokens", "seed")  # settings with one flag for all evals


def build(words: Sequence[str]) -> App:
    """The command for these words: it takes the settings of the evals that they name; of every one with `all` or `--config`."""
    every = not {"all", "--config"}.isdisjoint(word.partition("=")[0] for word in words)
    said = {part.partition(".")[0].removeprefix("--") for word in words for part in word.split(",")}
    groups = [
        options(registry.EVALS.settings(e), group=f"Eval {e}", drop=SHARED, prefix=e)
        for e in registry.EVALS
        if every or e in said
    ]
    app = App(name="eval", help=about(__doc__))
    app.default(takes(ORIGIN, *groups)(eval_))
    return app


def eval_(
    evals: Annotated[str, Parameter(metavar="EVAL,EVAL")],
    coders: Annotated[list[str], Parameter(negative=())],
    *, tokens: Count | None = None, corpus_tokens: Count | None = None, baselines: str | None = None,
    frozen_tokens: Count | None = None, preset: Literal["default", "fast", "paper"] = "default", seed: int = 0,
    mirror: MIRROR = None, again: AGAIN = "missing",
    config: Annotated[Path | None, Parameter(group=GENERAL, metavar="FILE")] = None,
    machine: Machine = MACHINE, common: Common = COMMON, said: frozenset[str] = frozenset(), **given: Any,
) -> None:  # fmt: skip
    """
    Parameters
    ----------
    evals
        Names from `assay list evals`, separated by commas; or all: those that these coders can take.
    coders
        Coders, separated by spaces: names in the store; files, of any format; RELEASE/ID of `assay list releases`; hf:owner/name/path.
    tokens
        Held-out tokens, for evals that read some. Left out: each eval's own default.
    corpus_tokens
        At most this much of the held-out text is tokenised.
    baselines
        Also score these, at the coders' own L0: all, or some of random,pca,identity,permuted_decoder,frozen_decoder, and oracle
        for coders of a planted source.
    frozen_tokens
        Vectors that the encoders of frozen decoders learn from, otherwise as the first coder did. Left out: as many as it
        learnt from where frozen_decoder is named, and no frozen decoders with all.
    preset
        Settings of every eval: fast is for a CPU, paper those of the published figures (hours, and data from the hub);
        see the eval's page. Flags override single settings.
    seed
        Names all random choices of the evals.
    config
        A resolved configuration, as it is kept beside the results (TOML); flags override it.
    """
    from assay.cli.bench import Bench, suited
    from assay.cli.origin import Flags, elsewhere, read_coders
    from assay.cli.source import open_store

    store = open_store(common)
    settings, names = {key: given[key] for key in said}, list(registry.EVALS) if evals == "all" else evals.split(",")
    chosen = {name: _eval(name, settings, preset, tokens, seed) for name in names}
    loaded, manifests = read_coders(coders, store, mirror)
    flags = Flags(**pick(given, ORIGIN))
    if evals == "all":
        chosen = suited(chosen, manifests, flags)
    bench = Bench.of(chosen, manifests, flags, baselines, frozen_tokens, corpus_tokens, seed)
    for line in elsewhere(manifests, flags.site if bench.origin else None):
        note(line, common)
    with progress("eval", common) as display:
        records = bench.measured(chosen, loaded, manifests, again, store, machine, common, display)
    said_of = {"coders": coders, "tokens": tokens, "corpus_tokens": corpus_tokens, "baselines": baselines, "preset": preset}
    _keep(records, store, _asked(chosen, bench, **said_of, frozen_tokens=frozen_tokens, seed=seed))
    _report(records, common)
    note("Next: assay results table, assay results show NAME, assay results plot curves.png", common)


def _asked(chosen: Mapping[str, Any], bench: Bench, **flags: Any) -> dict[str, Any]:
    """The command in full, as flags: what was typed, and every setting of the evals."""
    asked = {"evals": ",".join(chosen)} | {name.replace("_", "-"): value for name, value in flags.items()} | bench.flags()
    for name, one in chosen.items():
        own = {key: value for key, value in asdict(one.config).items() if key not in SHARED}
        asked |= {f"{name}.{key.replace('_', '-')}": value for key, value in own.items()}
    return asked


def _eval(name: str, said: Mapping[str, Any], preset: str, tokens: int | None, seed: int) -> Any:
    """An eval with its settings from the preset, and over these from the flags that were typed."""
    if name not in registry.EVALS:
        raise UnknownName.among("eval", name, registry.EVALS)
    cls = registry.EVALS.load(name)
    flags = {key.removeprefix(f"{name}__"): value for key, value in said.items() if key.startswith(f"{name}__")}
    settings = {"seed": seed} | registry.EVALS.presets(name).get(preset, {}) | flags
    if tokens is not None and any(s.name == "tokens" for s in registry.EVALS.settings(name)):
        settings["tokens"] = tokens
    return cls(cls.Config(**settings))


def __getattr__(name: str) -> App:
    """`app`: the command with the settings of every eval."""
    if name == "app":
        return build(["all"])
    raise AttributeError(name)


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
