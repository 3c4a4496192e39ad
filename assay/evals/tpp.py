"""tpp: do a few latents carry one class and no other? Targeted probe perturbation (Karvonen et al. 2024, arXiv 2411.18895).

One linear probe a class, each against the rest. The n latents that matter most to the probe of class i are set to zero, the
coder's error is kept, and all probes are asked again. With Δ(i, j) the accuracy that the probe of class j loses:

    intended = mean over i of Δ(i, i)      unintended = mean over i and j ≠ i of Δ(i, j)      tpp = intended − unintended

Latents that a class has to itself give a high `tpp`, at most .5: a probe without its concept guesses. What matters to a probe
w is judged on training examples: (mean of z in the class − mean over the other classes) · (W_dec w), where both are positive.

Probes see activations averaged over a text's tokens, trained as SAEBench trains them (AdamW, batches of 16, L1), on as many
examples of the class as of all others; activations are first divided by their root mean square (`rescale`), weights start at
zero, and the epoch is chosen by cross-entropy on a quarter of the training examples, where SAEBench takes activations as they
are and the epoch that is best on the *test*. Accuracy is over all test examples, class and rest weighing the same: the same
ones clean and ablated and for every coder, where SAEBench draws negatives anew at each call. So a coder whose ablation
changes nothing scores exactly 0. `tpp_mean_difference` needs no coder: `tpp` when, for each class, the one direction of the
difference of means is taken out.

Data. By default news topics and emotions of tweets, of sae-probes. The preset `paper` is SAEBench's Bias in Bios and Amazon
reviews, from the hub. A file of your own: labelled:FILE:TEXT:LABEL, or some of its classes: labelled:FILE:TEXT:LABEL[A/B/C].

Cost: the model runs once over the texts (shared with sparse_probing at equal settings), one probe a class once for all
coders, then one encoding a coder.

What it cannot tell: whether the latents *mean* the class. It grows with n and with L0, since more is ablated: compare at
equal L0, beside the baselines. Chanin 2026 (arXiv 2605.18229) finds that it fails the check of training trajectories: it gets
worse as coders get better in training. SAEBench's authors note that it is not lower on models with random weights.

Published, Gemma-2-2B layer 12, 65k latents, L0 ≈ 80, n = 20 (SAEBench, Karvonen et al. 2025, read off its figure): Matryoshka
.107, TopK .038, BatchTopK .035, JumpReLU .035, ReLU .009; PCA .016, and at n = 500 .223. At L0 640 .35 to .365 for the best.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from threadpoolctl import threadpool_limits

from assay.coders.base import SparseCoder
from assay.errors import BadInput
from assay.evals.base import Eval, EvalConfig, Metric
from assay.evals.needs import Labelled, LabelledInput, Need
from assay.probing import erasure
from assay.probing.erasure import Erased, Figures, Probe, Recipe
from assay.randomness import numpy_generator
from assay.results import Score

PRESETS = {
    "paper": {
        "datasets": "hub:LabHC/bias_in_bios::train:hard_text:profession[0/1/2/6/9],"
        "hub:canrager/amazon_reviews_mcauley_1and5::train:text:category[1/2/3/5/6]",
        "train": 10000, "test": 2500, "rescale": False,
    }
}  # fmt: skip
"""As SAEBench: 2,000 training and 500 test texts a class."""


@dataclass(frozen=True, kw_only=True)
class TPPConfig(EvalConfig):
    datasets: str = "probe:97,probe:102"
    """Labelled corpora of three classes or more, separated by commas: news topic, emotion of tweets."""
    train: int = 400
    """Training examples of each corpus, over all classes."""
    test: int = 400
    """Test examples of each corpus, over all classes."""
    context: int = 128
    """Tokens read of each example."""
    n: str = "2,5,10,20,50,100,500"
    """How many latents are set to zero, separated by commas; fewer where fewer have any effect."""
    epochs: int = 20
    """Times that a probe sees its training examples, at most: the epoch that is best in validation is kept."""
    batch: int = 16
    """Examples a step of a probe's training."""
    lr: float = 1e-3
    """Learning rate of the probes."""
    l1: float = 1e-3
    """Weight of the L1 penalty on their weights."""
    rescale: bool = True
    """Divide activations by their root mean square before training probes: `lr` and `l1` then mean the same at every site."""


@dataclass(frozen=True)
class Task:
    """All that a corpus gives without a coder."""

    kinds: list[int]
    """The classes."""
    probes: list[Probe]
    """One a class."""
    truth: np.ndarray
    """bool [test examples, classes]"""
    weight: np.ndarray
    """Of each test example in the accuracy of each probe, [test examples, classes]: as much for the class as for all others."""
    draws: np.ndarray
    """How often each test example is drawn, [1 + resamples, test examples]; the first row once each."""
    clean: np.ndarray
    """Margins without ablation, [test examples, classes]."""
    reference: list[np.ndarray]
    """`tpp_mean_difference` of each class, under each drawing."""


