"""What evals may ask for (needs), and what each need becomes (inputs). How they are met stands in `assay.inputs`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from assay.coders.base import SparseCoder
from assay.errors import BadInput
from assay.shapes import Bool, Float, Int, Tensor


class Need:
    """Base of all needs: frozen dataclasses, so that equal needs of several evals are met once."""


@dataclass(frozen=True)
class Passes(Need):
    """Need: per-token losses of held-out text, clean, ablated (mean, zero) and with each coder spliced in."""

    tokens: int
    special: bool = False
    """Also with zeros at every position, special ones too."""


@dataclass(frozen=True)
class Labelled(Need):
    """Need: activations of a labelled corpus, token by token."""

    corpus: str
    train: int
    test: int
    context: int
    split: Literal["grouped", "original"] = "grouped"
    """grouped: no two examples are alike. original: the corpus's first train + test rows as they are, copies included."""
    last: bool = False
    """Only the last token of each example."""


@dataclass(frozen=True)
class Truth(Need):
    """Need: vectors of the planted source that the coders learnt from, and which of its features each is made of."""

    vectors: int
    seed: int
    """Which vectors: another seed gives others of the same source. Training reads none of them."""


Vectors = Callable[[], Iterator[tuple[Float[Tensor, "n d"], np.ndarray]]]
"""Called, streams (activations in fp32, which unit each belongs to) in a fixed order and in pieces of fixed size."""


@dataclass(frozen=True)
class Losses:
    """What one kind of pass did to each predicted token. Nats."""

    ce: np.ndarray
    """Cross-entropy of the next token, float32 [n]."""
    kl: np.ndarray
    """KL(clean ‖ this pass) of the next-token distribution, float32 [n]; zeros for the clean pass itself."""


@dataclass(frozen=True)
class PassesInput:
    """What a `Passes` need becomes. Position t predicts token t + 1; it counts when both are real text of one document.

    Spliced and ablated runs keep the original activations at special positions (BOS, padding).
    """

    documents: int
    """Number of documents D; both document indices below run from 0 to D − 1."""
    vectors: Vectors
    """Site activations at every real token, with the document of each."""
    mean: Float[Tensor, " d"]
    """Their mean: what mean ablation puts in."""
    document: np.ndarray
    """Document of each predicted token, int64 [n]."""
    clean: Losses
    mean_ablated: Losses
    zero_ablated: Losses
    spliced: Losses
    """Of the coder being scored."""
    zero_everywhere: Losses | None = None
    """With zeros at special positions too, where that was asked for."""


@dataclass(frozen=True)
class LabelledInput:
    """What a `Labelled` need becomes: examples with a class each, split so that equal texts are on one side."""

    name: str
    labels: Int[np.ndarray, " n"]
    train: np.ndarray
    """bool [n]: training examples; the others are for the test."""
    classes: Sequence[str]
    """Names of the classes, by label."""
    leak: float
    """Share of the corpus's documents whose text occurred before: what a careless split would leak."""
    conflicts: int
    """Documents whose text occurs with more than one class; they are left out."""
    vectors: Vectors
    """Site activations at every real token, with the example of each."""
    documents: Sequence[int] | None = None
    """Which document of the corpus each example is."""

    @cached_property
    def last(self) -> np.ndarray:
        """Activation of each example's last token, float32 [n, d]."""
        found: np.ndarray | None = None
        for x, example in self.vectors():
            found = np.zeros((len(self.labels), x.shape[1]), dtype=np.float32) if found is None else found
            ends = len(example) - 1 - np.unique(example[::-1], return_index=True)[1]  # a later piece overwrites an earlier one
            found[example[ends]] = x.numpy()[ends]
        if found is None:
            raise BadInput(f"{self.name} has no tokens. Choose a labelled corpus with text in it.")
        return found

    @cached_property
    def lengths(self) -> Int[np.ndarray, " n"]:
        """Real tokens of each example."""
        counts = (np.bincount(example, minlength=len(self.labels)) for _, example in self.vectors())
        return sum(counts, np.zeros(len(self.labels), dtype=np.int64))

    @cached_property
    def pooled(self) -> np.ndarray:
        """Mean activation of each example's tokens, float32 [n, d]: what a probe without a coder sees."""
        return self.pool(lambda x: x)

    def pool(self, encode: Callable[[Tensor], Tensor]) -> np.ndarray:
        """Mean over each example's real tokens of `encode(x [m, d]) -> [m, w]`: float32 [n, w]."""
        total: np.ndarray | None = None
        tokens = np.zeros(len(self.labels), dtype=np.float32)
        for x, example in self.vectors():
            z = encode(x)
            present, inverse = np.unique(example, return_inverse=True)
            pick = z.new_zeros(len(present), len(example))
            pick[inverse, np.arange(len(example))] = 1.0  # a matrix product, since scattered sums are not reproducible on GPUs
            if total is None:
                total = np.zeros((len(self.labels), z.shape[1]), dtype=np.float32)
            total[present] += (pick @ z).cpu().numpy()
            tokens += np.bincount(example, minlength=len(tokens))
        if total is None:
            raise BadInput(f"{self.name} has no tokens to pool. Choose a labelled corpus with text in it.")
        return total / np.maximum(tokens, 1)[:, None]


@dataclass(frozen=True)
class TruthInput:
    """What a `Truth` need becomes: the dictionary, and vectors made from it."""

    source: Mapping[str, Any]
    """What the source says of itself: kind, d, latents, seed and more."""
    directions: Float[Tensor, "latents d"]
    """The true features, unit rows."""
    parents: Int[Tensor, " latents"] | None
    """The feature above each, −1 for none; None of a source without hierarchy."""
    pieces: Callable[[], Iterator[tuple[Float[Tensor, "n d"], Bool[Tensor, "n latents"]]]]
    """Called, streams (vectors, which features are in each) in a fixed order and in pieces of fixed size."""


@dataclass(frozen=True)
class Spelling(Need):
    """Need: activations at words of the tokenizer's vocabulary, in prompts that ask for their first letter."""

    words: int | None
    """In all, as many of each letter; None takes the whole vocabulary."""
    examples: int
    """Other words in the prompt, with their letters."""
    template: str
    """What the prompt says of a word, with {word} in it."""
    test: float
    """Share of each letter's words that is not for training."""
    seed: int


@dataclass(frozen=True)
class SpellingInput:
    """What a `Spelling` need becomes: each word once, in one of its forms."""

    words: Sequence[str]
    """As they stand in the prompt: `cat`, `Cat`, or with the space before it."""
    letters: Int[np.ndarray, " n"]
    """First letter of each, 0 for A."""
    train: np.ndarray
    """bool [n]: training words; absorption is measured on the others."""
    vectors: Float[np.ndarray, "n d"]
    """Site activations at the word's token, float32."""
    prompt: str
    """The first of the prompts."""
    lost: int
    """Words drawn that are not one token in their prompt, and so are not here."""


@dataclass(frozen=True)
class Siblings(Need):
    """Need: the coders of the same call that differ from this one in the seed alone."""


@dataclass(frozen=True)
class SiblingsInput:
    """What a `Siblings` need becomes."""

    own: str
    """Hash of the coder being scored."""
    others: Mapping[str, SparseCoder[Any]]
    """Those of the same architecture and configuration with another seed, by hash."""
    reason: str
    """Why there are none, where there are none."""
