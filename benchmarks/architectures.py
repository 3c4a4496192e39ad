"""Every architecture where the truth is known: superposition (T1), a hierarchy (T2), and SynthSAEBench at the size of a CPU; five seeds.

    python -m benchmarks architectures            all of it, about half an hour of two cores; rewrites the table in docs/architectures.md
    python -m benchmarks.architectures tree       one ground, printed

All coders of a ground and a seed learn from one stream. On T1 the penalties are those that ../docs/architectures.md compares with; on
the others every coder is given the same L0. What is found is kept in architectures.json: the bands of tests/coders/test_planted.py.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Collection
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from assay import coders
from assay.activations.ground import planted
from assay.activations.score import score
from assay.activations.tree import PlantedTree, parent_recall
from assay.train import TrainConfig, train

SEEDS = 5
PAGE = Path(__file__).parents[1] / "docs" / "architectures.md"
KEPT = Path(__file__).with_suffix(".json")
Settings = dict[str, Any]


@dataclass(frozen=True)
class Ground:
    """A planted source, and how coders learn from it."""

    title: str
    source: str
    d_sae: int
    train: Settings
    columns: tuple[str, ...]
    l0: float | None
    """What all coders are asked for; None where each row says its own settings."""


GROUNDS = {
    "superposition": Ground(
        "T1, superposition: 256 features in 64 dimensions, 7.26 active; 256 latents, 2000 steps of 512", "superposition", 256,
        {"tokens": 2000 * 512, "batch": 512, "lr": 3e-3, "beta1": 0.0, "dead_after": 100_000},
        ("l0", "fvu", "mmcs", "recovered", "gamma", "dead", "dense"), None,
    ),
    "tree": Ground(
        "T2, hierarchy: 3 parents with 3 exclusive children each and 8 lone features in 32 dimensions; 20 latents, k = 1, 1000 steps of 512",
        "tree", 20, {"tokens": 512_000, "batch": 512, "lr": 3e-3, "beta1": 0.0, "dead_after": 50_000},
        ("l0", "fvu", "recovered", "parent_recall", "f1", "gamma", "dead"), 1,
    ),
    "synthetic": Ground(
        "SynthSAEBench, small: 1024 features in 128 dimensions with hierarchy and correlation; 256 latents, L0 5, 2000 steps of 512",
        "synthetic-small", 256, {"tokens": 2000 * 512, "batch": 512, "lr": 3e-3, "dead_after": 100_000},
        ("l0", "fvu", "mcc", "f1", "precision", "recall", "uniqueness", "gamma", "dead", "shrinkage"), 5,
    ),
}  # fmt: skip

NESTED = {"fractions": "1/4,1/2,1"}
WIDE = {"bandwidth": 0.1}
ROWS: dict[str, tuple[str, Settings, Settings]] = {
    "relu": ("relu", {}, {"l1": 0.2}),
    "relu, free decoder (April 2024)": ("relu", {"decoder": "free"}, {"l1": 0.1}),
    "relu, tanh": ("relu", {"penalty": "tanh"}, {"l1": 0.05}),
    "gated": ("gated", {}, {"l1": 0.3}),
    "gated, p-annealed": ("gated", {"p_end": 0.2}, {"l1": 0.3}),
    "p_anneal": ("p_anneal", {}, {"l1": 0.1}),
    "topk": ("topk", {}, {"k": 8}),
    "batch_topk": ("batch_topk", {}, {"k": 8}),
    "matryoshka": ("matryoshka", NESTED, {"k": 8}),
    "matryoshka, sampled": ("matryoshka", {"prefixes": "sampled"}, {"k": 8}),
    "jumprelu": ("jumprelu", WIDE, {"sparsity": 0.015}),
    "jumprelu, target L0": ("jumprelu", {"penalty": "target_l0", **WIDE}, {"target_l0": 8.0}),
    "jumprelu, quadratic frequency": ("jumprelu", {"penalty": "quadratic_frequency", **WIDE}, {"sparsity": 0.01}),
    "jumprelu, tanh": ("jumprelu", {"penalty": "tanh", **WIDE}, {"sparsity": 0.01}),
    "matching_pursuit": ("matching_pursuit", {}, {"k": 8}),
    "random": ("random", {}, {"k": 8}),
    "pca": ("pca", {}, {"k": 8}),
}
"""Label: architecture, settings everywhere, settings where the ground asks for no L0 of its own (T1)."""

CALIBRATED = {
    "relu": "L0 12.9, FVU .221, recovered .98, γ .768",
    "relu, free decoder (April 2024)": "L0 24.6, FVU .140, recovered .95, γ .867",
    "relu, tanh": "L0 9.0, FVU .232, recovered .91, γ .919",
    "gated": "L0 9.7, FVU .169, recovered .88, γ .999",
    "p_anneal": "L0 14.4, FVU .164, recovered .93, γ .991",
    "topk": "FVU .181, recovered .90, γ 1.001, dead .07 (no AuxK)",
    "batch_topk": "FVU .227, recovered .64, γ 1.002, dead .27 (no AuxK)",
    "matryoshka": "FVU .257, recovered .56, γ 1.03, dead .32 (no AuxK)",
    "jumprelu": "L0 7.9, FVU .211, recovered .71, γ 1.000, dead .21",
    "jumprelu, target L0": "L0 8.4, FVU .203, recovered .73, γ 1.001, dead .20",
    "jumprelu, quadratic frequency": "L0 7.0, FVU .193, recovered .91, γ 1.001, dead .07",
}
"""Figures of earlier independent implementations on T1 (one seed, 2500 to 4000 steps)."""


def measure(ground: str, seed: int, labels: Collection[str] = tuple(ROWS)) -> dict[str, dict[str, float]]:
    """Scores of coders that learnt one planted source together."""
    torch.set_num_threads(1)
    g, source = GROUNDS[ground], planted(GROUNDS[ground].source, seed)
    some, each = {}, {}
    cfg = TrainConfig(**g.train, log_every=10**6, held_out_vectors=0, seed=seed)
    for label in labels:
        some[label], own = _coder(label, g, source.d_in, seed)
        each[label] = TrainConfig(**{**g.train, **own}, log_every=10**6, held_out_vectors=0, seed=seed)
    for _ in train(some, source, cfg, each=each):
        pass
    return {label: _scores(coder, source, g.d_sae) for label, coder in some.items()}


def _coder(label: str, g: Ground, d: int, seed: int) -> tuple[Any, Settings]:
    architecture, always, alone = ROWS[label]
    settings = {"d_in": d, "d_sae": g.d_sae, **always, **({} if g.l0 else alone)}
    if g.l0:
        settings = coders.with_l0(architecture, settings, g.l0)
    if architecture == "pca":
        settings["d_sae"] = min(g.d_sae, 2 * d)  # both signs of each component
    coder = coders.new(architecture, seed=seed, **settings)
    return coder, {"l0": g.l0} if g.l0 and coder.penalised else {}


@torch.no_grad()
def _scores(coder: Any, source: Any, d_sae: int) -> dict[str, float]:
    found = score(coder, source)
    found["fvu"] = 1 - found["explained_variance"]
    found["dense"] *= d_sae  # latents
    if isinstance(source, PlantedTree):
        x, truth = source.codes(8192, "parents")
        rows = parent_recall(source, coder.W_dec, coder.encode(x).z, truth).values()
        found["parent_recall"] = statistics.mean(with_child for _, _, with_child in rows)
    return found


def table(ground: str, runs: list[dict[str, dict[str, float]]]) -> str:
    """Markdown: mean ± standard deviation over seeds."""
    g = GROUNDS[ground]
    heads = [*g.columns, *(["earlier figures"] if ground == "superposition" else [])]
    lines = [f"### {g.title}", "", "| architecture | " + " | ".join(heads) + " |", "| --- " * (len(heads) + 1) + "|"]
    for label in runs[0]:
        cells = [_cell([run[label][column] for run in runs]) for column in g.columns]
        cells += [CALIBRATED.get(label, "")] if ground == "superposition" else []
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(values: list[float]) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.3f} ± {spread:.3f}"


def main(grounds: Collection[str] = ()) -> None:
    wanted = list(grounds or GROUNDS)
    jobs = [(ground, seed) for ground in wanted for seed in range(SEEDS)]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        done = dict(zip(jobs, pool.map(measure, *zip(*jobs))))
    tables = {g: table(g, [done[g, seed] for seed in range(SEEDS)]) for g in wanted}
    print("\n".join(tables.values()))
    keep({f"{g} {seed}": found for (g, seed), found in done.items()}, tables)


def keep(found: dict[str, dict[str, dict[str, float]]], tables: dict[str, str]) -> None:
    """Put what was measured where the docs and the tests read it."""
    text = PAGE.read_text(encoding="utf-8")
    for ground, content in tables.items():
        marks = rf"(<!-- {ground} -->\n).*?(<!-- end -->)"
        text, count = re.subn(marks, lambda m, content=content: m[1] + content + m[2], text, flags=re.DOTALL)
        assert count == 1, f"{PAGE} has no place for {ground}"
    PAGE.write_text(text, encoding="utf-8")
    kept = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}
    for ground in tables:
        runs = [scores for job, scores in found.items() if job.split()[0] == ground]
        kept[ground] = {
            label: {c: mean_and_spread([run[label][c] for run in runs]) for c in GROUNDS[ground].columns} for label in runs[0]
        }
    KEPT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def mean_and_spread(values: list[float]) -> tuple[float, float]:
    return round(statistics.mean(values), 5), round(statistics.stdev(values), 5)


if __name__ == "__main__":
    main(sys.argv[1:])
