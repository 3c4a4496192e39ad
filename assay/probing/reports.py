"""What probes on latents tell beside a number: which labels look wrong, which latents carry a probe, and which it is better
without."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from assay.probing.methods import Method, auc, strongest
from assay.probing.probes import measures
from assay.probing.regimes import Trial


def doubtful(
    trial: Trial, truth: np.ndarray, ours: np.ndarray, plain: np.ndarray, classes: Sequence[str], rows: np.ndarray, most: int
) -> list[dict[str, Any]]:
    """The examples whose label a probe on latents doubts most.

    `ours`, `plain`: margins of the probe on latents and of logistic regression on activations for `trial.train`, then
    `trial.test`, each from a fit that did not see the example. `rows`: which document of the corpus each example is.
    """
    examples = np.concatenate([trial.train, trial.test])
    label = np.concatenate([trial.y, truth[trial.test]])
    against, other = (np.where(label, -margin, margin) for margin in (ours, plain))
    order = [i for i in np.argsort(-against, kind="stable")[:most] if against[i] > 0]
    return [
        {
            "document": int(rows[examples[i]]), "label": classes[int(label[i])], "probe": classes[int(not label[i])],
            "probability": round(1 / (1 + float(np.exp(-against[i]))), 4), "activations_agree_with_label": bool(other[i] <= 0),
        }
        for i in order
    ]  # fmt: skip


def flips_found(trial: Trial, margin: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """AUC with which doubt tells flipped labels from the others, under each row of weights over the training examples."""
    return measures(np.where(trial.y, -margin, margin), trial.flipped, weights)["auc"]


def alone(
    x: Any, y: np.ndarray, other: Any, truth: np.ndarray, names: np.ndarray, classes: Sequence[str], most: int
) -> list[dict[str, Any]]:
    """The latents that a probe would take first, each by itself: AUC on training and on the `other` examples, and how often it
    fires in either class.

    Which class it says is what it says in training: an AUC far below a half on the others is a latent that has turned round.
    """
    found = []
    for column in strongest(x, y, most):
        here, there = x[:, column].toarray().ravel(), other[:, column].toarray().ravel()
        sign = 1.0 if here[y].mean() >= here[~y].mean() else -1.0
        found.append(
            {
                "latent": int(names[column]), "says": classes[int(sign > 0)], "train_auc": round(auc(sign * here, y), 4),
                "auc": round(auc(sign * there, truth), 4),
                "fires": [round(float((here[side] != 0).mean()), 4) for side in (~y, y)],
            }
        )  # fmt: skip
    return found


def pruned(
    plain: Method, x: np.ndarray, y: np.ndarray, look: np.ndarray, truth: np.ndarray, option: Any, seed: int
) -> list[int]:
    """Which columns to keep: the probe is fitted anew without each in turn, the one whose loss does most good to the AUC of
    `look` goes, down to one; of all sets on the way the best is kept, of equals the largest.
    """

    def area(columns: list[int]) -> float:
        return auc(plain.margins(x[:, columns], y, look[:, columns], [option], seed)[0], truth)

    kept = list(range(x.shape[1]))
    best = area(kept), kept
    while len(kept) > 1:
        tries = [(area([c for c in kept if c != gone]), gone) for gone in kept]
        found = max(tries, key=lambda t: t[0])
        kept = [c for c in kept if c != found[1]]
        if found[0] > best[0]:
            best = found[0], kept
    return best[1]
