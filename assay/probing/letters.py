"""What absorption is computed from: which way each letter points, a coder's main latents for it, and the formulas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import optimize, sparse, special

from assay import statistics
from assay.coders.base import SparseCoder
from assay.evals.needs import SpellingInput
from assay.randomness import numpy_generator
from assay.shapes import Float, Tensor
from assay.splice import home

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SILENT = 1e-8
ALIGNED = 0.025
"""Least cosine with p of the latent that absorbs a word in full."""
ABSORBER = 0.1
"""Least cosine of the latents that absorb a part."""
ABSORBERS = 3
SHARE = 0.4
"""Of P, that absorbing latents give at least."""
CANDIDATES = 64
"""Latents a letter that the sparse probe ranks."""
L1 = 0.01
"""Its penalty."""
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)
"""Of the L2 penalty of the letters' probes, on activations of unit mean variance."""
PIECE = 1024  # words encoded at once
ENTRIES = 2**22  # dense latents held at once
PRECISE = {"maxiter": 1000, "maxfun": 2000, "ftol": 1e-10, "gtol": 1e-6}

FORMULAS = ("full_absorption", "absorption_fraction", "absorption_fraction_saebench_0_3", "main_share")
"""What is computed of each word."""

# ---- without a coder: which way a letter points, and which words have it --------------------------------------------------------


@dataclass(frozen=True)
class Truth:
    """What the activations themselves say of each letter."""

    data: SpellingInput
    fold: np.ndarray
    """Part of each training word, −1 for test words; int [n]."""
    strength: float
    """Of the probes' penalty, as chosen."""
    directions: Float[np.ndarray, "26 d"]
    """Unit vectors p; 0 for letters with too few words."""
    totals: Float[np.ndarray, "n 26"]
    """P = x·p."""
    margins: Float[np.ndarray, "n 26"]
    """Of the probes; a word has a letter where it is positive."""
    f1: Mapping[int, float]
    """Cross-validated, of each letter with enough words."""
    left_out: Mapping[int, str]
    """Letters that do not count, and why."""
    drawn: Float[np.ndarray, "r test"]
    """Bootstrap: how often each test word is drawn; each letter's apart."""

    @classmethod
    def of(cls, data: SpellingInput, *, folds: int, min_words: int, min_f1: float, seed: int) -> Truth:
        """Fit a probe a letter; the penalty and which letters count are chosen by cross-validation on the training words."""
        x, has = data.vectors.astype(np.float64), data.letters[:, None] == np.arange(len(LETTERS))
        fold, drawn = np.full(len(x), -1), np.zeros((statistics.RESAMPLES, int((~data.train).sum())))
        for letter in np.unique(data.letters):
            rng = numpy_generator("absorption", seed, LETTERS[letter])
            mine = np.flatnonzero(has[:, letter] & data.train)
            fold[rng.permutation(mine)] = np.arange(len(mine)) % folds
            test = np.flatnonzero(data.letters[~data.train] == letter)
            if len(test):
                drawn[:, test] = np.concatenate(list(statistics.counts(len(test), rng)))
        n_train, n_test = has[data.train].sum(0), has[~data.train].sum(0)
        left_out = {
            i: f"{n_train[i]} training words and {n_test[i]} test words; {min_words} and 2 are needed"
            for i in range(len(LETTERS)) if n_train[i] < min_words or n_test[i] < 2
        }  # fmt: skip
        known = [i for i in range(len(LETTERS)) if i not in left_out]
        directions, totals, margins = np.zeros((len(LETTERS), x.shape[1])), np.zeros(has.shape), np.full(has.shape, -1.0)
        if not known:
            return cls(data, fold, STRENGTHS[0], directions, totals, margins, {}, left_out, drawn)
        held_out, strength = cross_validated(x, has[:, known], fold, folds)
        weights, bias = one_vs_rest(x[data.train], has[data.train][:, known], [strength])[0]
        directions[known] = (weights / np.maximum(np.linalg.norm(weights, axis=0), 1e-30)).T
        totals, margins[:, known] = x @ directions.T, x @ weights + bias
        f1 = {i: float(f1_score(has[data.train, i], held_out[data.train, j] > 0)) for j, i in enumerate(known)}
        left_out |= {i: f"the probe's F1 is {f1[i]:.3f}, not over {min_f1:g}" for i in known if not f1[i] > min_f1}
        few = (has & (margins > 0))[~data.train].sum(0)
        left_out |= {i: f"the probe finds {few[i]} test words; 2 are needed" for i in known if few[i] < 2 and i not in left_out}
        return cls(data, fold, strength, directions, totals, margins, f1, left_out, drawn)

    @property
    def used(self) -> list[int]:
        """Letters that count."""
        return [i for i in range(len(LETTERS)) if i not in self.left_out]

    def found(self, letter: int) -> np.ndarray:
        """Numbers of the letter's test words that its probe finds."""
        return np.flatnonzero(~self.data.train & (self.data.letters == letter) & (self.margins[:, letter] > 0))

    def test_f1(self, letter: int, guess: np.ndarray) -> tuple[float, np.ndarray]:
        """F1 of a guess, bool [test], over the test words, and under their bootstrap weights."""
        has = self.data.letters[~self.data.train] == letter
        return float(f1_score(has, guess)), f1_score(has, guess, self.drawn)


