"""One contender in a process of its own: told a number of steps, it trains so many and answers with the time of each.

    python -m benchmarks._contender '{"contender": "Assay", "architecture": "topk", "shape": {"d_in": 64, "d_sae": 512}}'

Between two turns it sleeps, so that contenders can take turns on one machine. Runs in Assay's environment, or in the peers'.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from importlib import import_module
from typing import Any

import torch

from benchmarks._clock import Timed, memory
from benchmarks._data import NotOffered, Shape, batches


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print goes where errors go

    def answer(**what: Any) -> None:
        answers.write(json.dumps(what) + "\n")
        answers.flush()

    spec: dict[str, Any] = json.loads(sys.argv[1])
    try:
        _turns(spec, answer)
    except NotOffered as error:
        answer(missing=str(error))


def _turns(spec: dict[str, Any], answer: Any) -> None:
    who, shape, cuda = spec["contender"], Shape(**spec["shape"]), spec.get("device", "cpu") == "cuda"
    maker = import_module("benchmarks." + {"Assay": "_ours", "floor": "_floor"}.get(who.split(",")[0], "_peers"))
    version = maker.load(spec)
    torch.set_num_threads(spec.get("threads") or torch.get_num_threads())
    torch.manual_seed(0)
    data = batches(shape, spec.get("batches", 8), "cuda" if cuda else "cpu")
    _wake("cuda" if cuda else "cpu")
    before, timed = memory(cuda)[0], Timed(data)
    made = maker.make(spec, shape, data)
    run, l0 = made[:2]
    same = hashlib.sha256(data[0].cpu().numpy().tobytes()).hexdigest()[:16]
    answer(version=version, torch=torch.__version__, threads=torch.get_num_threads(), data=same)
    peak = 0
    for line in sys.stdin:
        count = int(line)
        if not count:  # what is asked last
            answer(l0=l0(), memory=peak - before, process=peak)
            return
        run(timed.take(count), count)
        peak = memory(cuda)[1]
        answer(**timed.steps(count), **({"parts": made[2]()} if len(made) > 2 else {}))


def _wake(device: str) -> None:
    """Let torch load what it loads at the first step of anything: that is no memory of training."""
    layer = torch.nn.Linear(8, 8, device=device)
    layer(torch.ones(8, 8, device=device)).square().sum().backward()
    torch.optim.Adam(layer.parameters()).step()
    torch.optim.Adam(layer.parameters(), fused=True).step()


if __name__ == "__main__":
    main()
