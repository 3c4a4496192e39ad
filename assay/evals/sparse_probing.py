"""sparse_probing: can one, two or five latents tell a concept? Logistic probes on labelled text (Gurnee et al. 2023; SAEBench).

Latents are averaged over an example's tokens after encoding. The k latents with the largest |mean of positives − mean of negatives|
on the training examples feed an L2 logistic regression; "all" is the probe on every latent. The same probes on the raw
activations stand beside, and the simplest of all: the line through both classes' means, cut half way ("mean_difference"). The regularisation is chosen on a validation part of the training examples, never on the test, features
are centred and divided by their standard deviation over the training examples, and every coder sees the same examples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from threadpoolctl import threadpool_limits

from assay import statistics
from assay.coders.base import SparseCoder
from assay.errors import BadInput
from assay.evals.base import Eval, EvalConfig, Metric, score
from assay.evals.needs import Labelled, LabelledInput, Need
from assay.probing.probes import margins_of, measures, rotated, standardised
from assay.randomness import numpy_generator
from assay.results import Score
from assay.splice import home

STRENGTHS = (0.001, 0.01, 0.1, 1.0)
"""C of the logistic regressions, from strong to weak regularisation."""
VALIDATION = 0.25
METRICS = ("accuracy", "auc", "f1")
PRESETS = {
    "paper": {
        "datasets": "hub:LabHC/bias_in_bios:::hard_text:profession[0/1/2/6/9],hub:LabHC/bias_in_bios:::hard_text:profession[11/13/14/18/19],"
        "hub:LabHC/bias_in_bios:::hard_text:profession[20/21/22/25/26],"
        "hub:canrager/amazon_reviews_mcauley_1and5:::text:category[1/2/3/5/6],"
        "hub:canrager/amazon_reviews_mcauley_1and5:::text:rating[1.0/5.0],"
        "hub:codeparrot/github-code:::code:language[C/Python/HTML/Java/PHP],hub:fancyzhx/ag_news:::text:label",
        "train": 10_000,
        "test": 2_500,
    }
}
"""SAEBench's sets but Europarl, whose languages stand in columns of pairs; 2,000 and 500 positives of each of five classes."""


@dataclass(frozen=True, kw_only=True)
class SparseProbingConfig(EvalConfig):
    datasets: str = "probe:92,probe:97,probe:102,probe:159"
    """Labelled corpora, separated by commas: film sentiment, news topic, emotion of tweets, Python or other code."""
    train: int = 400
    """Training examples of each dataset, over all classes."""
    test: int = 400
    """Test examples of each dataset, over all classes."""
    context: int = 128
    """Tokens read of each example."""
    k: str = "1,2,5"
    """How many latents the sparse probes use, separated by commas."""


@dataclass(frozen=True)
class Task:
    """One class against the rest: the same positives and negatives for every coder."""

    dataset: str
    name: str
    train: np.ndarray
    """Numbers of examples."""
    validation: np.ndarray
    """bool, over `train`."""
    test: np.ndarray
    truth: np.ndarray
    """bool, over all examples of the dataset."""
    weights: np.ndarray
    """Bootstrap: how often each test example is drawn, [resamples, test]; positives and negatives apart."""


Replicates = dict[tuple[str, str, str], tuple[float, np.ndarray, int]]
"""(on, k, metric) → (value, its value under each resample, test examples)."""


