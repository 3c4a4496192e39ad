"""Formulas of sources without an installable trainer, from their papers, in numpy: values, and gradients by finite differences.

What has no derivative is held fixed (the choice of latents, what is detached). Thresholds get the published pseudo-derivatives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Case = dict[str, Any]
Weights = dict[str, np.ndarray]
Terms = dict[str, float]

H = 1e-6


def derive(terms: Callable[[Weights], Terms], weights: Weights, names: list[str]) -> dict[str, Any]:
    """Each term and its gradients, from central differences."""
    values = terms(weights)
    grads: dict[str, Weights] = {t: {n: np.zeros_like(weights[n]) for n in names} for t in values}
    for name in names:
        for place in np.ndindex(weights[name].shape):
            up, down = ({k: v.copy() for k, v in weights.items()} for _ in range(2))
            up[name][place] += H
            down[name][place] -= H
            above, below = terms(up), terms(down)
            for t in values:
                grads[t][name][place] = (above[t] - below[t]) / (2 * H)
    return {t: {"value": float(values[t]), "gradients": {n: g.tolist() for n, g in grads[t].items()}} for t in values}


def arrays(case: Case) -> tuple[np.ndarray, Weights]:
    return np.array(case["x"]), {k: np.array(v) for k, v in case["weights"].items()}


def squared(error: np.ndarray) -> float:
    return float((error**2).sum(1).mean())


def openai(case: Case) -> Case:
    """L = |x − x̂|² / |x − x̄|² + (1/32) |e − ê|² / |e − ē|², with ê = W_dec z of the k_aux largest dead latents and no bias."""
    x, w = arrays(case)
    dead, k, k_aux = case["dead"], case["settings"]["k"], min(case["settings"]["k_aux"], len(case["dead"]))

    def pre_of(w: Weights) -> np.ndarray:
        return (x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]

    pre = pre_of(w)
    kept = np.zeros_like(pre)
    np.put_along_axis(kept, np.argsort(-pre, 1)[:, :k], 1.0, 1)
    among_dead = np.full_like(pre, -np.inf)
    among_dead[:, dead] = np.maximum(pre[:, dead], 0)
    helping = np.zeros_like(pre)
    np.put_along_axis(helping, np.argsort(-among_dead, 1, kind="stable")[:, :k_aux], 1.0, 1)
    error = x - (kept * np.maximum(pre, 0) @ w["W_dec"] + w["b_dec"])  # detached

    def terms(w: Weights) -> Terms:
        z = np.maximum(pre_of(w), 0)
        x_hat, e_hat = kept * z @ w["W_dec"] + w["b_dec"], helping * z @ w["W_dec"]
        return {
            "mse": squared(x - x_hat) / squared(x - x.mean(0)),
            "aux_k": squared(error - e_hat) / squared(error - error.mean(0)) / 32,
        }

    return case | {"peer": "arXiv 2406.04093", "terms": derive(terms, w, ["W_enc", "b_enc", "W_dec", "b_dec"])}


def anthropic_april(case: Case) -> Case:
    """L = |x − x̂|² + λ Σ f ‖d‖, with f = ReLU(W_enc x + b_enc) and λ = 5."""
    x, w = arrays(case)

    def terms(w: Weights) -> Terms:
        f = np.maximum(x @ w["W_enc"] + w["b_enc"], 0)
        cost = (f * np.linalg.norm(w["W_dec"], axis=1)).sum(1).mean()
        return {"mse": squared(x - f @ w["W_dec"] - w["b_dec"]), "l1": 5.0 * cost}

    return case | {"peer": "Circuits Updates, April 2024", "terms": derive(terms, w, ["W_enc", "b_enc", "W_dec", "b_dec"])}


def gemma_scope(case: Case) -> Case:
    """L = |x − x̂|² + λ ‖f‖₀; ∂f/∂θ = −(θ/ε) K, ∂H/∂θ = −(1/ε) K, with K = [|pre − θ| < ε/2]. θ gradients, not of its logarithm."""
    x, w = arrays(case)
    eps, weight, theta = case["settings"]["bandwidth"], case["settings"]["sparsity"], w["threshold"]

    def pre_of(w: Weights) -> np.ndarray:
        return (x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]

    active = pre_of(w) > theta

    def terms(w: Weights) -> Terms:
        x_hat = active * pre_of(w) @ w["W_dec"] + w["b_dec"]
        return {"mse": squared(x - x_hat), "l0": weight * active.sum(1).mean()}

    found = derive(terms, w, ["W_enc", "b_enc", "W_dec", "b_dec"])
    window = np.abs(pre_of(w) - theta) < eps / 2
    x_hat = active * pre_of(w) @ w["W_dec"] + w["b_dec"]
    by_f = -2 * (x - x_hat) @ w["W_dec"].T / len(x)
    found["mse"]["gradients"]["threshold"] = (by_f * window * -(theta / eps)).sum(0).tolist()
    found["l0"]["gradients"]["threshold"] = (weight * window.mean(0) * -(1 / eps)).tolist()
    return case | {"peer": "arXiv 2407.14435", "terms": found}


def anthropic_january(case: Case) -> Case:
    """L = |x − x̂|² + λ_S Σ tanh(c f ‖d‖) + λ_P Σ ReLU(e^t − pre) ‖d‖, with ∂f/∂t = −(e^t/ε) K as printed; c 4, λ_S 20, λ_P 3e-6."""
    x, w = arrays(case)
    eps, theta = 2.0, np.exp(w["log_threshold"])

    def pre_of(w: Weights) -> np.ndarray:
        return x @ w["W_enc"] + w["b_enc"]

    active = pre_of(w) > theta

    def terms(w: Weights, shift: np.ndarray | float = 0.0) -> Terms:
        pre, norms = pre_of(w), np.linalg.norm(w["W_dec"], axis=1)
        f = active * pre + shift
        return {
            "mse": squared(x - f @ w["W_dec"] - w["b_dec"]),
            "tanh": 20 * np.tanh(4 * f * norms).sum(1).mean(),
            "pre_activation": 3e-6 * (np.maximum(np.exp(w["log_threshold"]) - pre, 0) * norms).sum(1).mean(),
        }

    found = derive(
        terms, w, ["W_enc", "b_enc", "W_dec", "b_dec", "log_threshold"]
    )  # of the last, only pre_activation's is real
    window = np.abs(pre_of(w) - theta) < eps / 2
    for term in ("mse", "tanh"):
        by_t = np.zeros_like(theta)
        for place in np.argwhere(window):
            nudge = np.zeros_like(window, dtype=float)
            nudge[tuple(place)] = H
            by_f = (terms(w, nudge)[term] - terms(w, -nudge)[term]) / (2 * H)
            by_t[place[1]] += by_f * -theta[place[1]] / eps
        found[term]["gradients"]["log_threshold"] = by_t.tolist()
    return case | {"peer": "Circuits Updates, January 2025", "terms": found}
