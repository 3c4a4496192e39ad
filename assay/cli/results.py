"""assay results: what the evals found: tables, all scores of a coder, plots, export and import.

For example:
    assay results table                    the leaderboard: coders against the best baseline at their own L0
    assay results table --against topk     every coder's scores minus those of one coder, paired, with p
    assay results table --at-l0 50         each architecture's scores at L0 50, interpolated along its own sweep
    assay results show topk-k32            every score of one coder, with its interval
    assay results plot curves.png          metrics against L0, a line an architecture, with intervals
    assay results plot curves.html         the same as a page that answers: hover, choice of axes, no network
    assay results plot widths.svg --kind width --at-l0 50
    assay results export --format csv      all scores, for other tools
    assay results import saebench FILES    published results of SAEBench onto the same tables, marked

Intervals are 95 % confidence intervals. Records of different settings (model, site, text, configuration) are never mixed:
`--setting` picks one; `--model`, `--site`, `--architecture`, `--width` and `--l0` narrow further.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from assay.cli.flags import COMMON, Common, about, listed
from assay.cli.output import show
from assay.cli.which import WHICH, Which
from assay.errors import BadInput, UnknownName

if TYPE_CHECKING:
    from assay.results import Place, Record, Score
    from assay.store import Store

ZEROED = "all zeroed"
"""Column of loss recovered where zero stands at all positions, special ones too, as in published results of SAEBench."""
EMPTY = "No results yet. Make some with `assay eval core CODER…`."
Names = Annotated[str | None, Parameter(metavar="NAME,NAME")]
FIGURES = "Figures: metrics against L0, width or tokens, training curves, correlations; as a picture or an interactive page."
app = App(name="results", help=about(__doc__))
app.command("assay.cli.plot:plot", name="plot", help=FIGURES)
app.command("assay.cli.exchange:export", name="export")
app.command("assay.cli.exchange:import_", name="import")


@app.command
def table(
    *,
    eval: str | None = None,
    metrics: Names = None,
    against: Annotated[str | None, Parameter(metavar="CODER")] = None,
    at_l0: Annotated[float | None, Parameter(metavar="L0")] = None,
    seeds: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    pareto: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    normalised: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    which: Which = WHICH,
    common: Common = COMMON,
) -> None:
    """The leaderboard, and a table for each other eval; or one of four comparisons.

    Parameters
    ----------
    eval
        Only this eval.
    metrics
        Only these metrics, by their full names (see `results show`), separated by commas.
    against
        Each coder's scores minus those of this coder, paired over documents, examples or classes, with the p of a permutation test.
    at_l0
        Each architecture's scores at this L0, interpolated along its sweep; a sweep that does not reach it is left out.
    seeds
        Mean, standard deviation and coefficient of variation over coders that differ in the seed alone.
    pareto
        Mark what no other coder of its setting beats at its L0 or less, in the metric's own direction.
    normalised
        Scores on the scale from their metric's floor (0) to its ceiling (1) beside the raw ones.
    """
    from assay.cli import comparisons

    if (against is not None) + (at_l0 is not None) + seeds + (pareto or normalised) > 1:
        raise BadInput(
            "--against, --at-l0 and --seeds make a table each, and --pareto and --normalised one; choose one of these."
        )
    everything, chosen = select(open_(common), eval, which)
    names = listed(metrics)
    if against is not None:
        comparisons.show_all(chosen, names, common, comparisons.against(everything, against))
    elif at_l0 is not None:
        comparisons.show_all(chosen, names, common, comparisons.at_l0(everything, at_l0))
    elif seeds:
        comparisons.show_all(chosen, names, common, comparisons.seeds)
    elif pareto or normalised or common.json:
        comparisons.show_all(chosen, names, common, comparisons.scores(everything, pareto, normalised), all_=common.json)
    else:
        tables(chosen, names, common, among=everything)


@app.command(name="show")
def show_(coder: str, /, *, eval: str | None = None, which: Which = WHICH, common: Common = COMMON) -> None:
    """Every score of one coder.

    Parameters
    ----------
    coder
        Its name.
    eval
        Only this eval.
    """
    from assay import codec

    _, records = select(open_(common), eval, which)
    mine = [r for r in records if r.coder == coder]
    if not mine:
        raise UnknownName.among("coder with results", coder, {r.coder for r in records}, more="" if records else EMPTY)
    rows = [
        {"eval": r.eval, "metric": s.spec, "value": s.value, "low": s.low, "high": s.high, "n": s.n}
        | ({"reason": s.reason} if any(o.reason for o in r.scores) else {})
        for r in mine
        for s in r.scores
    ]
    show(rows, common, data=[codec.to_data(r) for r in mine])


def leaderboard(store: Store, common: Common) -> None:
    """The leaderboard of a store."""
    from assay import results

    show(places(results.leaderboard(results.load(store, "core"))), common, empty=EMPTY)


def tables(records: list[Record], metrics: list[str] | None, common: Common, among: Sequence[Record] | None = None) -> None:
    """Print the leaderboard for core, and for each other eval a row a coder. `among`: whatever baselines are taken from."""
    from assay import results

    if not records:
        print(EMPTY)
    for i, (name, (part, asked)) in enumerate(asked_of(records, metrics).items()):
        print(f"\n{name}" if i else name)
        if name == "core" and asked is None:
            board = results.leaderboard(part if among is None else among)
            shown = [p for p in board if p.record.key in {r.key for r in part}]
            show(places(shown), common, empty="No coder has an L0 and a loss.")
        else:
            names = asked or headline(part)
            rows = [_cells(row) for row in results.table(part, names)] + without_coder(part, names)
            show(without_constants(rows), common)


def headline(records: list[Record]) -> list[str]:
    """Full names of an eval's first metric: what a table shows when nothing else is asked for.

    Those in which no two coders differ (what a probe without a coder reaches) are facts of the model, and left to `results show`.
    Imported records may have another first metric than ours.
    """
    first = {r.scores[0].metric for r in records}
    specs = dict.fromkeys(s.spec for metric in sorted(first) for r in records for s in whole(r, metric))
    telling = [s for s in specs if len({r.value(s) for r in records}) > 1]
    return telling or list(specs)


def whole(record: Record, metric: str) -> list[Score]:
    """Scores of a metric that are no part of another of its scores, such as that of one dataset, class or letter."""
    found = [s for s in record.scores if s.metric == metric and "dataset" not in s.where]
    return [s for s in found if not any(o.where.items() < s.where.items() for o in found)]


def without_coder(records: list[Record], names: list[str]) -> list[dict[str, Any]]:
    """A row for each setting with what the model's own activations reach where coders are judged by probes on their latents."""
    from assay.results import cell

    twins = {name: name.replace("on=latents", "on=activations") for name in names}
    first = {r.setting: r for r in reversed(records)}
    return [
        {"coder": "(activations themselves)", "architecture": "–", "setting": setting[:6]}
        | {name: cell(r.score(twin)) for name, twin in twins.items()}
        for setting, r in first.items()
        if any(twin != name and r.score(twin) for name, twin in twins.items())
    ]