class SparseProbing(Eval[SparseProbingConfig]):
    """k-sparse and dense probes of labelled concepts."""

    Config = SparseProbingConfig
    version = 2
    metrics: ClassVar[Mapping[str, Metric]] = {
        "accuracy": Metric(doc="Accuracy on balanced test examples.", better="higher", floor=0.5, ceiling=1.0),
        "auc": Metric(doc="Area under the ROC curve on test examples.", better="higher", floor=0.5, ceiling=1.0),
        "f1": Metric(doc="F1 of the positive class on balanced test examples.", better="higher", ceiling=1.0),
    }

    def __init__(self, config: SparseProbingConfig | None = None):
        super().__init__(config)
        if min(self.config.train, self.config.test, self.config.context) < 2 or not self.ks:
            c = self.config
            raise BadInput(
                f"sparse_probing needs train, test and context of 2 or more; got {c.train}, {c.test} and {c.context}."
            )
        self._raw: dict[str, tuple[LabelledInput, list[tuple[Replicates, dict]]]] = {}  # probes without coder, the same for all

    @property
    def ks(self) -> list[int]:
        """The numbers of latents, as numbers."""
        try:
            found = [int(k) for k in self.config.k.split(",")]
        except ValueError:
            found = [0]
        if min(found) < 1:
            raise BadInput(f"k = {self.config.k!r} is not a list of whole numbers from 1 up, such as 1,2,5.")
        return found

    def needs(self) -> Mapping[str, Need]:
        c = self.config
        names = [name.strip() for name in c.datasets.split(",") if name.strip()]
        if not names:
            raise BadInput("sparse_probing needs at least one dataset.")
        return {name: Labelled(name, c.train, c.test, c.context) for name in names}

    def run(self, coder: SparseCoder[Any], inputs: Mapping[str, Any]) -> tuple[list[Score], dict[str, Any]]:
        if max(self.ks) > coder.d_sae:
            raise BadInput(f"A probe on {max(self.ks)} latents was asked for; the coder has {coder.d_sae}.")
        scores, details, by_dataset, units = [], {}, [], {}
        device = home(coder)
        for name, data in inputs.items():
            tasks = list(make_tasks(name, data, self.config.seed))
            latents = data.pool(lambda x: coder.encode(x.to(device)).z)
            here = [(a | b, {"latents": c, "activations": d}) for (a, c), (b, d) in zip(
                self._probes(latents, data, tasks, "latents"), self._activations(name, data, tasks), strict=True
            )]  # fmt: skip
            for task, (found, chosen) in zip(tasks, here, strict=True):
                scores += _scores(found, dataset=name, **{"class": task.name})
                for k, correct in chosen["latents"].pop("correct").items():
                    units.setdefault(f"accuracy[k={k},on=latents]", {}).setdefault(name, {})[task.name] = correct
            by_dataset.append(average([found for found, _ in here]))
            scores += _scores(by_dataset[-1], dataset=name)
            details[name] = {
                "train": int(data.train.sum()), "test": int((~data.train).sum()), "leak": data.leak, "conflicts": data.conflicts,
                "classes": {task.name: chosen for task, (_, chosen) in zip(tasks, here, strict=True)},
            }  # fmt: skip
        rng = numpy_generator("sparse_probing", "datasets", self.config.seed)
        return _scores(average(by_dataset, rng)) + scores, details | {"units": units}

    def _activations(self, name: str, data: LabelledInput, tasks: list[Task]) -> list[tuple[Replicates, dict]]:
        if name not in self._raw or self._raw[name][0] is not data:
            self._raw[name] = data, self._probes(data.pooled, data, tasks, "activations")
        return self._raw[name][1]

    def _probes(self, x: np.ndarray, data: LabelledInput, tasks: list[Task], on: str) -> list[tuple[Replicates, dict]]:
        with threadpool_limits(1):  # problems this small only lose by threads, and their number must not change the bits
            scaled = standardised(x, data.train)
            dense = rotated(scaled, data.train)
            return [probe(x, scaled, dense, task, self.ks, on) for task in tasks]


def make_tasks(dataset: str, data: LabelledInput, seed: int) -> Iterator[Task]:
    """A task for each class (one for two classes), with as many negatives as positives, drawn once and for all."""
    present = [int(c) for c in np.unique(data.labels)]
    for label in present[1:] if len(present) == 2 else present:
        truth = data.labels == label
        rng = numpy_generator("sparse_probing", seed, dataset, data.classes[label])
        sides = [
            _balanced(np.flatnonzero(truth & side), np.flatnonzero(~truth & side), rng) for side in (data.train, ~data.train)
        ]
        if min(len(side) for side in sides) < 4:
            raise BadInput(
                f"{dataset}: class {data.classes[label]} has too few examples. Ask for more of them, or leave the dataset out."
            )
        train, test = sides
        validation = np.zeros(len(train), dtype=bool)
        for some in (np.flatnonzero(truth[train]), np.flatnonzero(~truth[train])):
            validation[rng.permutation(some)[: max(1, round(len(some) * VALIDATION))]] = True
        weights = np.zeros((statistics.RESAMPLES, len(test)))
        for some in (np.flatnonzero(truth[test]), np.flatnonzero(~truth[test])):
            weights[:, some] = np.concatenate(list(statistics.counts(len(some), rng)))
        yield Task(dataset, data.classes[label], train, validation, test, truth, weights)


