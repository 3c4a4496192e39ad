"""What `assay train` predicts of a run, beside what the run then took: time and its parts, memory.

    python -m benchmarks budget         four runs of half a minute or so; printed

Each run has a process of its own, since memory once taken stays taken. Predictions should be within a quarter.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

from rich.console import Console
from rich.table import Table

RUNS: dict[str, dict[str, Any]] = {
    "one TopK": {"coders": {"topk": {"k": 32}}, "d_sae": 4096, "tokens": 400 * 2048},
    "seven architectures": {
        "coders": {"relu": {}, "gated": {}, "topk": {"k": 32}, "batch_topk": {"k": 32}, "jumprelu": {}, "matryoshka": {"k": 32}, "p_anneal": {}},
        "d_sae": 1024, "tokens": 150 * 2048,
    },
    "wide JumpReLU": {"coders": {"jumprelu": {}}, "d_sae": 8192, "tokens": 60 * 2048},
    "wide TopK, AuxK at work": {"coders": {"topk": {"k": 16}}, "d_sae": 16384, "tokens": 60 * 2048},
}  # fmt: skip


def run(name: str) -> dict[str, float]:
    """Predicted and taken, of one run, in this process."""
    from assay import budget, coders, provenance
    from assay.activations.planted import Planted
    from assay.train import TrainConfig, train

    plan = RUNS[name]
    source = Planted(d=512, latents=4096, seed=0)
    some = {a: coders.new(a, d_in=512, d_sae=plan["d_sae"], **own) for a, own in plan["coders"].items()}
    cfg = TrainConfig(tokens=plan["tokens"])
    found = budget.estimate(some, source, cfg)
    begun = time.perf_counter()
    for _ in train(some, source, cfg):
        pass
    return {
        "predicted": found.seconds, "taken": time.perf_counter() - begun,
        "memory predicted": found.memory, "memory taken": provenance.peak_memory(),
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    if arguments:
        print(json.dumps(run(arguments[0])))
        return
    table = Table("run", "seconds predicted", "taken", "ratio", "GB predicted", "taken", "ratio")
    for name in RUNS:
        done = subprocess.run([sys.executable, "-m", "benchmarks.budget", name], capture_output=True, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        time_, memory = (found["predicted"], found["taken"]), (found["memory predicted"] / 1e9, found["memory taken"] / 1e9)
        table.add_row(
            name, *(f"{x:.1f}" for x in time_), f"{time_[0] / time_[1]:.2f}",
            *(f"{x:.2f}" for x in memory), f"{memory[0] / memory[1]:.2f}",
        )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
