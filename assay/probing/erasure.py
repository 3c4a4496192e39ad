"""Erasure: linear probes on pooled activations, and what they say once chosen latents are zero and the coder's error is kept.

Setting the latents S to zero changes a token's activation by −scale · Σ_{i∈S} z_i W_dec_i, whatever the coder misses. So the
mean over an example's tokens moves by −(mean of scale · z)_S W_dec_S: one encoding a coder, and every set S of latents is a
product of small matrices.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.special import expit

from assay import statistics
from assay.coders.base import Code, SparseCoder
from assay.errors import BadInput
from assay.evals.base import score
from assay.evals.needs import LabelledInput
from assay.randomness import numpy_generator
from assay.results import Score
from assay.shapes import Tensor
from assay.splice import home

VALIDATION = 0.25
BETAS, DECAY = (0.9, 0.999), 0.01
"""Of AdamW, torch's defaults."""
FEWEST = 8
"""Examples a class (or a combination of two) needs on either side of the split."""


# ---- probes ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """How a probe is trained."""

    epochs: int
    batch: int
    lr: float
    l1: float
    rescale: bool
    """Divide activations by their root mean square first, so that the recipe means the same at every site."""


class Probe(NamedTuple):
    """A linear probe: above 0 it says yes."""

    weight: np.ndarray
    """float64 [d]"""
    bias: float
    epoch: int
    """Which epoch was kept, from 1."""

    def margin(self, x: np.ndarray) -> np.ndarray:
        """How surely yes, for each row of x [n, d]."""
        return x.astype(np.float64) @ self.weight + self.bias


def fit(x: np.ndarray, y: np.ndarray, validation: np.ndarray, recipe: Recipe, *name: object) -> Probe:
    """A probe of y bool [n] on x [n, d]: AdamW on cross-entropy + L1 in batches drawn anew each epoch, starting from zero.

    The examples of `validation` bool [n] are not trained on; the epoch with the least cross-entropy there is kept.
    In double precision and without autograd: steps so small take a tenth of the time, and threads do not change the bits.
    """
    unit = float(np.sqrt(np.square(x[~validation], dtype=np.float64).mean())) if recipe.rescale else 1.0
    rows = np.hstack([x / (unit or 1.0), np.ones((len(x), 1))])  # the last weight is the bias
    train, random = np.flatnonzero(~validation), numpy_generator(*name)
    w, first, second, step = *np.zeros((3, rows.shape[1])), 0
    best, kept = np.inf, Probe(w[:-1].copy(), 0.0, 0)
    for epoch in range(1, recipe.epochs + 1):
        order = random.permutation(train)
        for some in (order[i : i + recipe.batch] for i in range(0, len(order), recipe.batch)):
            gradient = (expit(rows[some] @ w) - y[some]) @ rows[some] / len(some)
            gradient[:-1] += recipe.l1 * np.sign(w[:-1])
            step += 1
            first += (1 - BETAS[0]) * (gradient - first)
            second += (1 - BETAS[1]) * (gradient**2 - second)
            w *= 1 - recipe.lr * DECAY
            w -= recipe.lr * (first / (1 - BETAS[0] ** step)) / (np.sqrt(second / (1 - BETAS[1] ** step)) + 1e-8)
        margin = rows[validation] @ w
        loss = np.logaddexp(0, np.where(y[validation], -margin, margin)).mean()
        if loss < best:
            best, kept = loss, Probe(w[:-1] / (unit or 1.0), float(w[-1]), epoch)
    return kept


