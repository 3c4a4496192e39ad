"""Our evals and sae-bench's on the same model, texts and coders, in processes of their own: seconds a coder, and values side by side.

    python -m benchmarks sae_bench                        under ten minutes on two cores; rewrites the tables in docs/speed.md
    python -m benchmarks sae_bench --eval core            one eval; the others stay as they were measured before
    python -m benchmarks sae_bench --tiny                 a minute, printed only

`make bench-evals` makes sae-bench's environment, and runs this.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks._rounds import BUSY, QUIET, ROOT, machine, ours
from benchmarks._sae_bench_job import ANSWER, Job
from benchmarks._sae_bench_metrics import METRICS, Metric
from benchmarks.speed import mark, rounded

PEERS = Path(os.environ.get("ASSAY_SAEBENCH", ROOT / ".venv-saebench")) / "bin" / "python"
KEPT = Path(__file__).with_suffix(".json")
COMPARED = ("core", "sparse_probing")
OTHERS = ("tpp", "scr", "absorption", "meta_structure", "sparse_probing_sae_probes")
"""Compared where they are asked for: some minutes a coder, as sae-bench runs them."""
SAME = 1e-3
"""Relative difference that rounding explains: two implementations of a model in single precision."""


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks sae_bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="a toy model and little text; writes nothing")
    parser.add_argument("--eval", action="append", choices=COMPARED + OTHERS, help="may be given again")
    parser.add_argument("--coders", type=int, default=3, help="how many, the first one included")
    parser.add_argument("--rows", type=int, default=64, help="of core's text, of 128 tokens")
    parser.add_argument("--texts", type=int, default=400, help="labelled ones to train on, and as many for the test")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--folder", type=Path, help="keep inputs and outputs there; a folder that has inputs is used again")
    asked = parser.parse_args(arguments)
    if not PEERS.exists():
        raise SystemExit(f"{PEERS} is not there. Run `make bench-evals`, or say in ASSAY_SAEBENCH where sae-bench is.")
    with tempfile.TemporaryDirectory() as temporary:
        home = asked.folder or Path(temporary)
        home.mkdir(parents=True, exist_ok=True)
        job = prepared(home, asked)
        about = {"machine": machine(), "job": asdict(job) | {"model": Path(job.model).name}}
        kept = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}
        for name in asked.eval or COMPARED:
            kept[name] = about | compared(home, name)
            print(shown({name: kept[name]}), flush=True)
            if not asked.tiny:
                KEPT.write_text(json.dumps(rounded(kept), indent=1) + "\n", encoding="utf-8")
                mark("evaluation", shown({name: kept[name] for name in METRICS if name in kept}))


def prepared(home: Path, asked: argparse.Namespace) -> Job:
    """A folder that holds all that both sides read; made when it is not there."""
    if (home / "job.json").exists():
        return Job.read(home)
    from assay.models.embedded import directory
    from benchmarks._sae_bench_inputs import prepare

    ks = {f"topk-k{k}": k for k in [(4 if asked.tiny else 16) * 2**i for i in range(asked.coders)]}
    common: dict[str, Any] = {"coders": tuple(ks), "threads": asked.threads}
    if asked.tiny:
        job = Job(
            model=str(directory("tiny")), width=128, layer=1, context=32, rows=32, train=160, test=160, words=400, **common
        )
        prepare(job, home, "austen", ks, d_sae=512, tokens=8192, steps=60)
    else:
        common |= {"rows": asked.rows, "train": asked.texts, "test": asked.texts}
        job = Job(model=str(directory("smollm2")), width=576, layer=10, **common)
        prepare(job, home, "demo", ks, d_sae=4096, tokens=65_536, steps=100)
    return job


def compared(home: Path, name: str) -> dict[str, Any]:
    """One eval by both sides, one after the other."""
    found = {}
    for side, python in (("ours", ours()), ("theirs", PEERS)):
        print(f"{name}, {side} …", flush=True)
        log = home / f"{side}-{name}.log"
        command = [str(python), "-m", f"benchmarks._sae_bench_{side}", str(home), name]
        with log.open("w", encoding="utf-8") as file:
            done = subprocess.run(command, cwd=ROOT, env=os.environ | QUIET, stdout=file, stderr=subprocess.STDOUT, check=False)
        if done.returncode:
            raise SystemExit(f"{side} ended early:\n{log.read_text(encoding='utf-8')[-3000:]}")
        found[side] = json.loads((home / ANSWER.format(side=side, eval=name)).read_text(encoding="utf-8"))
    return found


def shown(kept: dict[str, Any]) -> str:
    """Markdown: machine, seconds, and a table of values for each eval."""
    last = max(kept.values(), key=lambda found: found["machine"]["date"])
    m, job = last["machine"], Job.of(last["job"])
    versions = ", ".join(f"{name} {v}" for name, v in last["theirs"]["versions"].items())
    head = (
        f"{job.model}, {job.site}, {job.dtype}; {len(job.coders)} TopK coders ({', '.join(job.coders)}); core on {job.rows} rows of "
        f"{job.context} tokens, probes on {job.train} + {job.test} texts of {job.corpus}. {m['processor']}, {job.threads} threads; "
        f"torch {m['torch']}, {versions}; {m['date']}.\n\n"
    )
    parts = [f"\n`{name}`, {job.coders[0]}:\n\n{values(name, found)}" for name, found in kept.items()]
    return head + speeds(kept) + "".join(parts)


# ---- seconds -------------------------------------------------------------------------------------------------------------------

KINDS = {"first": "first coder", "further": "each further one", "later": "one that comes later"}


def seconds(found: dict[str, Any]) -> tuple[str, dict[str, tuple[float, float]]]:
    """(clock, kind → (sae-bench's, ours)). Where others had the machine, the clock is the main thread's processor time."""
    mine, theirs, more = found["ours"], found["theirs"], len(found["job"]["coders"]) - 1
    waits = [side["first"]["wall"] / side["first"]["cpu"] for side in (mine, theirs)]
    clock = "cpu" if max(waits) > BUSY else "wall"
    times = {"first": (theirs["first"][clock], mine["first"][clock])}
    if more:
        other = theirs["rest"][clock] / more
        times["further"] = other, max(mine["together"][clock] - mine["first"][clock], 1e-3) / more
        times["later"] = other, mine["later"][clock] / more
    return clock, times


def speeds(kept: dict[str, Any]) -> str:
    """Markdown: seconds a coder, sae-bench's / ours, and how many times as fast we are."""
    lines = ["| eval | " + " | ".join(f"{title}, s | ratio" for title in KINDS.values()) + " |", "| --- " * 7 + "|"]
    for name, found in kept.items():
        clock, times = seconds(found)
        cells = [name + (" \\*" if clock == "cpu" else "")]
        for kind in KINDS:
            a, b = times.get(kind, (None, None))
            cells += ["–", "–"] if a is None or b is None else [f"{number(a, 3)} / {number(b, 3)}", f"{a / b:.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


# ---- values --------------------------------------------------------------------------------------------------------------------


def verdict(metric: Metric, theirs: float | None, mine: Sequence[float | None] | None, job: Job) -> str:
    """same (to rounding), inside or outside our interval; missing where a side has no value."""
    if theirs is None or mine is None or mine[0] is None:
        return "missing"
    value, (ours_, low, high) = theirs * metric.factor(job), mine
    if math.isclose(value, ours_, rel_tol=SAME, abs_tol=1e-6):
        return "same"
    return "inside" if low is not None and high is not None and low <= value <= high else "outside"


def values(name: str, found: dict[str, Any]) -> str:
    """Markdown: a row a metric with the first coder's values, and of how many coders the values agree."""
    job, theirs, mine = Job.of(found["job"]), found["theirs"]["values"], found["ours"]["values"]
    heads = ("sae-bench", "its value", "Assay", "our value, 95 % interval", "verdict", "all coders", "its definition")
    lines = ["| " + " | ".join(heads) + " |", "| --- " * len(heads) + "|"]
    for metric in METRICS[name]:
        found_ = [(theirs[c].get(metric.theirs), mine[c].get(metric.ours)) for c in job.coders]
        verdicts = [verdict(metric, a, b, job) for a, b in found_]
        agree = sum(v in ("same", "inside") for v in verdicts)
        a, b = found_[0]
        cells = [metric.theirs, number(a), f"`{metric.ours}`", interval(b), verdicts[0], f"{agree} of {len(verdicts)}"]
        lines.append("| " + " | ".join([*cells, metric.about or "as ours"]) + " |")
    return "\n".join(lines) + "\n"


def number(value: float | None, digits: int = 4) -> str:
    """A number to some digits; a dash for none."""
    return "–" if value is None else f"{value:.{digits}g}"


def interval(found: Sequence[float | None] | None) -> str:
    """A value and what is known of its precision."""
    value, low, high = found or (None, None, None)
    return number(value) if low is None or low == high else f"{number(value)} [{number(low)}, {number(high)}]"


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
