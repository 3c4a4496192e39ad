"""Write tests/equivalence/frozen_probing.json: rows, choices and test scores of sae-probes on a fixed matrix. Run where it is
installed:

python -m venv peers && peers/bin/pip install torch scikit-learn pandas joblib xgboost-cpu zstandard tqdm
peers/bin/pip install --no-deps sae-probes==0.4.2
peers/bin/python tests/equivalence/freeze_probing.py

Only its splits, rankings and fits are used: what it imports for language models (transformer-lens, sae-lens) is left out.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
ROWS, WIDTH, LATENTS, SEED = 400, 20, 60, 42
SIZES, RATIOS, RATES = (10, 64), (0.2, 0.75), (0.3,)


def matrix() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(activations [400, 20], sparse latents [400, 60], labels): the same wherever numpy is."""
    rng = np.random.RandomState(0)
    y = rng.permutation(np.arange(ROWS) % 2)
    x = rng.normal(size=(ROWS, WIDTH)) + 0.35 * y[:, None] * np.linspace(-1, 1, WIDTH)
    z = np.maximum(rng.normal(size=(ROWS, LATENTS)) - 1 + 0.7 * y[:, None] * np.linspace(-1, 1, LATENTS), 0)
    return x, z * np.logspace(-1, 1, LATENTS), y


def library() -> tuple[Any, Any, Any]:
    """Its modules of splits, fits and rankings, without what only runs language models."""
    spec = importlib.util.find_spec("sae_probes")
    assert spec is not None and spec.submodule_search_locations
    package = types.ModuleType("sae_probes")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["sae_probes"] = package
    for name, members in {
        "sae_lens": ("SAE",), "sae_probes.generate_model_activations": ("ensure_dataset_activations",),
        "sae_probes.generate_sae_activations": ("generate_sae_activations",),
    }.items():  # fmt: skip
        stub = types.ModuleType(name)
        for member in members:
            setattr(stub, member, object)
        sys.modules[name] = stub
    data, training = (importlib.import_module(f"sae_probes.{name}") for name in ("utils_data", "utils_training"))
    data.get_dataset_sizes, data.get_numbered_binary_tags = dict, list
    return data, training, importlib.import_module("sae_probes.run_sae_evals")


def main() -> None:
    import torch

    warnings.simplefilter("ignore")
    data, training, evals = library()
    x, z, y = matrix()
    n = len(y)
    most = min(n - 100, 1024)
    total = int(min((n - y.sum()) / 0.95, y.sum() / 0.95))
    lopsided = min(total - 100, 1024)
    plans = {"standard ": (most, n - most - 1, 0.5)}
    plans |= {f"scarcity {k}": (k, n - k - 1, 0.5) for k in SIZES}
    plans |= {f"imbalance {r:g}": (lopsided, max(100, total - lopsided - 1), r) for r in RATIOS}
    plans |= {f"noise {f:g}": (most, n - most - 1, 0.5) for f in RATES}
    found: dict[str, Any] = {}
    for name, (train, test, ratio) in plans.items():
        here, there = data.get_train_test_indices(y, train, test, ratio, SEED)
        labels = data.corrupt_ytrain(y[here], float(name.split()[1]), SEED) if name.startswith("noise") else y[here]
        fits = {"logreg": training.find_best_reg(x[here], labels, x[there], y[there], seed=SEED)}
        order = evals.get_sorted_indices(torch.tensor(z[here]), torch.tensor(labels), evals.mean_act_normalization)[:5].numpy()
        for penalty in ("l1", "l2"):
            kept = z[:, order]
            fits[f"latents-5 {penalty}"] = training.find_best_reg(
                kept[here], labels, kept[there], y[there], penalty=penalty, seed=SEED
            )
        found[name] = {
            "train": here.tolist(), "y": labels.tolist(), "test": there.tolist(), "latents": order.tolist(),
            "fits": {
                k: {"auc": f.metrics.test_auc, "val": f.metrics.val_auc, "C": float(f.classifier.C)} for k, f in fits.items()
            },
        }  # fmt: skip
    found["shift "] = {"train": data.get_train_test_indices(y[:300], 200, 0, 0.5, SEED)[0].tolist()}
    (HERE / "frozen_probing.json").write_text(json.dumps(found) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