def cross_validated(x: np.ndarray, has: np.ndarray, fold: np.ndarray, folds: int) -> tuple[np.ndarray, float]:
    """(margins [n, letters] of training words by probes that have not seen them, the strength of best mean F1)."""
    margins = {strength: np.zeros(has.shape) for strength in STRENGTHS}
    for part in range(folds):
        fit, rest = (fold >= 0) & (fold != part), fold == part
        for strength, (weights, bias) in zip(STRENGTHS, one_vs_rest(x[fit], has[fit], STRENGTHS), strict=True):
            margins[strength][rest] = x[rest] @ weights + bias
    train = fold >= 0
    f1 = [np.mean([f1_score(y, m > 0) for y, m in zip(has[train].T, margin[train].T)]) for margin in margins.values()]
    best = STRENGTHS[int(np.argmax(f1))]
    return margins[best], best


def balance(has: np.ndarray) -> np.ndarray:
    """Weights of mean 1 under which both sides of each column weigh the same."""
    n, positive = len(has), has.sum(0)
    return np.where(has, n / (2 * np.maximum(positive, 1)), n / (2 * np.maximum(n - positive, 1)))


def one_vs_rest(
    x: Float[np.ndarray, "n d"], has: np.ndarray, strengths: Sequence[float], scaled: bool = True
) -> list[tuple[Float[np.ndarray, "d c"], Float[np.ndarray, " c"]]]:
    """(weights, biases) of balanced logistic regressions, all columns of `has` [n, c] at once, for each strength of the penalty.

    Minimises mean balanced loss + strength/2 · |w|², x taken at unit mean variance if `scaled`. In the coordinates used here the
    curvature is about the same all ways, so that a few dozen steps suffice whatever the spread of the variances.
    """
    center = x.mean(0)
    x = x - center
    unit = max(float(np.sqrt(np.square(x).mean())), 1e-30) if scaled else 1.0
    values, basis = spectrum(x / unit)
    weigh, sign = balance(has) / len(x), np.where(has, 1.0, -1.0)
    found = []
    for strength in strengths:
        curvature = values / 4 + strength
        change, penalty = basis / np.sqrt(curvature) / unit, (strength / curvature)[:, None]
        features, shape = x @ change, (len(values) + 1, has.shape[1])

        def objective(flat: np.ndarray, features=features, penalty=penalty, shape=shape) -> tuple[float, np.ndarray]:
            u = flat.reshape(shape)
            margin = sign * (features @ u[:-1] + u[-1])
            pull = -weigh * sign * special.expit(-margin)
            value = (weigh * np.logaddexp(0, -margin)).sum() + (penalty * np.square(u[:-1])).sum() / 2
            return value, np.vstack([features.T @ pull + penalty * u[:-1], pull.sum(0)]).ravel()

        start = np.zeros(shape).ravel()
        u = optimize.minimize(objective, start, jac=True, method="L-BFGS-B", options=PRECISE).x.reshape(shape)
        weights = change @ u[:-1]
        found.append((weights, u[-1] - center @ weights))
    return found


def spectrum(x: Float[np.ndarray, "n d"]) -> tuple[np.ndarray, np.ndarray]:
    """(variances, unit directions as columns) of centred vectors, in at most n directions: those in which they vary."""
    wide = x.shape[1] > len(x)
    values, vectors = np.linalg.eigh((x @ x.T if wide else x.T @ x) / len(x))
    keep = values > max(values.max(), 0.0) * 1e-12
    values, vectors = values[keep], vectors[:, keep]
    return values, x.T @ vectors / np.sqrt(values * len(x)) if wide else vectors


