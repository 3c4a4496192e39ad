"""Loss curves, frozen before the first optimisation: faster must not mean other numbers.

Sums are taken in another order where a kernel changes, so the curves agree to float32's rounding as forty steps carry it on, not
bit for bit. `python -m tests.training.test_curves` writes the file anew: only for a change that is meant to change the numbers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from assay import coders
from assay.coders.base import Batch
from assay.randomness import generator
from assay.train import TrainConfig, train

FROZEN = Path(__file__).parent / "curves.json"
K: dict[str, Any] = {"k": 4}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "relu": ("relu", {}),
    "relu_sparse": ("relu", {"l1": 0.6}),
    "relu_april": ("relu", {"decoder": "free"}),
    "relu_tanh": ("relu", {"penalty": "tanh"}),
    "gated": ("gated", {}),
    "gated_free": ("gated", {"decoder": "free", "p_end": 0.5}),
    "p_anneal": ("p_anneal", {}),
    "jumprelu": ("jumprelu", {}),
    "jumprelu_wide": ("jumprelu", {"bandwidth": 0.1}),
    "jumprelu_frequency": ("jumprelu", {"penalty": "quadratic_frequency"}),
    "jumprelu_target": ("jumprelu", {"penalty": "target_l0", "target_l0": 4.0}),
    "jumprelu_tanh": ("jumprelu", {"penalty": "tanh", "decoder": "free"}),
    "topk": ("topk", K),
    "topk_multi": ("topk", {"multi": 0.125, "anneal_k": 0.5, **K}),
    "topk_free": ("topk", {"decoder": "free", "aux": "absolute", **K}),
    "batch_topk": ("batch_topk", K),
    "batch_topk_free": ("batch_topk", {"decoder": "free", **K}),
    "matryoshka": ("matryoshka", K),
    "matryoshka_sampled": ("matryoshka", {"prefixes": "sampled", **K}),
    "matching_pursuit": ("matching_pursuit", K),
    "transcoder": ("transcoder", {"of": "topk", "settings": "k=4"}),
    "skip_transcoder": ("skip_transcoder", {"of": "jumprelu"}),
    "crosscoder": ("crosscoder", {"of": "batch_topk", "settings": "k=4", "widths": (12, 12)}),
}


class Planted:
    """Sparse sums of 96 directions in 24 dimensions; the prediction is a fixed rotation of the input where one is wanted."""

    tokens, fingerprint, d_in, d_out = None, "curves", 24, 24

    def __init__(self, turned: bool):
        self.directions = torch.nn.functional.normalize(torch.randn(96, 24, generator=generator("curves")), dim=1)
        self.turn = torch.linalg.qr(torch.randn(24, 24, generator=generator("curves", "turn")))[0] if turned else None

    def batches(self, size: int, seed: int, start: int = 0):
        number = start
        while True:
            random = generator("curves", seed, number)
            on = torch.rand(size, 96, generator=random) < 0.05
            x = (on * (torch.rand(size, 96, generator=random) + 0.5)) @ self.directions + 0.1
            yield Batch.of(x, None if self.turn is None else x @ self.turn)
            number += 1

    def held_out(self, size: int) -> Batch:
        return next(self.batches(size, 999))

    def describe(self) -> dict[str, Any]:
        return {"kind": "curves"}


def curve(name: str) -> dict[str, list[float]]:
    """Loss, L0, dead share and the held-out FVU every tenth step."""
    architecture, settings = CASES[name]
    coder = coders.new(architecture, d_in=24, d_sae=80, **settings)
    cfg = TrainConfig(tokens=192 * 41, batch=192, lr=3e-3, log_every=10, dead_after=192, held_out_vectors=256)
    source = Planted(turned=architecture.endswith("transcoder"))
    rows = [row.metrics for row in train({"it": coder}, source, cfg)]  # type: ignore[arg-type]
    return {key: [row[key] for row in rows] for key in ("loss", "l0", "dead", "held_out_fvu", "grad_norm")}


@pytest.mark.parametrize("name", CASES)
def test_curve(name: str) -> None:
    frozen, found = json.loads(FROZEN.read_text(encoding="utf-8"))[name], curve(name)
    for key, values in frozen.items():
        # An activation that rounding lifts over a JumpReLU threshold is a jump in the reconstruction of one token.
        assert found[key] == pytest.approx(values, rel=1e-3 if "jumprelu" in name else 2e-4, abs=1e-6), key


if __name__ == "__main__":
    torch.set_num_threads(1)
    FROZEN.write_text(json.dumps({name: curve(name) for name in CASES}, indent=1) + "\n", encoding="utf-8")
