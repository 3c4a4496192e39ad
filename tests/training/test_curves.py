"""Loss curves, frozen before the first optimisation: faster must not mean other numbers.

In double precision: what another order of a sum does to the last digits stays there, and no activation crosses a threshold for it.
`python -m tests.training.test_curves` writes the file anew: only for a change that is meant to change the numbers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from assay import coders
from assay.coders.base import Batch
from assay.kernels import encode
from assay.randomness import generator
from assay.training.config import TrainConfig
from assay.training.trainee import Trainee

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


DIRECTIONS = torch.nn.functional.normalize(torch.randn(96, 24, generator=generator("curves")), dim=1).double()


def turned() -> torch.Tensor:
    """A rotation: what transcoders are to predict."""
    return torch.linalg.qr(torch.randn(24, 24, generator=generator("curves", "turn")).double())[0]


def vectors(number: int, turn: torch.Tensor | None) -> Batch:
    """Sparse sums of 96 directions in 24 dimensions, with a mean."""
    random = generator("curves", number)
    on = torch.rand(192, 96, generator=random) < 0.05
    x = (on * (torch.rand(192, 96, generator=random) + 0.5)).double() @ DIRECTIONS + 0.1
    return Batch.of(x, None if turn is None else x @ turn)


def curve(name: str) -> dict[str, list[float]]:
    """Loss, L0, dead share, gradient norm and FVU every tenth step."""
    architecture, settings = CASES[name]
    coder = coders.new(architecture, d_in=24, d_sae=80, **settings)
    turn = turned() if architecture.endswith("transcoder") else None
    # What a transcoder takes from the data at its start is computed in single precision: it starts as its seed makes it.
    cfg = TrainConfig(tokens=192 * 41, batch=192, lr=3e-3, dead_after=192, fine_tune=turn is not None)
    trainee = Trainee("it", coder, cfg)
    trainee.begin(Batch.of(vectors(-1, None).x.float()), (1.0, 1.0))
    coder.double()
    rows = [trainee.step(vectors(i, turn), i, (1.0, 1.0), log=i % 10 == 0)[0] for i in range(41)]
    return {key: [row[key] for row in rows[::10]] for key in ("loss", "l0", "dead", "fvu", "grad_norm")}


@pytest.mark.parametrize("few", [-1.0, 1.0], ids=["dense", "sparse"])
@pytest.mark.parametrize("name", CASES)
def test_curve(name: str, few: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether active latents count as few or not: the same curve."""
    monkeypatch.setattr(encode, "DENSE", {"cpu": few})
    frozen, found = json.loads(FROZEN.read_text(encoding="utf-8"))[name], curve(name)
    for key, values in frozen.items():
        assert found[key] == pytest.approx(values, rel=1e-8, abs=1e-12), key


if __name__ == "__main__":
    torch.set_num_threads(1)
    FROZEN.write_text(json.dumps({name: curve(name) for name in CASES}, indent=1) + "\n", encoding="utf-8")
