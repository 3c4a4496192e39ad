"""Candidates from a product in bfloat16: the coder that comes out is as good."""

from __future__ import annotations

import pytest

from assay import coders
from assay.activations.planted import Planted
from assay.errors import BadInput
from assay.train import TrainConfig, train


def ends(architecture: str, candidates: str, seed: int) -> dict[str, float]:
    coder = coders.new(architecture, seed=seed, d_in=32, d_sae=128, k=6)
    cfg = TrainConfig(tokens=150 * 256, batch=256, lr=3e-3, log_every=150, candidates=candidates)  # type: ignore[arg-type]
    return [row.metrics for row in train({"it": coder}, Planted(d=32, latents=96, seed=0), cfg)][-1]  # type: ignore[return-value]


@pytest.mark.parametrize("architecture", ["topk", "batch_topk", "matryoshka"])
def test_the_loss_ends_within_seed_noise(architecture):
    exact, rough = ([ends(architecture, how, seed)["held_out_fvu"] for seed in range(3)] for how in ("float32", "bfloat16"))
    noise = max(exact) - min(exact)
    for a, b in zip(exact, rough):
        assert a != b, "the setting does something"
        assert abs(a - b) < max(noise, 0.01 * a)


def test_only_two_ways():
    with pytest.raises(BadInput, match="candidates must be one of float32, bfloat16"):
        TrainConfig(candidates="float16")  # type: ignore[arg-type]
