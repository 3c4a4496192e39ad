"""Recovery of a planted dictionary (T1: 256 directions in 64 dimensions) by every architecture, five seeds each.

Prints mean ± standard deviation over seeds. The bands in tests/coders/test_planted.py come from here.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable

import torch

from assay import coders
from assay.activations.planted import Planted, bias, recovery
from assay.train import TrainConfig, train

STEPS, BATCH, SEEDS = 2000, 1024, 5
SETTINGS = {"relu": {"l1": 0.2}, "topk": {"k": 8}, "batch_topk": {"k": 8}, "random": {"k": 8}}


def measure(names: Iterable[str], seed: int, steps: int = STEPS) -> dict[str, dict[str, float]]:
    """L0, FVU, MMCS, recovered share, dead share, dense latents and γ of each architecture, trained on one planted dictionary."""
    source = Planted(d=64, latents=256, seed=seed)
    some = {n: coders.new(n, d_in=64, d_sae=256, seed=seed, **SETTINGS[n]) for n in names}
    cfg = TrainConfig(tokens=steps * BATCH, batch=BATCH, lr=3e-3, beta1=0.0, dead_after=100_000, log_every=500, seed=seed)
    for _ in train(some, source, cfg):
        pass
    x, _ = source.codes(16_384, seed=10_000 + seed)
    return {name: _scores(coder, x, source) for name, coder in some.items()}


@torch.no_grad()
def _scores(coder, x, source: Planted) -> dict[str, float]:
    code = coder.encode(x)
    x_hat, firing = coder.decode(code), code.latents.firing()
    return {
        "l0": code.latents.l0().mean().item(),
        "fvu": ((x - x_hat).square().sum() / (x - x.mean(0)).square().sum()).item(),
        **recovery(coder.W_dec, source.directions),
        "dead": (firing == 0).float().mean().item(),
        "dense": float((firing > 0.1 * len(x)).sum()),
        "gamma": bias(x, x_hat, coder.b_dec),
    }


def main() -> None:
    torch.set_num_threads(2)
    runs = [measure(SETTINGS, seed) for seed in range(SEEDS)]
    columns = list(runs[0]["relu"])
    print("| architecture | " + " | ".join(columns) + " |\n" + "|---" * (len(columns) + 1) + "|")
    for name in SETTINGS:
        cells = []
        for column in columns:
            values = [run[name][column] for run in runs]
            cells.append(f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}")
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
