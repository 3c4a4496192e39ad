"""Words of the vocabulary, each in a prompt that asks for its first letter: activations at the word's token.

Words are ASCII letters, with at most one space before them. Of a word that is there in several forms (cat, Cat, with a space)
one is drawn, so that no word is on both sides of the split. The model reads up to the word's token: what follows cannot change it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from assay.activations import Activations, GatherConfig, gather
from assay.coders.base import SparseCoder
from assay.corpora.rows import rules_of, tokenizer_hash
from assay.errors import BadInput
from assay.evals.needs import Spelling, SpellingInput
from assay.inputs.base import Bench, Supply
from assay.inputs.cost import FLOAT, Cost, depth
from assay.randomness import numpy_generator

MARK = re.compile("([Ġ▁ ]?)([A-Za-z]+)")
"""A vocabulary entry that may be a word: byte-level tokenizers write a space as Ġ, SentencePiece as ▁."""
LETTERS = 26


@dataclass(frozen=True)
class Word:
    """A vocabulary entry that is a word."""

    text: str
    """As it stands in the prompt, with its space."""
    id: int

    @property
    def letter(self) -> int:
        """0 for A."""
        return ord(self.text.strip()[0].lower()) - ord("a")


class SpellingSupply(Supply[Spelling]):
    """One run of the model over all prompts; it is in the store, for whoever comes later."""

    @cached_property
    def asked(self) -> Asked:
        """The prompts."""
        return ask(self.bench.model.tokenizer, self.need)

    def fingerprint(self, coder: str) -> str:
        return tokenizer_hash(self.bench.model.tokenizer)[:16]

    def cost(self) -> Cost:
        bench, tokens = self.bench, sum(map(len, self.asked.rows))
        disk = len(self.asked.rows) * bench.model.d(bench.site) * FLOAT[bench.dtype]
        return Cost(once=tokens * depth(bench.model, bench.site), disk=disk)

    def gather(self, coders: Mapping[str, SparseCoder[Any]]) -> None:
        asked = self.asked
        self.ready = SpellingInput(
            words=[word.text for word in asked.words], letters=np.array([word.letter for word in asked.words]), train=asked.train,
            vectors=read(self.bench, asked.rows), prompt=asked.prompt, lost=asked.lost,
        )  # fmt: skip

    def given(self, coder: str) -> SpellingInput:
        return self.ready


@dataclass(frozen=True)
class Asked:
    """Words, and their prompts as ids."""

    words: list[Word]
    train: np.ndarray
    rows: list[list[int]]
    """Without BOS, up to the word's token."""
    prompt: str
    lost: int


def ask(tokenizer: Any, need: Spelling) -> Asked:
    """Draw words and write the prompt of each; those that are not one token there are left out."""
    check(need)
    words, train = draw(vocabulary(tokenizer), need)
    texts = prompts(words, train, need)
    rows = placed(tokenizer, texts, words, need.template)
    kept = [i for i, row in enumerate(rows) if row]
    if not kept:
        raise BadInput(f"No word of the vocabulary is one token in the prompt {texts[0]!r}. Use another template.")
    return Asked([words[i] for i in kept], train[kept], [rows[i] for i in kept], texts[kept[0]], len(rows) - len(kept))


def check(need: Spelling) -> None:
    """Refuse what cannot be asked."""
    if need.template.count("{word}") != 1 or re.search(r"[{}]", need.template.replace("{word}", "")):
        raise BadInput(f"template={need.template!r} must hold {{word}} once, and no other braces.")
    if need.words is not None and need.words < LETTERS:
        raise BadInput(f"words={need.words} is less than one a letter. Ask for some hundred or more, or None for all.")
    if not 0 < need.test < 1 or need.examples < 0:
        raise BadInput(f"test must lie between 0 and 1 and examples be 0 or more; got {need.test} and {need.examples}.")


