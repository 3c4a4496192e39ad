"""Which examples a probe learns from and is tested on: plenty, few, lopsided, mislabelled, from elsewhere; by our rules or
sae-probes'.

grouped   The test examples of a data set are drawn once, and every trial is tested on them: what differs between levels is
the training
          alone. Fewer examples are the first of more, fewer flips the first of more.
original  As sae-probes 0.4.2 draws them: each level other training and other test rows, with the class ratio of the training
rows, copies
          of a text on both sides where the corpus has copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from assay.errors import BadInput
from assay.randomness import numpy_generator, seed_of

REGIMES = ("standard", "scarcity", "imbalance", "noise", "shift", "tokens")
PUBLISHED_TRAIN, PUBLISHED_TEST, PUBLISHED_SHIFT = (
    1024,
    100,
    1500,
)  # training rows at most, test rows at least, rows of the shift
LOPSIDED = 0.95  # the most that one class has of the published examples


@dataclass(frozen=True)
class Trial:
    """A probe's task: these examples, with these labels."""

    regime: str
    level: str
    """How many, which share of positives, which share flipped; empty where a regime has no levels."""
    train: np.ndarray
    """Numbers of examples, in an order that is random: the last ones serve validation."""
    y: np.ndarray
    """bool: their labels, wrong ones included."""
    test: np.ndarray
    """Numbers of examples; of the shifted data set in the regime "shift"."""
    seed: int
    flipped: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=bool))
    """bool, over `train`: whose label is wrong (regime "noise" only)."""


@dataclass(frozen=True)
class Levels:
    """How far each regime goes."""

    sizes: Sequence[int]
    """Training examples under scarcity."""
    ratios: Sequence[float]
    """Share of positives among the training examples under imbalance."""
    rates: Sequence[float]
    """Share of training labels that are flipped under noise."""


def grouped(regimes: Sequence[str], truth: np.ndarray, pool: np.ndarray, levels: Levels, *name: object) -> list[Trial]:
    """Trials over a data set: `truth` bool [n], `pool` bool [n] marks what may be learnt from; all else is the test. `name`
    seeds."""
    rng = numpy_generator("probing", "trials", *name)
    order, test = rng.permutation(np.flatnonzero(pool)), np.flatnonzero(~pool)
    sides = [order[truth[order]], order[~truth[order]]]
    if min(*map(len, sides), int(truth[test].sum()), int((~truth[test]).sum())) < 2:
        raise BadInput(
            f"{name[-1]} has fewer than two examples of a class to learn from, or to test on. Ask for more, or leave it out."
        )

    def some(positive: int, negative: int) -> np.ndarray:
        chosen = np.zeros(len(truth), dtype=bool)
        chosen[sides[0][:positive]] = chosen[sides[1][:negative]] = True
        return order[chosen[order]]

    def trial(regime: str, level: str, train: np.ndarray) -> Trial:
        return Trial(regime, level, train, truth[train], test, seed_of("probing", *name, regime, level) % 2**31)

    found = [trial("standard", "", order)] if "standard" in regimes else []
    if "scarcity" in regimes:
        fits = [n for n in levels.sizes if -(-n // 2) <= len(sides[0]) and n // 2 <= len(sides[1])]
        found += [trial("scarcity", str(n), some(-(-n // 2), n // 2)) for n in fits]
    if "imbalance" in regimes:
        n = min(int(min(len(sides[0]) / r, len(sides[1]) / (1 - r))) for r in levels.ratios)
        found += [trial("imbalance", f"{r:g}", some(up(r * n), n - up(r * n))) for r in levels.ratios]
    if "noise" in regimes:
        flips = rng.permutation(len(order))
        found += [wrong(trial("noise", f"{f:g}", order), flips[: int(len(order) * f)]) for f in levels.rates]
    if "tokens" in regimes:
        found.append(trial("tokens", "", order))
    if "shift" in regimes:
        found.append(trial("shift", "", order))
    return found


def original(regimes: Sequence[str], truth: np.ndarray, levels: Levels, seed: int) -> list[Trial]:
    """Trials over all rows of a published data set, row by row those of sae-probes 0.4.2 at this seed."""
    n = len(truth)
    most = min(n - PUBLISHED_TEST, PUBLISHED_TRAIN)

    def trial(regime: str, level: str, train: int, test: int, ratio: float = 0.5, rows: int = n) -> Trial:
        found = published_split(truth[:rows], train, test, ratio, seed)
        return Trial(regime, level, found[0], truth[found[0]], found[1], seed)

    found = [trial("standard", "", most, n - most - 1)] if "standard" in regimes else []
    if "scarcity" in regimes:
        found += [trial("scarcity", str(k), k, n - k - 1) for k in levels.sizes if k <= n - PUBLISHED_TEST]
    if "imbalance" in regimes:
        total = int(min((~truth).sum(), truth.sum()) / LOPSIDED)
        train = min(total - PUBLISHED_TEST, PUBLISHED_TRAIN)
        test = max(PUBLISHED_TEST, total - train - 1)
        found += [trial("imbalance", f"{r:g}", train, test, r) for r in levels.ratios]
    if "noise" in regimes:
        for f in levels.rates:
            clean = trial("noise", f"{f:g}", most, n - most - 1)
            flips = np.random.RandomState(seed).choice(most, size=int(most * f), replace=False)
            found.append(wrong(clean, flips))
    if "tokens" in regimes:
        found.append(trial("tokens", "", most, n - most - 1))
    if "shift" in regimes:
        rows = min(n, PUBLISHED_SHIFT)
        found.append(trial("shift", "", min(PUBLISHED_TRAIN, rows - PUBLISHED_TEST), 0, 0.5, rows))
    return found


def wrong(trial: Trial, flips: np.ndarray) -> Trial:
    """The trial with the labels at these places flipped."""
    flipped = np.zeros(len(trial.train), dtype=bool)
    flipped[flips] = True
    return replace(trial, y=trial.y ^ flipped, flipped=flipped)


def up(share: float) -> int:
    """Rounded up, as `np.ceil` does it: 0.05 of 20 is one, though it is 1.0000000000000002 in floating point."""
    return int(np.ceil(round(share, 9)))


def published_split(y: np.ndarray, train: int, test: int, ratio: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(training rows, test rows) of sae-probes: positives and negatives drawn in turn, first for training, then for the
    test."""
    rng = np.random.RandomState(seed)
    rest = [np.flatnonzero(y), np.flatnonzero(~y)]
    drawn: list[np.ndarray] = []
    for size in (train, test):
        positive = int(np.ceil(ratio * size))
        if positive > len(rest[0]) or size - positive > len(rest[1]):
            raise BadInput(
                f"split=original draws {train} + {test} rows, a share of {ratio:g} of the second class, as sae-probes does "
                f"from its balanced sets; there are {int(y.sum())} rows of it among {len(y)}. Use split=grouped."
            )
        some = [rng.choice(rows, size=n, replace=False) for rows, n in zip(rest, (positive, size - positive))]
        rest = [np.setdiff1d(rows, taken) for rows, taken in zip(rest, some)]
        drawn.append(np.concatenate(some))
    return rng.permutation(drawn[0]), rng.permutation(drawn[1])