def held_out(group: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """bool [n]: a quarter of the examples of each group (numbers from 0; those below are in none), for choosing."""
    found = np.zeros(len(group), dtype=bool)
    for kind in np.unique(group[group >= 0]):
        places = np.flatnonzero(group == kind)
        found[rng.permutation(places)[: max(1, round(len(places) * VALIDATION))]] = True
    return found


def drawn_evenly(places: Sequence[np.ndarray], n: int, rng: np.random.Generator) -> np.ndarray:
    """About n numbers in all, as many from each of `places` (all of one that has fewer)."""
    share = -(-n // max(len(places), 1))
    found = np.concatenate([rng.permutation(some)[:share] for some in places])
    return rng.permutation(found)[:n]


# ---- latents -----------------------------------------------------------------------------------------------------------------


def contributions(
    coder: SparseCoder[Any], data: LabelledInput, side: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(example, latent, scale · z / tokens of the example) of all that is not zero, in the examples of `side` bool [n]."""
    if not coder.linear:
        raise BadInput(
            f"{type(coder).__name__} has no directions of its latents (W_dec), so none can be taken out of activations."
        )
    for x, example in data.vectors():
        here = side[example]
        if here.any():
            example = example[here]
            token, latent, value = (
                part.cpu().numpy() for part in _active(coder.encode(x[torch.from_numpy(here)].to(home(coder))))
            )
            yield example[token], latent, value.astype(np.float64) / data.lengths[example[token]]


def _active(code: Code) -> tuple[Tensor, Tensor, Tensor]:
    """(token, latent, scale · z) of the latents that are not zero."""
    latents = code.latents
    if latents.indices is None:
        token, latent = latents.values.nonzero(as_tuple=True)
        value = latents.values[token, latent]
    else:
        token, latent, value = latents.rows(), latents.indices, latents.values
    scale = torch.as_tensor(code.scale, device=value.device)
    return token, latent, value * (scale.expand(latents.count, 1)[token, 0] if scale.ndim else scale)


def class_means(coder: SparseCoder[Any], data: LabelledInput, group: np.ndarray, groups: int) -> np.ndarray:
    """Mean of scale · z over the tokens of an example, then over the examples of each group: float64 [groups, d_sae].

    `group` [n]: the group of each example, −1 for those in none.
    """
    size = np.bincount(group[group >= 0], minlength=groups)
    found = np.zeros(groups * coder.d_sae)
    for example, latent, value in contributions(coder, data, group >= 0):
        of = group[example]
        found += np.bincount(of * coder.d_sae + latent, value / size[of], minlength=len(found))
    return found.reshape(groups, coder.d_sae)


def columns(coder: SparseCoder[Any], data: LabelledInput, side: np.ndarray, latents: np.ndarray) -> np.ndarray:
    """Mean over tokens of scale · z of some `latents`, for each example of `side` in order: float64 [examples, latents]."""
    place = np.full(coder.d_sae, -1)
    place[latents] = np.arange(len(latents))
    row, found = np.cumsum(side) - 1, np.zeros((int(side.sum()), len(latents)))
    for example, latent, value in contributions(coder, data, side):
        kept = place[latent] >= 0
        present, at = np.unique(example[kept], return_inverse=True)
        cell = at * len(latents) + place[latent[kept]]
        sums = np.bincount(cell, value[kept], minlength=len(present) * len(latents))
        found[row[present]] += sums.reshape(len(present), len(latents))
    return found


def along(coder: SparseCoder[Any], probe: Probe) -> np.ndarray:
    """What one unit of each latent adds to a probe's margin: W_dec · w, float64 [d_sae]."""
    w = torch.from_numpy(probe.weight).to(coder.W_dec.device, coder.W_dec.dtype)
    return (coder.W_dec @ w).double().cpu().numpy()


class Erased:
    """Margins of probes on the test examples after ablation; `orders` say which latents go first, for each ablation."""

    def __init__(self, coder: SparseCoder[Any], data: LabelledInput, orders: Mapping[Any, np.ndarray], probes: Sequence[Probe]):
        latents = np.unique(np.concatenate([*orders.values(), np.zeros(0, dtype=np.int64)]))
        self.places = {name: np.searchsorted(latents, order) for name, order in orders.items()}
        self.pooled = columns(coder, data, ~data.train, latents)
        rows = coder.W_dec[torch.from_numpy(latents).to(coder.W_dec.device)].double().cpu().numpy()
        self.along = rows @ np.stack([probe.weight for probe in probes], axis=1)
        """What one unit of a latent adds to the margin of each probe, [latents, probes]."""
        self.clean = np.stack([probe.margin(data.pooled[~data.train]) for probe in probes], axis=1)

    def margins(self, name: Any, n: int) -> np.ndarray:
        """Without the first n latents of an order: [test examples, probes]."""
        these = self.places[name][:n]
        return self.clean - self.pooled[:, these] @ self.along[these]


def strongest(effect: np.ndarray, n: int) -> np.ndarray:
    """The n latents of largest positive effect, in that order; fewer where fewer have any."""
    order = np.argsort(-effect, kind="stable")[:n]
    return order[effect[order] > 0]


def without(x: np.ndarray, direction: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """x [n, d] with its deviation from the mean along a direction taken out: what needs no coder."""
    x = x.astype(np.float64)
    unit = direction / max(float(np.linalg.norm(direction)), 1e-30)
    return x - ((x - mean) @ unit)[:, None] * unit


# ---- figures -----------------------------------------------------------------------------------------------------------------


class Figures(NamedTuple):
    """Some figures of a task, and what they are when its test examples are drawn anew; NaN where there is none."""

    value: np.ndarray
    """float64 [figures]"""
    drawn: np.ndarray
    """float64 [resamples, figures]"""
    n: int
    """Test examples."""

    @classmethod
    def of(cls, draws: np.ndarray, n: int) -> Figures:
        """From [1 + resamples, figures], the first row with the examples as they are."""
        return cls(draws[0], draws[1:], n)

    @classmethod
    def none(cls, figures: int) -> Figures:
        """Of a task that gives none."""
        return cls.of(np.full((1 + statistics.RESAMPLES, figures), np.nan), 0)

    def scores(self, names: Sequence[tuple[str, Mapping[str, Any]]], reason: str, **where: object) -> list[Score]:
        """A score of each figure; `names`: its metric and further dimensions."""
        intervals = (statistics.percentile(float(v), self.drawn[:, i], self.n) for i, v in enumerate(self.value))
        return [score(metric, found, reason, **where, **more) for (metric, more), found in zip(names, intervals, strict=True)]


def stratified(group: np.ndarray, *name: object) -> np.ndarray:
    """How often each example is drawn: [1 + resamples, n], first once each; each group keeps its size."""
    rng, found = numpy_generator(*name), np.ones((1 + statistics.RESAMPLES, len(group)))
    for kind in np.unique(group):
        places = np.flatnonzero(group == kind)
        found[1:, places] = np.concatenate(list(statistics.counts(len(places), rng)))
    return found


def mean(parts: Sequence[Figures], *name: object) -> Figures:
    """Mean over the parts that have a figure; with a `name`, several parts are drawn anew too (two levels)."""
    values, drawn = np.stack([part.value for part in parts]), np.stack([part.drawn for part in parts])
    found, replicates = np.full(values.shape[1], np.nan), np.full(drawn.shape[1:], np.nan)
    for i in range(values.shape[1]):
        there = np.flatnonzero(~np.isnan(values[:, i]))
        if not len(there):
            continue
        weights = np.full((drawn.shape[1], len(there)), 1 / len(there))
        if name and len(there) > 1:
            weights = np.concatenate(list(statistics.counts(len(there), numpy_generator(*name), drawn.shape[1]))) / len(there)
        found[i], replicates[:, i] = values[there, i].mean(), (weights * drawn[there, :, i].T).sum(1)
    return Figures(found, replicates, sum(part.n for part in parts))


# ---- settings and records ----------------------------------------------------------------------------------------------------


def whole_numbers(text: str, eval_name: str) -> list[int]:
    """2,5,10 as numbers, all from 1 up."""
    try:
        found = [int(n) for n in text.split(",")]
    except ValueError:
        found = [0]
    if min(found) < 1:
        raise BadInput(f"n = {text!r} of {eval_name} is not a list of whole numbers from 1 up, such as 2,5,10.")
    return found


def listed(datasets: str, eval_name: str) -> list[str]:
    """The names in A,B,…"""
    found = [name.strip() for name in datasets.split(",") if name.strip()]
    if not found:
        raise BadInput(f"{eval_name} needs at least one dataset.")
    return found


def too_few(data: LabelledInput, kinds: Iterable[int]) -> str | None:
    """Why a corpus cannot be used: a class has fewer than `FEWEST` examples on one side."""
    for kind in kinds:
        train, test = (int((side & (data.labels == kind)).sum()) for side in (data.train, ~data.train))
        if min(train, test) < FEWEST:
            return f"{data.classes[kind]} has {train} training and {test} test examples; {FEWEST} of each are needed"
    return None


def described(data: LabelledInput) -> dict[str, Any]:
    """What a record says of a labelled corpus."""
    sides = {"train": data.train, "test": ~data.train}
    counts = {name: np.bincount(data.labels[side], minlength=len(data.classes)).tolist() for name, side in sides.items()}
    return {"classes": list(data.classes), **counts, "leak": data.leak, "conflicts": data.conflicts}
