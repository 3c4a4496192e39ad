"""Write tests/equivalence/frozen_erasure.json: which latents sae-bench chooses and what probes say after its ablation, for SCR
and TPP. Run where it is installed:

python -m venv peers && peers/bin/pip install sae-bench==0.6.0
peers/bin/python tests/equivalence/freeze_erasure.py
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

HERE = Path(__file__).parent
TEXTS, TOKENS, WIDTH, LATENTS, CLASSES = (
    40,
    5,
    12,
    40,
    2,
)  # of more classes it draws negatives at random, from no seed of its own
NS = (2, 5, 20)


def setting() -> dict[str, np.ndarray]:
    """Activations [40, 5, 12] of texts of two classes, a ReLU coder's weights and a probe a class: the same wherever numpy is."""
    rng = np.random.RandomState(0)
    labels = np.arange(TEXTS) % CLASSES
    W_dec = rng.normal(size=(LATENTS, WIDTH))
    W_dec /= np.linalg.norm(W_dec, axis=1, keepdims=True)
    found = {
        "x": rng.normal(size=(TEXTS, TOKENS, WIDTH)) + rng.normal(size=(CLASSES, 1, WIDTH))[labels], "labels": labels,
        "W_dec": W_dec, "b_enc": -0.5 * rng.random(LATENTS), "b_dec": 0.1 * rng.normal(size=WIDTH),
        "weight": rng.normal(size=(CLASSES, WIDTH)), "bias": 0.1 * rng.normal(size=CLASSES),
    }  # fmt: skip
    return {name: value.astype(np.int64 if name == "labels" else np.float32) for name, value in found.items()}


def main() -> None:
    import torch
    from sae_bench.evals.scr_and_tpp import main as theirs

    s: Any = {name: torch.from_numpy(value) for name, value in setting().items()}
    sae = SimpleNamespace(
        W_dec=torch.nn.Parameter(s["W_dec"]),
        encode=lambda x: ((x - s["b_dec"]) @ s["W_dec"].T + s["b_enc"]).relu(),
        decode=lambda z: z @ s["W_dec"] + s["b_dec"],
    )
    texts = {str(i): s["x"][s["labels"] == i] for i in range(CLASSES)}
    pools = {"male / female": texts["0"], "female_data_only": texts["1"]}
    found: dict[str, Any] = {}
    for kind, data, name, scr in (("tpp", texts, "1", False), ("scr", pools, "male / female", True)):
        probe = SimpleNamespace(net=SimpleNamespace(weight=s["weight"][:1] if scr else s["weight"][1:2]))
        effects = theirs.get_effects_per_class_precomputed_acts(sae, probe, name, data, scr, 7)
        found[kind] = {}
        for n in NS:
            mask = theirs.select_top_n_features(effects, n, name)
            pooled = theirs.ablated_precomputed_activations(s["x"].clone(), sae, mask, 7)
            margins = pooled @ s["weight"].T + s["bias"]
            found[kind][n] = {
                "latents": mask.nonzero()[:, 0].tolist(),
                "margins": np.round(margins.detach().numpy(), 5).tolist(),
            }
    (HERE / "frozen_erasure.json").write_text(json.dumps(found) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
