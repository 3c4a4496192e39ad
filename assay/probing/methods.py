"""Ways to tell two classes apart, each with its own choice of hyper-parameters: what probes on latents have to beat.

After "Are SAEs useful?" (Kantamneni et al. 2025, arXiv 2502.16681) and its library sae-probes 0.4.2. What is learnt from
examples (a scale, principal components, which latents) is learnt in each fold anew, so the AUC on the fold's other examples
is an honest one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from assay.probing.features import Ragged
from assay.probing.probes import NARROW, newton, rotated
from assay.randomness import generator, numpy_generator, seed_of
from assay.shapes import Tensor

Folds = list[tuple[np.ndarray, np.ndarray]]
"""(places to learn from, places to look at)"""

HELD = 100  # examples that choose hyper-parameters, at most
COMPONENTS = 100
NEIGHBOURS = 100
TREE_DRAWS, NETWORK_DRAWS = 10, 3  # settings that trees and networks try, at random (sae-probes: 10 and 1)
TREES: dict[str, np.ndarray] = {
    "n_estimators": np.arange(50, 300, 50), "max_depth": np.arange(2, 6), "learning_rate": np.logspace(-3, -1, 10),
    "subsample": np.linspace(0.7, 1, 5), "colsample_bytree": np.linspace(0.7, 1, 5), "reg_alpha": np.logspace(-3, 1, 10),
    "reg_lambda": np.logspace(-3, 1, 10), "min_child_weight": np.arange(1, 10),
}  # fmt: skip
NETWORKS: dict[str, np.ndarray] = {
    "width": np.array([16, 32, 64]), "depth": np.array([1, 2, 3]), "learning_rate_init": np.logspace(-4, -2, 5),
    "alpha": np.logspace(-5, -2, 5),
}  # fmt: skip


@dataclass(frozen=True)
class Method:
    """A way to fit: which hyper-parameters to try, and what the margins are under each."""

    options: Callable[[int, int, int], list[Any]]
    """(examples, features, seed) → what to try, the first of equals being chosen."""
    margins: Callable[[Any, np.ndarray, Any, list[Any], int], np.ndarray]
    """(x, y, other x, options, seed) → margins of the others under each option, [options, others]; above 0 is a yes."""
    default: Any = None
    """The option for so few examples that none can be spared."""


@dataclass(frozen=True)
class Fit:
    """A fitted method."""

    margin: np.ndarray
    """Of the test examples."""
    validation: float
    """AUC of the option chosen, on the examples that chose it: the best of several, hence too good. NaN where there were
    none."""
    option: Any


def fit(method: Method, x: Any, y: np.ndarray, test: Any, seed: int) -> Fit:
    """Choose among the method's options by AUC on held-out training examples, then learn from all of them."""
    folds = inner_folds(y, seed)
    if not folds:
        return Fit(method.margins(x, y, test, [method.default], seed)[0], float("nan"), method.default)
    options = method.options(min(len(some) for some, _ in folds), x.shape[1], seed)
    areas = [aucs(method.margins(x[some], y[some], x[others], options, seed), y[others]) for some, others in folds]
    means = np.mean(areas, axis=0)
    best = int(np.argmax(means))
    return Fit(method.margins(x, y, test, options[best : best + 1], seed)[0], float(means[best]), options[best])


def out_of_fold(method: Method, x: Any, y: np.ndarray, folds: Folds, seed: int) -> np.ndarray:
    """Margin of each example from a fit, choice of hyper-parameters included, that never saw it: nested cross-validation."""
    margin = np.zeros(len(y))
    for some, others in folds:
        margin[others] = fit(method, x[some], y[some], x[others], seed).margin
    return margin


