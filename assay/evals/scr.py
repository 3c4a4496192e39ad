"""scr: does ablating a few latents rid a probe of a spurious correlation? (SHIFT, Marks et al. 2024; Karvonen et al. 2024)

Texts have two labels, such as an occupation and a gender. A probe is trained where the two always agree, and so learns both.
The n latents that matter most to a probe of one label are set to zero, the coder's error is kept, and the first probe is
asked for the *other* label on all four combinations:

    scr = (accuracy ablated − accuracy of the biased probe) / (accuracy of an unbiased probe − accuracy of the biased probe)

0: nothing gained; 1: as good as a probe that never saw the correlation. It may be negative, and above 1. `scr_dir1` asks for
the first label with latents of the second removed, `scr_dir2` the reverse, and `scr` is the one of the two where the biased
probe is worse to begin with. What matters to a probe w is judged on training examples: |gap between the means of z with and
without the label · W_dec w|.

Probes see activations averaged over a text's tokens. They are trained as SAEBench trains them (AdamW, batches of 16, L1),
since that decides how much of the correlation is learnt; activations are first divided by their root mean square (`rescale`),
weights start at zero and the epoch is chosen by cross-entropy on a quarter of the training examples, where SAEBench takes
activations as they are and the epoch that is best on the *test*. The direction of `scr` is chosen on that quarter too. Test
examples are the same for all coders, clean and ablated, each of the four combinations weighing the same.

A set counts where an unbiased probe is certainly better than the biased one: by .001 at the lower end of the interval over
test examples. Elsewhere there is nothing to win back, and no score. SAEBench scores 0 below .001, and divides by whatever is
above. `scr_mean_difference` needs no coder: `scr` when the one direction of the difference of means is taken out instead of
latents.

Data. By default sets of sae-probes that share texts (53 to 479 a combination): actors and the living by gender, right and
wrong by length, Americans and politicians by gender. They are small, and a small model finds little in them. The preset
`paper` is SAEBench's Bias in Bios and Amazon reviews, from the hub. A file of your own with two columns of labels is
joint:labelled:FILE:TEXT:LABEL[A/B]+labelled:FILE:TEXT:OTHER[C/D].

Cost: the model runs once over the texts, three probes are trained a set once for all coders, then one encoding a coder.

What it cannot tell: which of two coders is better at many latents. Chanin 2026 (arXiv 2605.18229) finds SCR noisy over
training seeds, and at large n opposed to the truth on synthetic data, so that it should not be used there. Prefer small n,
and read the interval, the baselines and `scr_mean_difference` beside it: few test examples make it wide. Accuracy may also
rise because something else is removed that the probe relied on.

Published, Gemma-2-2B layer 12, 65k latents, L0 ≈ 80, n = 20 (SAEBench, Karvonen et al. 2025, read off its figure): Matryoshka
.385, BatchTopK .290, TopK .285, JumpReLU .280, ReLU .160; PCA .038, and .325 at n = 500. SAEBench's own figures move by up to
.08 from one run to the next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from assay import statistics
from assay.coders.base import SparseCoder
from assay.corpora.joint import AND
from assay.errors import BadInput
from assay.evals.base import Eval, EvalConfig, Metric
from assay.evals.needs import Labelled, LabelledInput, Need
from assay.probing import erasure
from assay.probing.erasure import Erased, Figures, Probe, Recipe
from assay.randomness import numpy_generator
from assay.results import Score

LEAST = 0.001
"""Accuracy that there must be to gain, by the lower end of its interval."""
PRESETS = {
    "paper": {
        "datasets": "joint:hub:LabHC/bias_in_bios::train:hard_text:profession[21/13]"
        "+hub:LabHC/bias_in_bios::train:hard_text:gender[0/1],"
        "joint:hub:LabHC/bias_in_bios::train:hard_text:profession[1/11]"
        "+hub:LabHC/bias_in_bios::train:hard_text:gender[0/1],"
        "joint:hub:LabHC/bias_in_bios::train:hard_text:profession[25/22]"
        "+hub:LabHC/bias_in_bios::train:hard_text:gender[0/1],"
        "joint:hub:LabHC/bias_in_bios::train:hard_text:profession[2/26]"
        "+hub:LabHC/bias_in_bios::train:hard_text:gender[0/1],"
        "joint:hub:canrager/amazon_reviews_mcauley_1and5::train:text:category[24/26]"
        "+hub:canrager/amazon_reviews_mcauley_1and5::train:text:rating[1/5],"
        "joint:hub:canrager/amazon_reviews_mcauley_1and5::train:text:category[30/6]"
        "+hub:canrager/amazon_reviews_mcauley_1and5::train:text:rating[1/5],"
        "joint:hub:canrager/amazon_reviews_mcauley_1and5::train:text:category[18/11]"
        "+hub:canrager/amazon_reviews_mcauley_1and5::train:text:rating[1/5],"
        "joint:hub:canrager/amazon_reviews_mcauley_1and5::train:text:category[3/1]"
        "+hub:canrager/amazon_reviews_mcauley_1and5::train:text:rating[1/5]",
        "train": 8000, "test": 1000, "rescale": False,
    }
}  # fmt: skip
"""As SAEBench: 2,000 training and 250 test texts a combination where there are as many, in eight pairs of classes."""


@dataclass(frozen=True, kw_only=True)
class SCRConfig(EvalConfig):
    datasets: str = (
        "joint:probe:61+probe:56,joint:probe:57+probe:56,joint:probe:48+probe:49,joint:probe:6+probe:5,joint:probe:7+probe:5"
    )
    """Corpora of texts with two labels each (joint:A+B), separated by commas."""
    train: int = 400
    """Training examples of each set, over its four combinations of labels; of a combination that has fewer, all."""
    test: int = 400
    """Test examples of each set, likewise."""
    context: int = 128
    """Tokens read of each example."""
    n: str = "2,5,10,20,50,100,500"
    """How many latents are set to zero, separated by commas; fewer where fewer have any effect."""
    epochs: int = 20
    """Times that a probe sees its training examples, at most: the epoch that is best in validation is kept."""
    batch: int = 16
    """Examples a step of a probe's training. It decides how much of the correlation is learnt; SAEBench warns to leave it."""
    lr: float = 1e-3
    """Learning rate of the probes."""
    l1: float = 1e-3
    """Weight of the L1 penalty on their weights."""
    rescale: bool = True
    """Divide activations by their root mean square before training probes: `lr` and `l1` then mean the same at every site."""


