"""exchange: `assay results export` and `assay results import`: scores for other tools, and from them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from assay.cli.flags import COMMON, Common, listed
from assay.cli.output import note, print_json, show
from assay.cli.results import Names, open_, select
from assay.cli.which import WHICH, Which
from assay.errors import BadInput

if TYPE_CHECKING:
    from assay.results import Record

ZEROED = "loss_recovered[ablation=zero_everywhere]"


def export(
    *,
    format: Literal["csv", "json", "markdown", "parquet", "saebench"] = "csv",
    output: Path | None = None,
    eval: str | None = None,
    metrics: Names = None,
    against: Annotated[str | None, Parameter(metavar="CODER")] = None,
    which: Which = WHICH,
    common: Common = COMMON,
) -> None:
    """All scores: csv or parquet (a line a score), json (whole records), markdown (a table), saebench (a file an eval and coder).

    A line of csv also has the L0 of the coder, which direction is better, the score on the scale from floor to ceiling, whether it is on
    the Pareto front against L0, and with `--against` the paired difference.

    Parameters
    ----------
    format
        csv, json, markdown, parquet or saebench (see docs/saebench.md). `--json` means json.
    output
        File to write; for saebench a directory. Left out: standard output, for text.
    eval
        Only this eval.
    metrics
        Only these metrics, by their full names, separated by commas.
    against
        csv, parquet: also each score minus that of this coder, paired, with its interval and the p of a permutation test.
    """
    from assay import compare, results
    from assay.store import write_atomic

    everything, records = select(open_(common), eval, which)
    format = "json" if common.json and format != "saebench" else format
    names, lines = listed(metrics), format in ("csv", "parquet")
    if against is not None and not lines:
        raise BadInput(
            "--against adds columns to csv only, and to parquet. Use one of these, or `results table --against` with --json."
        )
    if format in ("parquet", "saebench") and output is None:
        raise BadInput(f"--format {format} needs --output, {'a directory' if format == 'saebench' else 'a file'} to write.")
    if format == "saebench":
        if names is not None:
            raise BadInput("--metrics does not go with --format saebench, whose files hold what their schema says.")
        assert output is not None
        return _saebench(records, output, common)
    beside = compare.beside(records, everything, against) if lines else results.nothing
    found = results.export(records, format, names, beside)
    if output is None:
        print(found, end="")
    else:
        write_atomic(output, found)
        note(f"wrote {output}", common)


def _saebench(records: list[Record], directory: Path, common: Common) -> None:
    from assay.formats.saebench import writing

    files, left = writing.write(records, directory)
    for name, reason in left.items():
        note(f"left out {name}: {reason}", common)
    if any(r.eval == "core" and r.score(ZEROED) is None for r in records):
        note(
            "core: what SAEBench measures against its ablation is −1. `assay eval core CODER… --core.special` makes it.", common
        )
    if common.json:
        print_json({"files": [str(f) for f in files], "left_out": left})
    elif not files:
        raise BadInput("None of these results can be written in SAEBench's schema.")
    else:
        note(f"wrote {len(files)} file{'s' * (len(files) > 1)} below {directory}", common)


def import_(format: Literal["saebench"], path: Path, /, *, common: Common = COMMON) -> None:
    """Results that another library has written, onto the same tables: marked, and never compared with ours as if they were.

    Of SAEBench all evals of all versions are read. What cannot be read is named, with the reason, and left out; what is there already
    is found again.

    Parameters
    ----------
    format
        Who wrote them: saebench.
    path
        A file, or a directory of which all .json files are read.
    """
    from assay import results
    from assay.cli.source import open_store
    from assay.formats.saebench import reading

    records, left = reading.read_all(path)
    store = open_store(common)
    rows: dict[str, dict[str, Any]] = {}
    for record in records:
        there = results.find(store, record.eval, record.key)
        known = there == record or (there is not None and there.made.at > record.made.at)
        if not known:
            results.write(store, record)
        row = rows.setdefault(record.eval, {"eval": record.eval, "new": 0, "known": 0})
        row["known" if known else "new"] += 1
    if not records:
        raise BadInput("\n".join(["No file could be imported.", *left.values()]))
    show(list(rows.values()), common, data={"imported": list(rows.values()), "left_out": left})
    for reason in left.values():
        note(f"left out: {reason}", common)
