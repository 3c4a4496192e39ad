"""absorption: does the latent for "starts with A" have holes, where a latent of a single word has absorbed the letter?

After Chanin et al. 2024 (arXiv 2409.14507) as SAEBench runs it (Karvonen et al. 2025, arXiv 2503.09532). Words of the
tokenizer's vocabulary stand in prompts that ask for their first letter; what is measured is the activation at the word's own
token, at the site of the coder. The steps:

1. **Truth**: a logistic regression a letter on the activations tells the letter's direction p and the words that have it.
2. **Main latents**, those that stand for the letter: latents are ranked by a sparse probe; the first is one, and so is each
   next while it raises the F1 of a probe on them by over .03.
3. **Absorption**: among test words of the letter that the probe of step 1 finds, how much of the direction comes from others.

With P = x·p, each latent's share z·(W_dec p), and M the sum over main latents:

- `full_absorption`: all main latents are silent, and the latent of largest share has cosine .025 or more with p and gives .4 P
  or more.
- `absorption_fraction` (SAEBench 0.4.1 to 0.6): A is the sum of the three largest shares of other latents with cosine .1 or
  more. 0 where M ≥ P or A < .4 P, 1 where M ≤ 0, else a / (a + M) with a the smaller of A and P − M.
- `absorption_fraction_saebench_0_3` (0.3 to 0.4.0, and the figures published in January 2025): (T − M) / T, T the sum over all
  latents; 0 where M ≥ P or T ≤ 0.

All three are means over a letter's words, then over letters. Lower is better (SAEBench's plots show 1 − score).

**Look at `main_f1` and `main_share` first.** A coder without letter latents has nothing to absorb: dead, barely trained and
random coders score near 0 in the first two, as good as the best. `main_f1` is how well the main latents alone tell the letter,
on test words; beside it stands `probe_f1`, that of the activations. `main_share` is the part of P that they give: a permuted
decoder reads as its original does and writes nothing of the letter. Absorption means something where both are well above those
of the baselines (`--baselines all`); where they are low the fraction says nothing, be it 0 (random directions) or not (neurons,
each of which has a little of every letter). The older fraction has no thresholds and adds up small shares of unrelated latents:
random directions have about .95.

What differs from SAEBench: the seed is applied. A word that the vocabulary has in several forms (cat, Cat, with a space) is
used in one, since otherwise it stands on both sides of the split. All choices (penalty, number of main latents, which letters
count) are made by cross-validation on training words, and absorption is measured on test words alone, on the very activations
that the probe was tested on. The word's token is found by the tokenizer's offsets, at any site. Latents are scaled by their
root mean square before probes see them, and shares use W_dec p where SAEBench has unit rows, so that no result depends on how a
coder divides lengths between latents and decoder. The sparse probe of step 2 is the optimum of a non-negative L1-penalised
logistic regression on the 64 latents whose mean rises most on the letter's words; there it is 50 epochs of Adam on all latents
with weights of both signs, far from converged. So the formulas of step 3 are the same, and main latents need not be: figures of
the two are not interchangeable.

Letters with too few words, or which the probe of step 1 does not find, are left out, and the details say why; if too few remain
the means are None. Intervals: letters are resampled, and words within them. Cost: one pass of the model up to the site over a
dozen or two tokens a word, and the letters' probes, once; then some seconds a coder.

What it cannot tell: whether other features are absorbed (this is one family), or anything of a model that cannot spell. P
contains the mean of the activations, which no latent has to explain. SAEBench advises models of 2 billion parameters and 16
thousand latents: coders of few latents hardly absorb. SmolLM2-135M at resid_post.10 has 24 letters and a `probe_f1` of .77 by
2000 words; there `main_f1` was .42 for a briefly trained TopK coder of 2 thousand latents, .55 for a ReLU one, .13 for random
directions.

Published, `absorption_fraction` by the older formula: Pythia-160M, 4 thousand latents, mean over six L0: P-anneal .11, ReLU
.17, Gated .19, JumpReLU .22, TopK .26, BatchTopK .28, Matryoshka .29; full .03 to .06. One ReLU coder had .155 as published and
.016 by the newer. Gemma-2-2B, 65 thousand latents, L0 about 80: Matryoshka .04, BatchTopK .26, TopK .35, ReLU .49; PCA .006.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from threadpoolctl import threadpool_limits

from assay import statistics
from assay.coders.base import SparseCoder
from assay.errors import BadInput
from assay.evals.base import Eval, EvalConfig, Metric, score
from assay.evals.needs import Need, Spelling, SpellingInput
from assay.probing.letters import FORMULAS, LETTERS, Letter, Truth, letters
from assay.randomness import numpy_generator
from assay.results import Score

PRESETS: dict[str, dict[str, Any]] = {"paper": {"words": None, "examples": 10, "test": 0.2}}
"""Settings as in SAEBench: the whole vocabulary."""


@dataclass(frozen=True, kw_only=True)
class AbsorptionConfig(EvalConfig):
    words: int | None = 2000
    """Words in all, as many of each letter (fewer of a letter that is rare); None takes the whole vocabulary."""
    examples: int = 2
    """Other words in the prompt, each with its first letter."""
    template: str = "{word} has the first letter:"
    """What the prompt says of each word; after an example its letter follows."""
    test: float = 0.3
    """Share of each letter's words on which absorption is measured and nothing is chosen."""
    folds: int = 4
    """Parts of the training words, by which all that is chosen is cross-validated."""
    max_latents: int = 10
    """Main latents a letter, at most."""
    jump: float = 0.03
    """By how much one more main latent must raise the F1."""
    min_words: int = 20
    """Training words that a letter needs."""
    min_probe_f1: float = 0.6
    """F1, cross-validated, that a letter's probe on the activations must exceed."""
    min_letters: int = 20
    """Letters that the means need."""