class TPP(Eval[TPPConfig]):
    """Targeted probe perturbation."""

    Config = TPPConfig
    version = 1
    metrics: ClassVar[Mapping[str, Metric]] = {
        "tpp": Metric(doc="intended − unintended, ablating n latents.", better="higher", floor=0.0, ceiling=0.5),
        "intended": Metric(
            doc="Accuracy that a class's probe loses when n latents of that class are ablated.", better="higher", floor=0.0,
            ceiling=0.5,
        ),
        "unintended": Metric(doc="Accuracy that the other classes' probes lose, on average.", better="lower", ceiling=0.0),
        "tpp_mean_difference": Metric(
            doc="tpp when the difference of means is taken out of activations instead: no coder needed.", better="neither",
            floor=0.0, ceiling=0.5,
        ),
    }  # fmt: skip

    def __init__(self, config: TPPConfig | None = None):
        super().__init__(config)
        self.ns = erasure.whole_numbers(self.config.n, "tpp")
        self.figures = [(metric, {"n": n}) for n in self.ns for metric in ("tpp", "intended", "unintended")]
        self.figures.append(("tpp_mean_difference", {}))
        self._tasks: dict[str, tuple[LabelledInput, Task | str]] = {}  # the same for all coders

    def needs(self) -> Mapping[str, Need]:
        c = self.config
        return {name: Labelled(name, c.train, c.test, c.context) for name in erasure.listed(c.datasets, "tpp")}

    def run(self, coder: SparseCoder[Any], inputs: Mapping[str, Any]) -> tuple[list[Score], dict[str, Any]]:
        scores, details, parts = [], {}, []
        with threadpool_limits(1):  # small problems only lose by threads, and their number must not change the bits
            for name, data in inputs.items():
                task, reason = self._task(name, data), ""
                details[name] = erasure.described(data)
                if isinstance(task, str):
                    parts.append(Figures.none(len(self.figures)))
                    reason = task
                else:
                    classes, details[name]["probes"] = self._scored(coder, data, task)
                    for kind, found in classes.items():
                        scores += found.scores(self.figures, reason, dataset=name, **{"class": kind})
                    parts.append(erasure.mean(list(classes.values())))
                scores += parts[-1].scores(self.figures, reason, dataset=name)
        whole = erasure.mean(parts, "tpp", "datasets", self.config.seed)
        return whole.scores(self.figures, "no corpus could be used") + scores, details

    def _task(self, name: str, data: LabelledInput) -> Task | str:
        if name not in self._tasks or self._tasks[name][0] is not data:
            c = self.config
            recipe = Recipe(c.epochs, c.batch, c.lr, c.l1, c.rescale)
            self._tasks[name] = data, make_task(name, data, recipe, c.seed)
        return self._tasks[name][1]

    def _scored(self, coder: SparseCoder[Any], data: LabelledInput, task: Task) -> tuple[dict[str, Figures], dict[str, Any]]:
        """(figures of each class, details)."""
        group = np.where(data.train, np.searchsorted(task.kinds, data.labels), -1)
        means = erasure.class_means(coder, data, group, len(task.kinds))
        orders = {}
        for i, probe in enumerate(task.probes):
            gap = np.maximum(against_rest(means, i), 0.0)
            orders[i] = erasure.strongest(gap * erasure.along(coder, probe), max(self.ns))
        erased = Erased(coder, data, orders, task.probes)
        found, more = {}, {}
        for i, kind in enumerate(task.kinds):
            figures = [figure for n in self.ns for figure in lost(task, i, erased.margins(i, n))] + [task.reference[i]]
            name = data.classes[kind]
            found[name] = Figures.of(np.stack(figures, axis=1), len(task.truth))
            accuracy = float(task.weight[:, i] @ ((task.clean[:, i] > 0) == task.truth[:, i]))
            more[name] = {"accuracy": accuracy, "epoch": task.probes[i].epoch, "latents": orders[i].tolist()}
        return found, more


def against_rest(means: np.ndarray, i: int) -> np.ndarray:
    """Row i of means of classes, less the mean of the other rows."""
    return means[i] - np.delete(means, i, axis=0).mean(0)


def lost(task: Task, i: int, margins: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(tpp, intended, unintended) of ablating class i, under each drawing, from all probes' margins after it."""
    hits = ((margin > 0) == task.truth for margin in (task.clean, margins))
    change = task.draws @ (task.weight * np.subtract(*(hit.astype(np.float64) for hit in hits)))
    intended, unintended = change[:, i], np.delete(change, i, axis=1).mean(1)
    return intended - unintended, intended, unintended


def make_task(name: str, data: LabelledInput, recipe: Recipe, seed: int) -> Task | str:
    """Probes and what they say without ablation; or why there can be none."""
    kinds = [int(kind) for kind in np.unique(data.labels)]
    if len(kinds) < 3:
        raise BadInput(
            f"{name} has {len(kinds)} classes. tpp needs three or more: with two, the second probe is the first one's mirror."
        )
    if few := erasure.too_few(data, kinds):
        return few
    x, label, test = data.pooled, data.labels, ~data.train
    held = erasure.held_out(np.where(data.train, label, -1), numpy_generator("tpp", seed, name, "validation"))
    places, probes = [np.flatnonzero(data.train & (label == kind)) for kind in kinds], []
    for i, kind in enumerate(kinds):
        rng = numpy_generator("tpp", seed, name, data.classes[kind], "negatives")
        rows = np.concatenate([places[i], erasure.drawn_evenly(places[:i] + places[i + 1 :], len(places[i]), rng)])
        probes.append(erasure.fit(x[rows], label[rows] == kind, held[rows], recipe, "tpp", seed, name, data.classes[kind]))
    size = np.array([(label[test] == kind).sum() for kind in kinds])
    truth = label[test][:, None] == np.array(kinds)
    share = 1 / size[np.searchsorted(kinds, label[test])]
    task = Task(
        kinds=kinds, probes=probes, truth=truth, weight=np.where(truth, 0.5, 0.5 / (len(kinds) - 1)) * share[:, None],
        draws=erasure.stratified(label[test], "tpp", seed, name, "test"),
        clean=np.stack([probe.margin(x[test]) for probe in probes], axis=1), reference=[],
    )  # fmt: skip
    means = np.stack([x[some].mean(0, dtype=np.float64) for some in places])
    for i in range(len(kinds)):
        cleaned = erasure.without(x[test], against_rest(means, i), means.mean(0))
        task.reference.append(lost(task, i, np.stack([probe.margin(cleaned) for probe in probes], axis=1))[0])
    return task
