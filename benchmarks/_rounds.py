"""Contenders take turns on one machine, A B C A B C …, so that whatever else runs there hits all alike."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PEERS = Path(os.environ.get("ASSAY_PEERS", ROOT / ".venv-peers")) / "bin" / "python"
QUIET = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
BUSY = 1.1  # times the main thread's processor time: where wall time is longer, others had the machine, too
Spec = dict[str, Any]


class Worker:
    """The process of one contender. It sleeps until it is told to run."""

    def __init__(self, name: str, spec: Spec, python: Path):
        self.name, self.spec, self.missing = name, spec, None if python.exists() else "not installed"
        self.rounds: list[dict[str, Any]] = []
        self.turn = 2
        self.said: dict[str, Any] = {}
        if self.missing:
            return
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (lives as long as the process)
        self.process = subprocess.Popen(
            [str(python), "-m", "benchmarks._contender", json.dumps(spec)], cwd=ROOT, env=os.environ | QUIET, text=True, bufsize=1,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors,
        )  # fmt: skip

    def ready(self) -> bool:
        """Wait for its first word; whether it takes part."""
        if not self.missing:
            self.said = self._answer()
            self.missing = self.said.pop("missing", None)
        return not self.missing

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            raise SystemExit(f"{self.name} ended early:\n{self.errors.read()[-3000:]}")
        return json.loads(line)

    def _ask(self, steps: int) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        return self._answer()

    def warm(self, seconds: float) -> None:
        """First steps, untimed; how many fit into a turn."""
        self.turn = max(2, min(20, round(seconds / statistics.median(self._ask(3)["wall"]))))

    def run(self) -> None:
        """One turn: a first step to fill the caches, then those that count."""
        turn = self._ask(self.turn + 1)
        parts: dict[str, Any] | None = turn.pop("parts", None)
        if parts:  # what lies between the parts of the floor is not the floor's
            turn |= {c: [sum(step) for step in zip(*(p[c] for p in parts.values()), strict=True)] for c in ("wall", "cpu")}
            turn |= {"parts": {name: {c: statistics.median(v[1:]) for c, v in p.items()} for name, p in parts.items()}}
        self.rounds.append(turn | {c: statistics.median(turn[c][1:]) for c in ("wall", "cpu")})

    def end(self) -> dict[str, Any]:
        """What was found: seconds a step, round by round; memory; L0."""
        if self.missing:
            return {"missing": self.missing}
        last = self._ask(0)
        self.process.wait()
        found = {c: [r[c] for r in self.rounds] for c in ("wall", "cpu")} | self.said | last
        if "parts" in self.rounds[0]:
            names = self.rounds[0]["parts"]
            found["parts"] = {
                n: {c: statistics.median(r["parts"][n][c] for r in self.rounds) for c in ("wall", "cpu")} for n in names
            }
        return found

    def kill(self) -> None:
        """End the process, whatever it does."""
        if not self.missing and self.process.poll() is None:
            self.process.kill()


def compare(contenders: Mapping[str, tuple[Spec, Path]], rounds: int, seconds: float) -> dict[str, Any]:
    """All contenders, taking turns of about `seconds` each; and which clock their ratios should be read from."""
    workers: list[Worker] = []
    load = os.getloadavg()[0]
    try:
        workers += [Worker(name, spec, python) for name, (spec, python) in contenders.items()]
        running = [w for w in workers if w.ready()]
        if len({w.said["data"] for w in running}) > len({json.dumps(w.spec["shape"]) for w in running}):
            raise SystemExit("The contenders do not have the same data: are their versions of torch the same?")
        for worker in running:
            worker.warm(seconds)
        for _ in range(rounds):
            for worker in running:
                worker.run()
        found = {w.name: w.end() for w in workers}
    finally:
        for worker in workers:
            worker.kill()
    waits = [statistics.median(f["wall"]) / max(statistics.median(f["cpu"]), 1e-9) for f in found.values() if "wall" in f]
    cuda = any(spec.get("device") == "cuda" for spec, _ in contenders.values())
    clock = "wall" if cuda or statistics.median(waits) <= BUSY else "cpu"
    about = {"clock": clock, "wall_over_cpu": round(statistics.median(waits), 3), "rounds": rounds}
    return about | {"load": [round(load, 2), round(os.getloadavg()[0], 2)], "contenders": found}


def ratio(a: Mapping[str, Any] | None, b: Mapping[str, Any] | None, clock: str) -> float | None:
    """How many times longer `a` takes: the median over rounds, in each of which both had their turn."""
    if not a or not b or "wall" not in a or "wall" not in b:
        return None
    return statistics.median(x / y for x, y in zip(a[clock], b[clock], strict=True))


def milliseconds(found: Mapping[str, Any], clock: str) -> float | None:
    """Median over rounds."""
    return 1e3 * statistics.median(found[clock]) if "wall" in found else None


def machine() -> dict[str, Any]:
    """Where and when this was measured."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        if info.exists()
        else []
    )
    features = " AVX-512" if info.exists() and "avx512f" in info.read_text() else ""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "processor": (names[0] if names else platform.processor() or platform.machine()) + features,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}", "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
    }  # fmt: skip


def ours() -> Path:
    """The Python that runs this."""
    return Path(sys.executable)