class Absorption(Eval[AbsorptionConfig]):
    """Feature absorption on first letters."""

    Config = AbsorptionConfig
    version = 1
    metrics: ClassVar[Mapping[str, Metric]] = {
        "full_absorption": Metric(
            doc="Share of words where all main latents are silent and one other stands in.", better="lower", ceiling=0.0
        ),
        "absorption_fraction": Metric(
            doc="Share of the letter's direction that up to three other latents stand in for (SAEBench 0.6).",
            better="lower", ceiling=0.0,
        ),
        "absorption_fraction_saebench_0_3": Metric(
            doc="Share of it that all other latents give, without thresholds (published in January 2025).",
            better="lower", ceiling=0.0,
        ),
        "main_f1": Metric(
            doc="F1 of a probe on the main latents, on test words. Where it is low there is nothing to absorb.",
            better="higher", ceiling=1.0,
        ),
        "main_share": Metric(
            doc="Share of the letter's direction that the main latents give. Where it is low, the others need not absorb it.",
            better="higher", floor=0.0, ceiling=1.0,
        ),
        "main_latents": Metric(doc="Main latents a letter; above 1 it is split.", better="neither", unit="latents"),
        "probe_f1": Metric(
            doc="F1 of the probe on the activations, on test words; over all letters with enough words, the same for all coders.",
            better="neither", ceiling=1.0,
        ),
        "letters": Metric(doc="Letters that the means are over.", better="neither", unit="letters"),
    }  # fmt: skip

    def __init__(self, config: AbsorptionConfig | None = None):
        super().__init__(config)
        c = self.config
        if not (2 <= c.folds <= c.min_words and c.max_latents >= 1 and 1 <= c.min_letters <= len(LETTERS)):
            raise BadInput(
                "absorption needs 2 ≤ folds ≤ min_words, max_latents ≥ 1 and min_letters from 1 to 26; got "
                f"folds={c.folds}, min_words={c.min_words}, max_latents={c.max_latents}, min_letters={c.min_letters}."
            )
        self._truth: Truth | None = None  # known without a coder, the same for all

    def needs(self) -> Mapping[str, Need]:
        c = self.config
        return {"words": Spelling(c.words, c.examples, c.template, c.test, c.seed)}

    def run(self, coder: SparseCoder[Any], inputs: Mapping[str, Any]) -> tuple[list[Score], dict[str, Any]]:
        data: SpellingInput = inputs["words"]
        c = self.config
        with threadpool_limits(1):  # their number must not change the bits
            if self._truth is None or self._truth.data is not data:
                self._truth = Truth.of(data, folds=c.folds, min_words=c.min_words, min_f1=c.min_probe_f1, seed=c.seed)
            found = letters(coder, self._truth, c.max_latents, c.jump) if coder.linear else []
        reason = "" if coder.linear else f"{type(coder).__name__} has no decoder directions"
        return scores(found, self._truth, self.config, reason), details(found, self._truth)