def _balanced(positive: np.ndarray, negative: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    n = min(len(positive), len(negative))
    return np.sort(np.concatenate([rng.permutation(positive)[:n], rng.permutation(negative)[:n]]))


def strongest(x: np.ndarray, task: Task, k: int) -> np.ndarray:
    """The k features whose mean differs most between positives and negatives of the training examples."""
    truth = task.truth[task.train]
    gap = np.abs(x[task.train][truth].mean(0) - x[task.train][~truth].mean(0))
    return np.argsort(-gap, kind="stable")[:k]


def probe(
    x: np.ndarray, scaled: np.ndarray, dense: np.ndarray, task: Task, ks: list[int], on: str
) -> tuple[Replicates, dict[str, Any]]:
    """Measures of all probes of one task; which features and C they chose, and which test examples they got right ("0110 …")."""
    found: Replicates = {}
    order = strongest(x, task, max(ks))
    chosen: dict[str, Any] = {"features": order.tolist(), "C": {}} | ({"correct": {}} if on == "latents" else {})
    truth = task.truth[task.test]
    probes: dict[str, tuple[np.ndarray, float | None]] = {str(k): fit(scaled[:, order[:k]], task) for k in ks}
    probes["all"] = fit(dense, task)
    if on == "activations":
        probes["mean_difference"] = along_means(x, task), None
    for k, (margin, C) in probes.items():
        chosen["C"][k] = C
        if on == "latents":
            chosen["correct"][k] = "".join("01"[int(hit)] for hit in (margin > 0) == truth)
        for metric, measured in measures(margin, truth, np.vstack([np.ones(len(truth)), task.weights])).items():
            found[on, k, metric] = float(measured[0]), measured[1:], len(truth)
    return found, chosen


def along_means(x: np.ndarray, task: Task) -> np.ndarray:
    """Margins of the test examples along the difference of the training examples' class means, from the middle of both."""
    truth = task.truth[task.train]
    positive, negative = x[task.train][truth].mean(0), x[task.train][~truth].mean(0)
    return (x[task.test] - (positive + negative) / 2) @ (positive - negative)


def fit(x: np.ndarray, task: Task) -> tuple[np.ndarray, float]:
    """(margins of the test examples, C): C by validation likelihood, then a fit on all training examples."""
    y, rows = task.truth[task.train], x[task.train]
    if not rows.any():
        return np.zeros(len(task.test)), STRENGTHS[0]
    fitted = ~task.validation
    margins = margins_of(rows[fitted], y[fitted], STRENGTHS, rows[task.validation])
    losses = np.logaddexp(0, np.where(y[task.validation], -margins, margins)).mean(1)
    C = STRENGTHS[int(np.argmin(losses))]
    return margins_of(rows, y, [C], x[task.test])[0], C


def average(parts: list[Replicates], rng: np.random.Generator | None = None) -> Replicates:
    """Mean over tasks or datasets; with `rng` these are resampled too (two levels), where there are several."""
    draws = None
    if rng is not None and len(parts) > 1:
        draws = np.concatenate(list(statistics.counts(len(parts), rng))) / len(parts)  # [resamples, parts]
    found: Replicates = {}
    for place in parts[0]:
        stacked = np.stack([part[place][1] for part in parts], axis=1)
        replicates = stacked.mean(1) if draws is None else (stacked * draws).sum(1)
        found[place] = float(np.mean([part[place][0] for part in parts])), replicates, sum(part[place][2] for part in parts)
    return found


def _scores(found: Replicates, **where: str) -> list[Score]:
    return [
        score(metric, statistics.percentile(value, replicates, n), **where, k=k, on=on)
        for (on, k, metric), (value, replicates, n) in found.items()
    ]