def vocabulary(tokenizer: Any) -> list[Word]:
    """All words of a tokenizer's vocabulary, by id."""
    special = set(tokenizer.all_special_ids) | set(tokenizer.get_added_vocab().values())
    found = [
        Word(" " * bool(match[1]) + match[2], number)
        for token, number in sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])
        if number not in special and (match := MARK.fullmatch(token))
    ]
    if not found:
        raise BadInput(
            "The tokenizer's vocabulary holds no words of ASCII letters. Absorption needs a model that reads English."
        )
    return found


def draw(words: Sequence[Word], need: Spelling) -> tuple[list[Word], np.ndarray]:
    """(words, which are for training: bool [n]): of each letter as many, one form of each word, in random order."""
    forms: dict[str, list[Word]] = {}
    for word in words:
        forms.setdefault(word.text.strip().lower(), []).append(word)
    drawn: list[Word] = []
    train: list[bool] = []
    for letter in range(LETTERS):
        rng = numpy_generator("spelling", need.seed, letter)
        mine = [key for key in forms if forms[key][0].letter == letter]
        keys = [mine[i] for i in rng.permutation(len(mine))][: None if need.words is None else need.words // LETTERS]
        drawn += [forms[key][rng.integers(len(forms[key]))] for key in keys]
        test = round(len(keys) * need.test)
        train += [i >= test for i in range(len(keys))]
    return drawn, np.array(train)


def prompts(words: Sequence[Word], train: np.ndarray, need: Spelling) -> list[str]:
    """The prompt of each word. Its examples are other training words, drawn for it."""
    pool = np.flatnonzero(train)
    if len(pool) <= need.examples:
        raise BadInput(f"{len(pool)} training words are too few for {need.examples} examples beside each. Ask for more words.")
    found = []
    for i, word in enumerate(words):
        rng = numpy_generator("spelling", need.seed, "examples", word.text)
        some = [words[j] for j in rng.choice(pool[pool != i], need.examples, replace=False)]
        lines = [need.template.format(word=w.text) + " " + w.text.strip()[0].upper() for w in some]
        found.append("".join("\n" + line for line in [*lines, need.template.format(word=word.text)]))
    return found


def placed(tokenizer: Any, texts: Sequence[str], words: Sequence[Word], template: str) -> list[list[int]]:
    """Ids of each prompt up to its word's token; empty where the word is not there as that one token."""
    if not getattr(tokenizer, "is_fast", False):
        raise BadInput(
            f"{type(tokenizer).__name__} does not tell where in a text its tokens stand. Use the model's fast tokenizer."
        )
    encoded = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    after = len(template.partition("{word}")[2])
    found = []
    for ids, offsets, text, word in zip(encoded.input_ids, encoded.offset_mapping, texts, words, strict=True):
        end = len(text) - after
        start = end - len(word.text.strip())
        there = [i for i, (a, b) in enumerate(offsets) if a < end and b > start]
        found.append(ids[: there[0] + 1] if len(there) == 1 and ids[there[0]] == word.id else [])
    return found


def read(bench: Bench, rows: Sequence[Sequence[int]]) -> np.ndarray:
    """The site's activation at the last token of each row, fp32 [rows, d]."""
    from assay.corpora.pack import PackConfig, Tokens

    rules = rules_of(bench.model.tokenizer, PackConfig(layout="documents"))
    first = [] if rules.bos is None else [rules.bos]
    width = max(map(len, rows)) + len(first)
    tokens = np.full((len(rows), width), rules.pad, dtype=np.int32)
    mask = np.zeros(tokens.shape, dtype=np.bool_)
    for i, row in enumerate(rows):
        ids = [*first, *row]
        tokens[i, : len(ids)], mask[i, len(ids) - 1] = ids, True
    made = Tokens.from_arrays(tokens, mask)
    path = gather(bench.model, made, [bench.site], GatherConfig(dtype=bench.dtype), bench.store, bench.progress)
    return torch.cat([x.float() for x, _, _ in Activations(path, bench.site)]).numpy()
