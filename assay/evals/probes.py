"""Probes that evals share: scaling, a cheap exact rotation, logistic regression, measures under bootstrap weights."""

from __future__ import annotations

from typing import Any

import numpy as np


def standardised(x: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Features centred and divided by their standard deviation over the training examples; constant ones become 0. float64."""
    x = x.astype(np.float64)
    center, std = x[train].mean(0), x[train].std(0)
    return np.where(std > 1e-12, (x - center) / np.maximum(std, 1e-12), 0.0)


def rotated(x: np.ndarray, train: np.ndarray) -> np.ndarray:
    """The same features in at most as many coordinates as there are training examples.

    An L2-regularised solution lies in the span of its training examples, so a rotation onto that span loses nothing, and a probe
    on 65 thousand latents costs no more than one on some hundred.
    """
    if x.shape[1] <= train.sum():
        return x
    rows = x[train]
    values, vectors = np.linalg.eigh(rows @ rows.T)
    keep = values > values.max() * 1e-12
    return (x @ rows.T) @ (vectors[:, keep] / np.sqrt(values[keep]))


def logistic(x: np.ndarray, y: np.ndarray, C: float) -> Any:
    """An L2-regularised logistic regression, fitted to x [n, d] and y bool [n]."""
    from sklearn.linear_model import LogisticRegression  # a second to import

    return LogisticRegression(C=C, max_iter=20_000, tol=1e-5).fit(x, y)


def measures(margin: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Accuracy, AUC and F1 under each row of example weights [r, n]: each [r]."""
    guess = margin > 0
    positive, negative = weights * truth, weights * ~truth
    hits, false = positive @ guess, negative @ guess
    order = np.argsort(margin, kind="stable")
    start = np.flatnonzero(np.r_[True, np.diff(margin[order]) != 0])  # ties are groups
    p, n = (np.add.reduceat(w[:, order], start, axis=1) for w in (positive, negative))
    below = np.cumsum(n, axis=1) - n / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "accuracy": (hits + negative.sum(1) - false) / weights.sum(1),
            "auc": (p * below).sum(1) / (positive.sum(1) * negative.sum(1)),
            "f1": 2 * hits / (hits + positive.sum(1) + false),
        }