class Way(NamedTuple):
    """One direction: the label that the biased probe is asked for, and what it may gain by the ablation."""

    truth: np.ndarray
    """bool [test examples]"""
    hits: np.ndarray
    """Which of them the biased probe gets right as it is, bool."""
    base: np.ndarray
    """Its accuracy, under each drawing of test examples."""
    gain: np.ndarray
    """By how much the probe without bias is better, likewise."""

    @property
    def costs(self) -> bool:
        """Whether the correlation has certainly cost accuracy that could be won back."""
        low = statistics.percentile(float(self.gain[0]), self.gain[1:], len(self.truth)).low
        return low is not None and low >= LEAST


@dataclass(frozen=True)
class Task:
    """All that a set of texts gives without a coder."""

    probes: list[Probe]
    """Of the first label, of the second, and the biased one."""
    ways: list[Way]
    """For the first label and for the second."""
    chosen: int
    """Which of the two is `scr`."""
    draws: np.ndarray
    """Weight of each test example in an accuracy, [1 + resamples, test examples]; the first row as they are."""
    reference: np.ndarray
    """`scr_mean_difference`, under each drawing."""


class SCR(Eval[SCRConfig]):
    """Spurious correlation removal."""

    Config = SCRConfig
    version = 1
    metrics: ClassVar[Mapping[str, Metric]] = {
        "scr": Metric(
            doc="Share of the accuracy lost to a spurious correlation that ablating n latents wins back, where more is lost.",
            better="higher", floor=0.0, ceiling=1.0,
        ),
        "scr_dir1": Metric(doc="The first label, latents of the second ablated.", better="higher", floor=0.0, ceiling=1.0),
        "scr_dir2": Metric(doc="The second label, latents of the first ablated.", better="higher", floor=0.0, ceiling=1.0),
        "scr_mean_difference": Metric(
            doc="scr when the difference of means is taken out of activations instead: no coder needed.", better="neither",
            floor=0.0, ceiling=1.0,
        ),
    }  # fmt: skip

    def __init__(self, config: SCRConfig | None = None):
        super().__init__(config)
        self.ns = erasure.whole_numbers(self.config.n, "scr")
        self.figures = [(metric, {"n": n}) for n in self.ns for metric in ("scr", "scr_dir1", "scr_dir2")]
        self.figures.append(("scr_mean_difference", {}))
        self._tasks: dict[str, tuple[LabelledInput, Task | str]] = {}  # the same for all coders

    def needs(self) -> Mapping[str, Need]:
        c = self.config
        return {name: Labelled(name, c.train, c.test, c.context) for name in erasure.listed(c.datasets, "scr")}

    def run(self, coder: SparseCoder[Any], inputs: Mapping[str, Any]) -> tuple[list[Score], dict[str, Any]]:
        scores, details, parts, units = [], {}, [], {}
        with threadpool_limits(1):  # small problems only lose by threads, and their number must not change the bits
            for name, data in inputs.items():
                task = self._task(name, data)
                details[name] = erasure.described(data)
                if isinstance(task, str):
                    found, reason = Figures.none(len(self.figures)), task
                else:
                    found, more, kept = self._scored(coder, data, task)
                    reason = f"no gain to win back: an unbiased probe is not certainly {LEAST} better than the biased one"
                    details[name] |= more
                    for n, values in kept.items():
                        units.setdefault(f"scr[n={n}]", {})[name] = values
                parts.append(found)
                scores += found.scores(self.figures, reason, dataset=name)
        whole = erasure.mean(parts, "scr", "datasets", self.config.seed)
        return whole.scores(self.figures, "no set of texts could be used") + scores, details | {"units": units}

    def _task(self, name: str, data: LabelledInput) -> Task | str:
        if name not in self._tasks or self._tasks[name][0] is not data:
            c = self.config
            recipe = Recipe(c.epochs, c.batch, c.lr, c.l1, c.rescale)
            self._tasks[name] = data, make_task(name, data, recipe, c.seed)
        return self._tasks[name][1]

    def _scored(
        self, coder: SparseCoder[Any], data: LabelledInput, task: Task
    ) -> tuple[Figures, dict[str, Any], dict[int, list[float]]]:
        """(figures, details, scr of each test example by n)."""
        means = erasure.class_means(coder, data, np.where(data.train, data.labels, -1), 4)
        gaps = (means[1] + means[3] - means[0] - means[2]) / 2, (means[2] + means[3] - means[0] - means[1]) / 2
        orders = {}
        for i, (gap, probe) in enumerate(zip(gaps, (task.probes[1], task.probes[0]), strict=True)):  # the other label's latents
            orders[i] = erasure.strongest(np.abs(gap * erasure.along(coder, probe)), max(self.ns))
        erased = Erased(coder, data, orders, [task.probes[2]])
        way, columns, units = task.ways[task.chosen], [], {}
        told = [{"biased": float(w.base[0]), "unbiased": float(w.base[0] + w.gain[0])} for w in task.ways]
        for n in self.ns:
            hits = [(erased.margins(i, n)[:, 0] > 0) == w.truth for i, w in enumerate(task.ways)]
            gained = [won_back(w, task.draws, hit) for w, hit in zip(task.ways, hits, strict=True)]
            columns += [gained[task.chosen], *gained]
            for i, hit in enumerate(hits):
                told[i][f"n={n}"] = float(task.draws[0] @ hit)
            if way.costs:
                change = (hits[task.chosen].astype(float) - way.hits) * task.draws[0] * len(way.hits) / way.gain[0]
                units[n] = [float(f"{v:.10g}") for v in change]
        more: dict[str, Any] = {"direction": task.chosen + 1, "epochs": [probe.epoch for probe in task.probes]}
        more |= {f"dir{i + 1}": accuracies | {"latents": orders[i].tolist()} for i, accuracies in enumerate(told)}
        return Figures.of(np.stack([*columns, task.reference], axis=1), len(way.truth)), more, units