def places(board: list[Place]) -> list[dict[str, Any]]:
    """Rows of the leaderboard."""
    from assay.results import cell

    rows = [
        {
            "coder": p.record.coder,
            "L0": round(p.l0, 1),
            "loss recovered": cell(p.record.score("loss_recovered[ablation=mean]")),
            "over baseline": cell(p.advantage),
            ZEROED: cell(p.record.score("loss_recovered[ablation=zero_everywhere]")),
            "FVU": cell(p.record.score("fvu")),
            "baseline": p.rival or "–",
            "architecture": p.record.about["architecture"],
            "setting": p.record.setting[:6],
        }
        for p in board
    ]
    if all(row[ZEROED] == "–" for row in rows):
        rows = [{k: v for k, v in row.items() if k != ZEROED} for row in rows]
    return without_constants(rows)


def open_(common: Common) -> Store:
    """The store, which must be there."""
    from assay.cli.source import open_store

    return open_store(common, create=False)


def select(store: Store, eval: str | None, which: Which) -> tuple[list[Record], list[Record]]:
    """(newest versions of all records, those of them that are asked for)."""
    from assay import results

    found = results.latest(results.load(store))
    if eval is not None and eval not in (known := {r.eval for r in found}):
        raise UnknownName.among("eval with results", eval, known, more="" if found else EMPTY)
    return found, which.of([r for r in found if eval in (None, r.eval)], found)


def by_eval(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Records of each eval."""
    return {name: [r for r in records if r.eval == name] for name in dict.fromkeys(r.eval for r in records)}


def asked_of(records: Sequence[Record], metrics: list[str] | None) -> dict[str, tuple[list[Record], list[str] | None]]:
    """Records of each eval, and those of the metrics that it has (None where none are asked for); evals with none of them are left out."""
    from assay import results

    if records and metrics is not None:
        results.table(records, metrics)  # refuses what no eval has
    found = {}
    for name, part in by_eval(records).items():
        asked = None if metrics is None else [m for m in metrics if any(r.score(m) for r in part)]
        if asked is None or asked:
            found[name] = part, asked
    return found


def _cells(row: dict[str, Any]) -> dict[str, Any]:
    from assay.results import cell

    kept = {k: v for k, v in row.items() if k not in ("eval", "baseline")}
    return {k: v[:6] if k == "setting" else cell(v) for k, v in kept.items()}


def without_constants(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without the setting where all have the same one."""
    if len({row["setting"] for row in rows}) > 1:
        return rows
    return [{k: v for k, v in row.items() if k != "setting"} for row in rows]