def nonnegative(x: Float[np.ndarray, "n m"], has: np.ndarray, strength: float) -> Float[np.ndarray, " m"]:
    """Weights w ≥ 0 of the balanced logistic regression of `has` [n] that minimises mean loss + strength · Σw."""
    x = x - x.mean(0)
    weigh, sign = balance(has[:, None])[:, 0] / len(x), np.where(has, 1.0, -1.0)

    def objective(w: np.ndarray) -> tuple[float, np.ndarray]:
        margin = sign * (x @ w[:-1] + w[-1])
        pull = -weigh * sign * special.expit(-margin)
        value = (weigh * np.logaddexp(0, -margin)).sum() + strength * w[:-1].sum()
        return value, np.append(x.T @ pull + strength, pull.sum())

    bounds = [(0.0, None)] * x.shape[1] + [(None, None)]
    return optimize.minimize(
        objective, np.zeros(x.shape[1] + 1), jac=True, method="L-BFGS-B", bounds=bounds, options=PRECISE
    ).x[:-1]


def f1_score(has: np.ndarray, guess: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """F1 of `guess` [n], or under each row of example weights [r, n]: []; or [r]. 0 where nothing is there and nothing guessed."""
    weights = np.ones(len(has)) if weights is None else weights
    return 2 * (weights @ (has & guess)) / np.maximum(weights @ (has.astype(float) + guess), 1e-30)


# ---- with a coder ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Letter:
    """What one letter says of a coder."""

    letter: int
    main: list[int]
    """Main latents, the best first."""
    curve: list[float]
    """Cross-validated F1 of the best one, two … latents."""
    guess: np.ndarray
    """Which test words the probe on the main latents finds, bool [test]."""
    values: Mapping[str, np.ndarray]
    """By formula: of each word that the truth's probe finds."""
    top: np.ndarray
    """Latent of largest share in each of them."""


class Latents:
    """Latents of all words, and how they are ranked for a letter."""

    def __init__(self, coder: SparseCoder[Any], truth: Truth):
        self.truth, data = truth, truth.data
        device = home(coder)
        pieces = torch.from_numpy(data.vectors).split(PIECE)
        self.z: Any = sparse.vstack([encoded(coder, piece.to(device)) for piece in pieces], format="csr")
        """With the code's own scale: shares are z·(W_dec p)."""
        square = np.asarray(self.z[data.train].power(2).mean(0)).ravel()
        size = np.where(square > 0, 1 / np.sqrt(np.maximum(square, 1e-300)), 0.0)
        self.scaled: Any = (self.z @ sparse.diags_array(size)).tocsc()
        """Of root mean square 1 over the training words; 0 where silent on all of them."""
        folds = int(truth.fold.max()) + 1
        words = np.flatnonzero(data.train)
        group = data.letters[words] * folds + truth.fold[words]
        pick = sparse.csr_array((np.ones(len(words)), (group, words)), shape=(len(LETTERS) * folds, len(data.letters)))
        self.sums = (pick @ self.scaled).toarray().reshape(len(LETTERS), folds, coder.d_sae)
        self.counts = np.bincount(group, minlength=len(LETTERS) * folds).reshape(len(LETTERS), folds)
        self.all_sums, self.all_counts = self.sums.sum(0), self.counts.sum(0)

    def ranked(self, letter: int, without: int | None = None) -> np.ndarray:
        """Latents that rise on a letter's training words, the most telling first; some part's words left out."""
        part = np.arange(len(self.all_counts)) != without
        mine, n = self.sums[letter, part].sum(0), self.counts[letter, part].sum()
        gap = mine / n - (self.all_sums[part].sum(0) - mine) / (self.all_counts[part].sum() - n)
        top = np.argsort(-gap, kind="stable")[:CANDIDATES]
        top = top[gap[top] > 0]
        words = self.truth.data.train & (self.truth.fold != without)
        weights = nonnegative(self.columns(top)[words], self.truth.data.letters[words] == letter, L1)
        return top[np.lexsort((-gap[top], -weights))]

    def columns(self, latents: Sequence[int] | np.ndarray) -> Float[np.ndarray, "n k"]:
        """Some latents of all words, dense."""
        return self.scaled[:, np.asarray(latents, dtype=np.int64)].toarray()


def encoded(coder: SparseCoder[Any], x: Tensor) -> Any:
    """Latents times the code's scale, as a CSR array of float64."""
    code = coder.encode(x)
    scale = torch.as_tensor(code.scale, dtype=torch.float32).cpu().expand(len(x), 1)[:, 0].double().numpy()
    kept = code.latents
    if kept.indices is None or kept.offsets is None:
        found = sparse.csr_array(kept.values.double().cpu().numpy())
    else:
        parts = (kept.values.double().cpu().numpy(), kept.indices.cpu().numpy(), kept.offsets.cpu().numpy())
        found = sparse.csr_array(parts, shape=(len(x), kept.d_sae))
    return sparse.diags_array(scale) @ found


def letters(coder: SparseCoder[Any], truth: Truth, max_latents: int, jump: float) -> list[Letter]:
    """Main latents and absorption of each letter that counts."""
    if not truth.used:
        return []
    latents = Latents(coder, truth)
    W_dec = coder.W_dec.detach().float()
    along = (W_dec @ torch.from_numpy(truth.directions).to(W_dec).T).cpu().numpy().astype(np.float64)
    cosine = along / np.maximum(W_dec.norm(dim=1).cpu().numpy(), 1e-30)[:, None]
    found = []
    for letter in truth.used:
        main, curve = choose(latents, letter, max_latents, jump)
        words = truth.found(letter)
        pieces = np.array_split(words, -(-len(words) * coder.d_sae // ENTRIES))
        parts = [
            absorbed(latents.z[some].toarray(), along[:, letter], cosine[:, letter], main, truth.totals[some, letter])
            for some in pieces
        ]
        values = {name: np.concatenate([part[name] for part in parts]) for name in FORMULAS}
        top = np.concatenate([part["top"] for part in parts])
        found.append(Letter(letter, main, curve, guess(latents, letter, main), values, top))
    return found


def choose(latents: Latents, letter: int, max_latents: int, jump: float) -> tuple[list[int], list[float]]:
    """(main latents, F1 by their number): one, and more while each raises the cross-validated F1 by over `jump`."""
    fold, has = latents.truth.fold, latents.truth.data.letters == letter
    train = fold >= 0
    blocks = [latents.columns(latents.ranked(letter, part)[:max_latents]) for part in range(len(latents.all_counts))]
    curve: list[float] = []
    while len(curve) < max_latents and (not curve or curve[-1] + jump < 1):  # else the next cannot be enough better
        margin = np.full(len(has), -1.0)
        for part, block in enumerate(blocks):
            margin[fold == part] = k_sparse(block[:, : len(curve) + 1], has, train & (fold != part))[fold == part]
        f1 = float(f1_score(has[train], margin[train] > 0))
        if curve and f1 <= curve[-1] + jump:
            break
        curve.append(f1)
    return latents.ranked(letter)[: len(curve)].tolist(), curve


def guess(latents: Latents, letter: int, main: list[int]) -> np.ndarray:
    """Which test words a probe on the main latents finds."""
    data = latents.truth.data
    return k_sparse(latents.columns(main), data.letters == letter, data.train)[~data.train] > 0


def k_sparse(x: Float[np.ndarray, "n k"], has: np.ndarray, fit: np.ndarray) -> Float[np.ndarray, " n"]:
    """Margins of all words by a balanced logistic regression (C = 1) fitted to some; −1 where there is no latent."""
    if not x[fit].any():
        return np.full(len(x), -1.0)
    weights, bias = one_vs_rest(x[fit], has[fit][:, None], [1 / fit.sum()], scaled=False)[0]
    return (x @ weights + bias)[:, 0]


def absorbed(
    z: Float[np.ndarray, "m d_sae"],
    along: Float[np.ndarray, " d_sae"],
    cosine: Float[np.ndarray, " d_sae"],
    main: list[int],
    total: Float[np.ndarray, " m"],
) -> dict[str, np.ndarray]:
    """The formulas for each word: `along` is W_dec p, `cosine` that of p with each row, `total` P. And the latent of largest share."""
    share = z * along
    by_main, by_all = share[:, main].sum(1), share.sum(1)
    top = share.argmax(1)
    most = np.take_along_axis(share, top[:, None], 1)[:, 0]
    full = (z[:, main] < SILENT).all(1) & (cosine[top] >= ALIGNED) & (total >= 0) & (most >= SHARE * total)

    others = np.where(cosine >= ABSORBER, share, 0.0).clip(min=0.0)
    others[:, main] = 0.0
    by_others = np.sort(others, axis=1)[:, -ABSORBERS:].sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        missing = np.minimum(by_others, total - by_main)
        fraction = np.where(by_main <= 0, 1.0, (missing / (missing + by_main)).clip(0, 1))
        fraction = np.where((by_main >= total) | (by_others / total < SHARE), 0.0, fraction)
        older = np.where((by_main >= total) | (by_all <= 0), 0.0, ((by_all - by_main) / by_all).clip(0, 1))
        given = np.where(total > 0, (by_main / total).clip(0, 1), 0.0)
    return dict(zip((*FORMULAS, "top"), (full.astype(float), fraction, older, given, top), strict=True))