Replicates = tuple[float, np.ndarray, int]
"""A value, the same under each resample of words, and the words it rests on."""


def scores(found: list[Letter], truth: Truth, c: AbsorptionConfig, reason: str) -> list[Score]:
    """Means over letters, then each letter's own."""
    by_letter: dict[str, dict[int, Replicates]] = {name: {} for name in (*FORMULAS, "main_f1", "main_latents")}
    for one in found:
        rng = numpy_generator("absorption", c.seed, "words", LETTERS[one.letter])
        n = len(one.top)
        drawn = np.concatenate(list(statistics.counts(n, rng))) / n
        for name in FORMULAS:
            by_letter[name][one.letter] = float(one.values[name].mean()), drawn @ one.values[name], n
        by_letter["main_f1"][one.letter] = *truth.test_f1(one.letter, one.guess), len(one.guess)
        by_letter["main_latents"][one.letter] = len(one.main), np.full(statistics.RESAMPLES, float(len(one.main))), n
    if not reason and len(found) < c.min_letters:
        reason = f"{len(found)} of 26 letters can be used and {c.min_letters} are needed; the details say what the others lack"
    test = truth.margins[~truth.data.train]
    probes = {i: (*truth.test_f1(i, test[:, i] > 0), len(test)) for i in truth.f1}
    few = "" if probes else "no letter has enough words"
    result = [over_letters(name, each, reason, c.seed) for name, each in by_letter.items()]
    result += [over_letters("probe_f1", probes, few, c.seed), Score(metric="letters", value=len(truth.used), n=len(LETTERS))]
    for name, each in (by_letter | {"probe_f1": probes}).items():
        for i, (value, replicates, n) in each.items():
            interval = statistics.percentile(value, replicates if name != "main_latents" else np.full(1, np.nan), n)
            result.append(score(name, interval, letter=LETTERS[i]))
    return result


def over_letters(name: str, each: Mapping[int, Replicates], reason: str, seed: int) -> Score:
    """Mean over letters; letters are resampled, and words within them."""
    if reason:
        return Score(metric=name, value=None, n=len(each), reason=reason)
    n = len(each)
    stacked = np.stack([replicates for _, replicates, _ in each.values()], axis=1)
    drawn = np.concatenate(list(statistics.counts(n, numpy_generator("absorption", seed, "letters")))) / n
    replicates = (stacked * drawn).sum(1) if n > 1 else np.full(1, np.nan)
    return score(name, statistics.percentile(float(np.mean([value for value, _, _ in each.values()])), replicates, n))


def details(found: list[Letter], truth: Truth) -> dict[str, Any]:
    """How the words were used, and of each letter its main latents and absorbed words; units for paired comparisons."""
    data = truth.data
    table: dict[str, Any] = {}
    for one in found:
        numbers = truth.found(one.letter)
        table[LETTERS[one.letter]] = {
            "main_latents": one.main, "f1_by_latents": [round(f1, 4) for f1 in one.curve],
            "probe_f1_cross_validated": round(truth.f1[one.letter], 4),
            "words_found": len(numbers),
            "absorbed": {data.words[i]: int(latent) for i, latent, full in zip(
                numbers, one.top, one.values["full_absorption"], strict=True
            ) if full},
        }  # fmt: skip
    units: dict[str, Any] = {name: {} for name in FORMULAS}
    for one in found:
        for name in FORMULAS:
            units[name][LETTERS[one.letter]] = [round(float(value), 7) for value in one.values[name]]
    return {
        "prompt": data.prompt, "train": int(data.train.sum()), "test": int((~data.train).sum()), "not_one_token": data.lost,
        "strength": truth.strength, "letters": table, "left_out": {LETTERS[i]: why for i, why in sorted(truth.left_out.items())},
        "units": units if found else {},
    }  # fmt: skip
