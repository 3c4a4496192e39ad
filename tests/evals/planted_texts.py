"""Labelled texts made of known features, and coders that know, have learnt or cannot know them: what scr and tpp are checked on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import torch

from assay import coders
from assay.activations import Tensors
from assay.coders.base import Batch, SparseCoder
from assay.coders.oracle import Oracle
from assay.coders.permuted_decoder import PermutedDecoder
from assay.evals.needs import LabelledInput
from assay.randomness import generator, numpy_generator
from assay.train import TrainConfig, train

D, FEATURES, TOKENS, PIECE = 40, 64, 10, 97
OFFSET = 0.2
QUADRANTS = ("no & u", "no & v", "yes & u", "yes & v")
POLES = ((0, 2), (0, 3), (1, 2), (1, 3))
"""Features of a text of each combination: 0 and 1 stand for the first label, 2 and 3 for the second."""
TOPICS = ((0,), (1,), (2,), (3,))


def directions(seed: int) -> torch.Tensor:
    """The true features, unit rows, more than dimensions."""
    rows = torch.randn(FEATURES, D, generator=generator("planted texts", "directions", seed))
    return rows / rows.norm(dim=1, keepdim=True)


def tokens(seed: int, own: np.ndarray, name: object) -> torch.Tensor:
    """[texts, tokens, d] of texts with the features `own` [texts, some]: each in 6 tokens of 10, others (from 4 on) in 1 of 20."""
    rng = numpy_generator("planted texts", seed, name)
    chance = np.full((len(own), FEATURES), 0.05)
    chance[:, :4] = 0
    np.put_along_axis(chance, own, 0.6, axis=1)
    there = rng.random((len(own), TOKENS, FEATURES)) < chance[:, None]
    z = there * rng.uniform(0.5, 1.5, there.shape)
    return torch.from_numpy(z).float() @ directions(seed) + OFFSET


def texts(
    seed: int,
    sizes: Sequence[int],
    own: Sequence[Sequence[int]] = POLES,
    classes: Sequence[str] = QUADRANTS,
    name: str = "planted",
) -> LabelledInput:
    """`sizes` texts of each class, half for training; 5 to 10 tokens each, in a shuffled order."""
    rng = numpy_generator("planted texts", "labels", seed)
    labels = rng.permutation(np.repeat(np.arange(len(own)), sizes))
    x = tokens(seed, np.array(own)[labels], "texts")
    keep = np.arange(TOKENS) < rng.integers(5, TOKENS + 1, len(labels))[:, None]
    flat, example = x[torch.from_numpy(keep)], np.repeat(np.arange(len(labels)), keep.sum(1))
    place = np.zeros(len(labels), dtype=int)
    for kind in range(len(own)):
        place[labels == kind] = np.arange((labels == kind).sum())
    return build(flat, example, labels, place % 2 == 0, classes, name)


def build(
    flat: torch.Tensor,
    example: np.ndarray,
    labels: np.ndarray,
    train: np.ndarray,
    classes: Sequence[str],
    name: str = "planted",
) -> LabelledInput:
    """Tokens [n, d] and the text of each, as an eval's input."""

    def vectors():
        for start in range(0, len(flat), PIECE):
            yield flat[start : start + PIECE], example[start : start + PIECE]

    return LabelledInput(name=name, labels=labels, train=train, classes=list(classes), leak=0.0, conflicts=0, vectors=vectors)


@cache
def cast(seed: int, kinds: tuple[tuple[int, ...], ...] = POLES) -> Mapping[str, SparseCoder]:
    """Coders of such texts: oracle, trained, permuted, random, identity, pca."""
    own = np.array(kinds)[numpy_generator("planted texts", "training", seed).integers(len(kinds), size=3000)]
    x = tokens(seed, own, "training").reshape(-1, D)
    learnt = coders.new("topk", d_in=D, d_sae=FEATURES, k=4, seed=seed)
    for _ in train({"trained": learnt}, Tensors(x), TrainConfig(tokens=120 * 512, batch=512, lr=5e-3)):
        pass
    learnt.eval()
    found = {
        "oracle": Oracle.of(directions(seed), OFFSET, k=8),
        "trained": learnt,
        "permuted": PermutedDecoder.of(learnt, "topk", seed=seed),
    }
    more = {"random": {"k": 4, "d_sae": FEATURES}, "identity": {"d_sae": 2 * D}, "pca": {"d_sae": 2 * D}}
    for name, settings in more.items():
        found[name] = coders.new(name, d_in=D, seed=seed, **settings)
        found[name].initialise(Batch.of(x[:2000]))
    return {name: coder.eval() for name, coder in found.items()}