def inner_folds(y: np.ndarray, seed: int) -> Folds:
    """How hyper-parameters are chosen: none up to 3 examples, each pair left out up to 12, six folds below 128, then the last
    ones.

    As in sae-probes, except that a class with fewer than six examples gets fewer folds, not folds without it.
    """
    from sklearn.model_selection import LeavePOut, StratifiedKFold

    n, fewest = len(y), min(int(y.sum()), int((~y).sum()))
    if n <= 3 or fewest < 2:
        return []
    if n <= 12:
        pairs = [(some, others) for some, others in LeavePOut(2).split(y) if y[others].any() and not y[others].all()]
        return [(some, others) for some, others in pairs if y[some].any() and not y[some].all()]
    held = np.arange(n - min(n // 5, HELD), n)
    if n >= 128 and 0 < y[held].sum() < len(held):
        return [(np.arange(n - len(held)), held)]
    return list(StratifiedKFold(min(6, fewest), shuffle=True, random_state=seed).split(y, y))


def outer_folds(y: np.ndarray, folds: int, seed: int) -> Folds:
    """Folds that judge methods; none where a class has fewer than two examples a fold."""
    from sklearn.model_selection import StratifiedKFold

    if folds < 2 or min(int(y.sum()), int((~y).sum())) < 2 * folds:
        return []
    return list(StratifiedKFold(folds, shuffle=True, random_state=seed_of("outer", seed) % 2**32).split(y, y))


def auc(margin: np.ndarray, truth: np.ndarray) -> float:
    """Area under the ROC curve; ties count half; a half where there is one class only."""
    return float(aucs(margin[None], truth)[0])


def aucs(margins: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The same for each row of margins."""
    from scipy.stats import rankdata

    positive = int(truth.sum())
    if positive in (0, len(truth)):
        return np.full(len(margins), 0.5)
    ranks = rankdata(margins, axis=1)[:, truth].sum(1)
    return (ranks - positive * (positive + 1) / 2) / (positive * (len(truth) - positive))


def scaled(x: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both centred and divided by the standard deviation of x; what is constant in x becomes 0."""
    center, std = x.mean(0), x.std(0)
    keep = std > 1e-12
    return tuple(np.where(keep, (v - center) / np.where(keep, std, 1.0), 0.0) for v in (x, other))  # type: ignore[return-value]


# ---- the methods -----------------------------------------------------------------------------------------------------------


def logistic(strengths: int, penalty: Literal["l1", "l2"] = "l2") -> Method:
    """Logistic regression on features as they are; C from 10⁵ down to 10⁻⁵ in so many steps."""
    return Method(lambda n, d, seed: list(np.logspace(5, -5, strengths)), _logistic(penalty), 1.0)


def _logistic(penalty: Literal["l1", "l2"]) -> Callable[[Any, np.ndarray, Any, list[float], int], np.ndarray]:
    def margins(x: np.ndarray, y: np.ndarray, other: np.ndarray, options: list[float], seed: int) -> np.ndarray:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        x, other = np.asarray(x, np.float64), np.asarray(other, np.float64)
        if not x.any():
            return np.zeros((len(options), len(other)))
        if penalty == "l2" and x.shape[1] > len(x):  # the same solution in fewer coordinates
            both = rotated(np.concatenate([x, other]), np.arange(len(x) + len(other)) < len(x))
            x, other = both[: len(x)], both[len(x) :]
        if penalty == "l2" and x.shape[1] <= NARROW:
            weights = newton(x, y, np.array(options))
            return weights[:, :-1] @ other.T + weights[:, -1:]
        how: dict[str, Any] = {"l1_ratio": 1.0, "solver": "saga", "random_state": seed % 2**32} if penalty == "l1" else {}
        found = np.zeros((len(options), len(other)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the weakest C of separable classes has no end
            for i, C in enumerate(options):
                found[i] = LogisticRegression(C=C, max_iter=1000, **how).fit(x, y).decision_function(other)
        return found

    return margins


def latents(k: int, strengths: int, penalty: Literal["l1", "l2"]) -> Method:
    """Logistic regression on the k latents (columns of a scipy.sparse matrix) whose class means differ most."""
    plain = logistic(strengths, penalty)

    def margins(x: Any, y: np.ndarray, other: Any, options: list[float], seed: int) -> np.ndarray:
        top = strongest(x, y, k)
        return plain.margins(x[:, top].toarray(), y, other[:, top].toarray(), options, seed)

    return Method(plain.options, margins, plain.default)


def strongest(x: Any, y: np.ndarray, k: int) -> np.ndarray:
    """The k columns with the largest |mean of positives − mean of negatives|, each column in units of its mean where it is
    not zero."""
    size = np.asarray(abs(x).sum(0)).ravel() / (x.getnnz(axis=0) + 1e-6)
    gap = np.asarray(x[y].mean(0) - x[~y].mean(0)).ravel()
    return np.argsort(-np.abs(gap) / (size + 1e-6), kind="stable")[:k]


def _components(x: np.ndarray, y: np.ndarray, other: np.ndarray, options: list[int], seed: int) -> np.ndarray:
    from sklearn.decomposition import PCA

    x, other = scaled(x, other)
    most = min(max(o or min(x.shape) for o in options), *x.shape)
    pca = PCA(most, random_state=seed % 2**32).fit(x)
    x, other = pca.transform(x), pca.transform(other)
    plain = _logistic("l2")
    return np.concatenate([plain(x[:, :o], y, other[:, :o], [1.0], seed) for o in options])


def _neighbours(x: np.ndarray, y: np.ndarray, other: np.ndarray, options: list[int], seed: int) -> np.ndarray:
    from sklearn.neighbors import NearestNeighbors

    x, other = scaled(x, other)
    nearest = NearestNeighbors(n_neighbors=min(max(options), len(x))).fit(x).kneighbors(other, return_distance=False)
    share = np.cumsum(y[nearest], axis=1) / np.arange(1, nearest.shape[1] + 1)
    return np.stack([share[:, min(o, len(x)) - 1] - 0.5 for o in options])


def _doublings(most: int) -> list[int]:
    """Ten numbers from 1 to `most`, evenly in their logarithm."""
    return np.unique(np.logspace(0, np.log2(max(most, 1)), num=10, base=2, dtype=int)).tolist()


def _drawn(space: dict[str, np.ndarray], draws: int, seed: int) -> list[dict[str, Any]]:
    rng = numpy_generator("probing", "options", *space, seed)
    return [{key: rng.choice(values).item() for key, values in space.items()} for _ in range(draws)]


def _trees(x: np.ndarray, y: np.ndarray, other: np.ndarray, options: list[dict], seed: int) -> np.ndarray:
    from xgboost import XGBClassifier

    x, other = scaled(x, other)
    made = (XGBClassifier(**o, eval_metric="logloss", n_jobs=1, random_state=seed % 2**31) for o in options)
    return np.stack([np.asarray(m.fit(x, y).predict(other, output_margin=True), np.float64) for m in made])


def _networks(x: np.ndarray, y: np.ndarray, other: np.ndarray, options: list[dict], seed: int) -> np.ndarray:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    x, other = scaled(x, other)
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for o in options:
            shape = (o["width"],) * o["depth"]
            net = MLPClassifier(
                shape, alpha=o["alpha"], learning_rate_init=o["learning_rate_init"], max_iter=1000, random_state=seed % 2**32
            )
            found.append(np.asarray(net.fit(x, y).predict_proba(other))[:, 1] - 0.5)
    return np.stack(found)


PLAIN: dict[str, Method] = {
    "pca": Method(lambda n, d, seed: _doublings(min(n, d, COMPONENTS)), _components),
    "knn": Method(lambda n, d, seed: _doublings(min(n - 1, NEIGHBOURS)), _neighbours, 1),
    "xgboost": Method(lambda n, d, seed: _drawn(TREES, TREE_DRAWS, seed), _trees, {}),
    "mlp": Method(
        lambda n, d, seed: _drawn(NETWORKS, NETWORK_DRAWS, seed), _networks,
        {"width": 32, "depth": 1, "alpha": 1e-4, "learning_rate_init": 1e-3},
    ),
}  # fmt: skip
NAMES = ("logreg", *PLAIN)


# ---- attention over tokens -------------------------------------------------------------------------------------------------

STEPS, LOOK, RATE = 300, 10, 0.05
"""Full-batch steps of Adam on standardised vectors, how often validation is looked at, learning rate times √d: a step moves a
margin by about as much in any width. (The paper: 1000 steps at 10⁻⁴ on vectors as they are, whatever their scale.)"""


def attention(tokens: Ragged, train: np.ndarray, y: np.ndarray, test: np.ndarray, *name: object) -> Fit:
    """One learnt query a and one learnt direction w over an example's tokens: Σ softmax(x·a) (x·w) + b. By Adam, kept where
    the AUC of a fifth of the training examples, held out, is best. `name` seeds."""
    order = numpy_generator("probing", "attention", *name).permutation(len(train))
    held, rest = order[: len(train) // 5], order[len(train) // 5 :]
    x, place, shape = tokens.of(train[rest])
    center, std = x.mean(0), x.std(0).clamp_min(1e-6)
    learn = (x - center) / std, place, shape
    look, others = (((x - center) / std, place, shape) for x, place, shape in map(tokens.of, (train[held], test)))
    target = torch.from_numpy(y[rest].astype(np.float32))
    start = 0.001 * torch.randn(x.shape[1], 2, generator=generator("probing", "attention", *name))
    both, bias = start.requires_grad_(), torch.zeros(1, requires_grad=True)
    adam = torch.optim.Adam([both, bias], lr=RATE / x.shape[1] ** 0.5)
    best = Fit(np.zeros(len(test)), 0.0, {"steps": 0})
    for step in range(1, STEPS + 1):
        with torch.enable_grad():
            loss = torch.nn.functional.binary_cross_entropy_with_logits(_attended(*learn, both, bias), target)
            for parameter, gradient in zip((both, bias), torch.autograd.grad(loss, [both, bias])):
                parameter.grad = gradient
        adam.step()
        if step % LOOK == 0:
            with torch.no_grad():
                area = auc(_attended(*look, both, bias).numpy(), y[held])
                if area > best.validation:
                    best = Fit(_attended(*others, both, bias).double().numpy(), area, {"steps": step})
    return best


def _attended(x: Tensor, place: Tensor, shape: tuple[int, int], both: Tensor, bias: Tensor) -> Tensor:
    score, value = (x @ both).unbind(1)
    empty = score.new_full((shape[0] * shape[1],), -torch.inf)
    weight = empty.index_put((place,), score).view(shape).softmax(1)
    return (weight * torch.zeros_like(empty).index_put((place,), value).view(shape)).sum(1) + bias
