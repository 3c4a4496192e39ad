"""Probes that evals share: scaling, a cheap exact rotation, logistic regression, measures under bootstrap weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

NARROW = 256  # features up to which Newton's method is the fastest
STEPS_MOST, HALVED_MOST = 100, 30


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


def margins_of(x: np.ndarray, y: np.ndarray, strengths: Sequence[float], other: np.ndarray) -> np.ndarray:
    """Margins [strengths, others] of L2-regularised logistic regressions (C of each strength) fitted to x [n, d] and y bool [n]."""
    if x.shape[1] <= NARROW:
        weights = newton(x, y, np.array(strengths))
        return weights[:, :-1] @ other.T + weights[:, -1:]
    from sklearn.linear_model import LogisticRegression  # a second to import

    fits = (LogisticRegression(C=C, max_iter=20_000, tol=1e-5).fit(x, y) for C in strengths)
    return np.stack([fit.decision_function(other) for fit in fits])


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


def newton(x: np.ndarray, y: np.ndarray, C: np.ndarray) -> np.ndarray:
    """L2-regularised logistic regressions of several strengths at once: weights, then intercept, [strengths, d + 1].

    scikit-learn's objective, by Newton steps that are halved until they go down. With examples and features as few as here its
    solvers spend most of their time on checks, and there are thousands of fits.
    """
    z, free = np.c_[x, np.ones(len(x))], np.r_[np.ones(x.shape[1]), 0.0]
    signs, diagonal = np.where(y, -1.0, 1.0), np.arange(z.shape[1])

    def loss(weights: np.ndarray, C: np.ndarray) -> np.ndarray:
        return (weights**2 @ free) / 2 + C * np.logaddexp(0, signs * (weights @ z.T)).sum(1)

    found, live = np.zeros((len(C), z.shape[1])), np.arange(len(C))  # strengths that have not converged
    for _ in range(STEPS_MOST):
        weights, c = found[live], C[live]
        now, p = loss(weights, c), 1 / (1 + np.exp(-np.clip(weights @ z.T, -500, 500)))
        gradient = weights * free + c[:, None] * ((p - y) @ z)
        hessian = (z.T * (c[:, None] * p * (1 - p))[:, None, :]) @ z
        hessian[:, diagonal, diagonal] += free + 1e-9
        step = np.linalg.solve(hessian, gradient[..., None])[..., 0]
        down, size, up = (gradient * step).sum(1), np.ones(len(c)), np.zeros(len(c), dtype=bool)
        for _ in range(HALVED_MOST):
            there = weights - size[:, None] * step
            up = loss(there, c) > now - 1e-4 * size * down
            if not up.any():
                break
            size[up] /= 2
        found[live] = np.where(up[:, None], weights, there)
        live = live[~up & (down > 1e-7 * now)]
        if not len(live):
            break
    return found