def won_back(way: Way, draws: np.ndarray, hits: np.ndarray) -> np.ndarray:
    """The score under each drawing, from what the biased probe gets right after an ablation; NaN where nothing was lost."""
    found = (draws @ hits - way.base) / np.maximum(way.gain, LEAST)
    return found if way.costs else np.full_like(found, np.nan)


def make_task(name: str, data: LabelledInput, recipe: Recipe, seed: int) -> Task | str:
    """Probes and what they get right; or why there can be none."""
    pairs = [kind.split(AND) for kind in data.classes]
    if len(pairs) != 4 or [len(set(part)) for part in zip(*pairs)] != [2, 2]:
        raise BadInput(
            f"{name} has the classes {', '.join(data.classes)}; scr needs two labels of two classes each: joint:A[x/y]+B[u/v]."
        )
    if few := erasure.too_few(data, range(4)):
        return few
    x, label = data.pooled, data.labels
    first, second = label >= 2, label % 2 == 1
    held = erasure.held_out(np.where(data.train, label, -1), numpy_generator("scr", seed, name, "validation"))
    rng = numpy_generator("scr", seed, name, "examples")
    places = [rng.permutation(np.flatnonzero(data.train & (label == kind))) for kind in range(4)]
    alike = [some[: min(map(len, places))] for some in places]
    pools = {
        "first": (np.concatenate(alike), first),
        "second": (np.concatenate(alike), second),
        "biased": (np.concatenate([some[: min(len(places[0]), len(places[3]))] for some in (places[0], places[3])]), first),
    }
    probes = [
        erasure.fit(x[rows], truth[rows], held[rows], recipe, "scr", seed, name, which)
        for which, (rows, truth) in pools.items()
    ]
    test = ~data.train
    draws = erasure.stratified(label[test], "scr", seed, name, "test") / (4 * np.bincount(label[test])[label[test]])
    biased, ways, base = probes[2].margin(x[test]) > 0, [], []
    for truth, probe in ((first, probes[0]), (second, probes[1])):
        hits = biased == truth[test]
        accuracy = draws @ hits
        ways.append(Way(truth[test], hits, accuracy, draws @ ((probe.margin(x[test]) > 0) == truth[test]) - accuracy))
        right = (probes[2].margin(x[held]) > 0) == truth[held]
        base.append(np.mean([right[label[held] == kind].mean() for kind in range(4)]))
    chosen = int(base[1] < base[0])
    means = [x[data.train & (label == kind)].mean(0, dtype=np.float64) for kind in range(4)]
    gap = means[3] - means[0] + (means[1] - means[2] if chosen == 0 else means[2] - means[1])
    cleaned = erasure.without(x[test], gap, np.mean(means, axis=0))
    reference = won_back(ways[chosen], draws, (probes[2].margin(cleaned) > 0) == ways[chosen].truth)
    return Task(probes, ways, chosen, draws, reference)
