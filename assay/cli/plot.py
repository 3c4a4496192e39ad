"""plot: `assay results plot`, figures of results and trainings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from assay.cli.flags import COMMON, Common, listed
from assay.cli.output import note, print_json
from assay.cli.results import Names, open_, select
from assay.cli.which import WHICH, Which
from assay.errors import BadInput

if TYPE_CHECKING:
    from assay.figures.base import Figure

Kind = Literal["l0", "width", "tokens", "training", "correlation"]
GOES_WITH: dict[str, tuple[Kind, ...]] = {"at_l0": ("l0", "width"), "pareto": ("l0",), "baselines": ("correlation",)}
"""Options that only some kinds of figure have."""


def plot(
    path: Path,
    /,
    *,
    kind: Kind = "l0",
    eval: str | None = None,
    metrics: Names = None,
    at_l0: Annotated[float | None, Parameter(metavar="L0")] = None,
    pareto: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    baselines: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    which: Which = WHICH,
    common: Common = COMMON,
) -> None:
    """
    Parameters
    ----------
    path
        A .png, .svg or .html file to write. The .html needs no network: it shows values on hover, and lets its reader choose axes.
    kind
        l0: metrics against L0, a line an architecture. width: against the number of latents, at one L0, interpolated. tokens: against
        what coders learnt from, a line for those that differ in nothing else. training: the rows of trainings. correlation: which
        metrics go along with which, over coders.
    eval
        Only this eval.
    metrics
        Full names (see `results show`), separated by commas: a panel each. Left out: of core, loss recovered and fraction of variance
        unexplained; of each other eval its first. With --kind training, columns of train.jsonl.
    at_l0
        l0: also what each line gives at this L0, interpolated. width: the L0 to compare at; left out, one that most sweeps reach.
    pareto
        l0: mark what no other coder beats at its L0 or less.
    baselines
        correlation: count baselines too.
    """
    from assay import figures

    given = {"at_l0": at_l0 is not None, "pareto": pareto, "baselines": baselines}
    for name, kinds in GOES_WITH.items():
        if given[name] and kind not in kinds:
            raise BadInput(f"--{name.replace('_', '-')} goes with --kind {' or '.join(kinds)}, not with {kind}. Leave it out.")
    figures.kind_of(path)  # refuses what cannot be written, before anything is read
    names = listed(metrics)
    figures.save(_figure(kind, eval, names, at_l0, pareto, baselines, which, common), path)
    print_json({"path": str(path)}) if common.json else note(f"wrote {path}", common)


def _figure(
    kind: Kind, eval: str | None, names: list[str] | None, at: float | None, pareto: bool, baselines: bool, which: Which, common: Common
) -> Figure:  # fmt: skip
    from assay import figures
    from assay.figures.training import trained

    store = open_(common)
    if kind == "training":
        if eval is not None:
            raise BadInput("--eval goes with results, not with --kind training. Leave it out.")
        everything, _ = select(store, None, WHICH)
        return figures.curves(which.of(trained(store, everything), everything), names)  # type: ignore[arg-type]
    everything, records = select(store, eval, which)
    shared: dict[str, Any] = {"metrics": names, "everything": everything}
    if kind == "correlation":
        return figures.correlation(records, **shared, baselines=baselines)
    if kind == "width":
        return figures.against_width(records, **shared, at=at)
    tokens = {t.coder_hash: t.tokens for t in trained(store, everything)}
    if kind == "tokens":
        return figures.against_tokens(records, **shared, tokens=tokens)
    return figures.against_l0(records, **shared, tokens=tokens, at=at, front=pareto)
