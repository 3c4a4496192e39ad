"""comparisons: tables of `assay results table` that set coders side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from assay.cli.flags import Common
from assay.cli.output import print_json, show
from assay.cli.results import EMPTY, asked_of, headline, without_constants

if TYPE_CHECKING:
    from assay.results import Record

Rows = Callable[[list["Record"], list[str]], list[dict[str, Any]]]
"""From the records of one eval and full names of metrics to the rows of a table."""


def show_all(records: Sequence[Record], names: list[str] | None, common: Common, rows: Rows, *, all_: bool = False) -> None:
    """A table for each eval, or one list of all rows as JSON. `all_`: every metric without a dataset, where none are named."""
    from assay import codec, results

    found = {}
    for name, (part, asked) in asked_of(records, names).items():
        wanted = asked or (None if all_ else [s for s in results.CORE if any(r.score(s) for r in part)] or headline(part))
        wanted = [n for n in results.table(part, wanted)[0] if n not in results.WHO]
        found[name] = rows(part, wanted)
    if common.json:
        print_json([{k: codec.to_data(v) for k, v in row.items()} for part in found.values() for row in part])
        return
    if not found:
        print(EMPTY)
    for i, (name, part) in enumerate(found.items()):
        print(f"\n{name}" if i else name)
        lines = [{k: _cell(k, v) for k, v in row.items() if k not in ("eval", "baseline")} for row in part]
        show(without_constants(lines), common, empty="Nothing can be compared.")


def scores(everything: Sequence[Record], pareto: bool, normalised: bool) -> Rows:
    """Each score, whether it is on the front against L0, and the score from floor to ceiling (where that is another number)."""
    from assay import results

    l0 = results.sparsities(everything)

    def rows(part: list[Record], names: list[str]) -> list[dict[str, Any]]:
        from assay import compare  # loads the evals, and with them torch

        table = results.table(part, names)
        for name in [n for n in names if n != "l0"] if pareto else ():
            front = compare.front(part, l0, name)
            for record, row in zip(part, table, strict=True):
                row |= {f"{name} on front": record.key in front} if front else {}
        declared = compare.declared(part[0].eval) if normalised else {}
        for name in names if normalised else ():
            scaled = [(s := row[name]) and compare.normalised(s, declared.get(s.metric)) for row in table]
            if any(at and at.value != row[name].value for at, row in zip(scaled, table, strict=True)):
                for at, row in zip(scaled, table, strict=True):
                    row[f"{name} normalised"] = at
        return table

    return rows


def against(everything: Sequence[Record], coder: str) -> Rows:
    """Each coder's scores minus those of `coder`, paired."""
    from assay import compare, results

    references = compare.reference(everything, coder)

    def rows(part: list[Record], names: list[str]) -> list[dict[str, Any]]:
        others = [(r, references[r.setting]) for r in part if r.setting in references and r.coder != coder]
        return [
            results.who(r) | {f"{name} − {coder}": compare.against(r, reference, name) for name in names}
            for r, reference in others
        ]

    return rows


def at_l0(everything: Sequence[Record], l0: float) -> Rows:
    """Each sweep's scores at one L0."""
    from assay import compare, results

    known = results.sparsities(everything)

    def rows(part: list[Record], names: list[str]) -> list[dict[str, Any]]:
        found = []
        for (setting, architecture, width), sweep in compare.sweeps(part).items():
            values = {name: compare.at_l0(sweep, known, l0, name) for name in names if name != "l0"}
            if any(values.values()):
                baseline = any(r.about.get("baseline") for r in sweep)
                row = {"architecture": architecture, "width": width, "baseline": baseline, "coders": len(sweep)}
                found.append(row | {"eval": part[0].eval, "setting": setting, "l0": l0} | values)
        return found

    return rows


def seeds(part: list[Record], names: list[str]) -> list[dict[str, Any]]:
    """Spread over coders that differ in the seed alone."""
    from assay import compare

    return [
        {"coders": ", ".join(r.coder for r in group), "architecture": group[0].about.get("architecture"), "eval": group[0].eval}
        | {"setting": group[0].setting}
        | {name: compare.spread(group, name) for name in names}
        for group in compare.seeds(part)
    ]


def _cell(name: str, value: Any) -> Any:
    from assay.results import cell
    from assay.statistics import Spread

    if name == "setting":
        return value[:6]
    if isinstance(value, Spread):
        return f"{value.mean.value:.3g} ± {value.sd.value:.2g}, CV {cell(value.cv)}"
    p = getattr(value, "p", None)
    return value if isinstance(value, bool | int) else cell(value) + (f", p {p:.2g}" if p is not None else "")
