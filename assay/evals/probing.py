"""probing: do latents help a probe where data are scarce, lopsided, mislabelled or from elsewhere? (Kantamneni et al. 2025).

"Are Sparse Autoencoders Useful? A Case Study in Sparse Probing" (arXiv 2502.16681) and its library sae-probes 0.4.2. Six
regimes, each on data sets of two classes:

- standard: all training examples;
- scarcity: few of them; imbalance: few of one class; noise: some labels flipped;
- shift: tested on examples from elsewhere (other names, other languages);
- tokens: all tokens of an example, not the last alone, with an attention probe as the baseline.

Baselines read the activation of the last token: logistic regression ("logreg"), on principal components ("pca"), nearest
neighbours ("knn"), boosted trees ("xgboost"), a small network ("mlp"). "latents-16" is a logistic regression on the 16
latents of that token whose class means differ most, each in units of its mean where it fires. Every method chooses its
hyper-parameters by AUC on held-out training examples. "best" is the baseline that is best on outer folds of the training
examples (nested cross-validation), "best+latents" the same with the probes on latents among the candidates, and their
difference, `gain`, is what latents add for somebody who does not know the test. Beside "best" stands "logreg" alone, which in
the paper is as good: choosing costs more than it brings.

In the regime shift a quarter of the examples from elsewhere takes the place of the person who looks at latents and discards
the spurious: "latents-8-pruned" is left with those latents that do well on them, "logreg-tuned" has its C chosen by them;
neither is tested on them. `flips` says how well doubt about a training label (a probe on other examples disagrees) finds the
flipped ones. The details list the examples whose label is doubted most, and the first latents of each probe with the AUC of
each by itself.

Published (AUC, Gemma-2-9B, layer 20, 113 sets): standard .940 for the best baseline, .937 with probes on latents, .941 for
logistic regression alone; scarcity .819, .815, .836; imbalance .921, .918, .929. So a gain above 0 would be news, and probes
on latents below logistic regression are no sign of a bad coder. What the figures cannot tell: whether a latent *is* the
concept (see sparse_probing and absorption), and anything of a coder's decoder.

What differs from sae-probes, also under `split original`, where rows, choices of C and AUCs of logistic regression are its
own: scales, principal components and the choice of latents are learnt in each fold anew, not before; a class with few
examples gets fewer folds; networks try three settings, not one; of a text longer than the context the beginning is read, not
the end; the attention probe reads standardised vectors. Over half of the rows of its shifted set 90 (qnli) are copies or
contradict each other.

Cost: with the default settings some 40 thousand tokens through the model, and about 430 choices of hyper-parameters on
activations, made once for all coders. Each coder costs the encoding of those tokens and as many choices on its latents.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, ClassVar, Literal

import numpy as np

from assay import statistics
from assay.coders.base import SparseCoder
from assay.errors import BadInput, UnknownName
from assay.evals.base import Eval, EvalConfig, Metric, score
from assay.evals.needs import Labelled, LabelledInput, Need
from assay.probing.methods import NAMES
from assay.probing.regimes import REGIMES, Levels, Trial
from assay.probing.trials import Cells, Plan, Sheet
from assay.randomness import numpy_generator
from assay.results import Score
from assay.splice import home

PRESETS = {
    "paper": {
        "seed": 42, "regimes": "standard,scarcity,imbalance,noise,shift", "split": "original", "train": 1024,
        "test": 3976, "context": 1024,
        "methods": "logreg,pca,knn,xgboost,mlp", "k": "1,2,5,16,128", "penalty": "l1", "strengths": 10, "folds": 0,
        "sizes": "2,3,4,5,7,10,14,20,28,38,53,74,103,143,198,275,382,531,737,1024",
        "ratios": "0.05,0.1,0.15,0.2,0.25,0.3,0.35,0.4,0.45,0.5,0.55,0.6,0.65,0.7,0.75,0.8,0.85,0.9,0.95",
        "rates": "0,0.05,0.1,0.15,0.2,0.25,0.3,0.35,0.4,0.45,0.5",
        "datasets":
            "probe:5,probe:6,probe:7,probe:21,probe:22,probe:23,probe:24,probe:26,probe:36,probe:41,probe:42,probe:44,"
            "probe:47,probe:48,probe:49,probe:50,probe:51,probe:52,probe:54,probe:56,probe:57,probe:58,probe:59,probe:60,"
            "probe:61,probe:62,probe:63,probe:64,probe:65,probe:66,probe:67,probe:68,probe:69,probe:70,probe:71,probe:72,"
            "probe:73,probe:74,probe:75,probe:76,probe:77,probe:78,probe:79,probe:80,probe:81,probe:82,probe:83,probe:84,"
            "probe:85,probe:87,probe:89,probe:90,probe:91,probe:92,probe:94,probe:95,probe:96,probe:100,probe:105,probe:106,"
            "probe:107,probe:110,probe:113,probe:114,probe:115,probe:116,probe:117,probe:118,probe:119,probe:120,probe:121,"
            "probe:122,probe:123,probe:124,probe:125,probe:126,probe:127,probe:128,probe:129,probe:130,probe:131,probe:132,"
            "probe:133,probe:134,probe:135,probe:136,probe:137,probe:138,probe:139,probe:140,probe:141,probe:142,probe:143,"
            "probe:144,probe:145,probe:146,probe:147,probe:148,probe:149,probe:150,probe:151,probe:152,probe:153,probe:154,"
            "probe:155,probe:156,probe:157,probe:158,probe:159,probe:160,probe:161,probe:162,probe:163",
        "shift":
            "probe:5=probe:5_OOD,probe:6=probe:6_OOD,probe:7=probe:7_OOD,probe:66=probe:66_OOD,probe:67=probe:67_OOD,"
            "probe:73=probe:73_OOD,probe:87=probe:87_OOD,probe:90=probe:90_OOD",
    },
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ProbingConfig(EvalConfig):
    regimes: str = "standard,scarcity,imbalance,noise,shift,tokens"
    """Which regimes, separated by commas."""
    datasets: str = "probe:5,probe:66,probe:92,probe:105"
    """Labelled corpora of two classes: sex of historical figures, "living room" or not, film sentiment, clickbait or news."""
    shift: str = "probe:5=probe:5_OOD,probe:66=probe:66_OOD"
    """Where the regime shift learns, and where it is tested: pairs A=B, separated by commas."""
    train: int = 200
    """Training examples of each data set, over both classes."""
    test: int = 200
    """Test examples of each data set, over both classes."""
    context: int = 128
    """Tokens read of each example."""
    split: Literal["grouped", "original"] = "grouped"
    """grouped: of equal texts one, so that nothing is on both sides. original: the rows that sae-probes draws, copies
    included."""
    methods: str = "logreg,pca,knn"
    """Baselines, separated by commas: logreg, pca, knn, xgboost (needs the extra package), mlp."""
    k: str = "1,16,128"
    """How many latents the probes use, separated by commas; all that ever fire where these are fewer."""
    penalty: Literal["l1", "l2"] = "l2"
    """Of the logistic regressions on latents."""
    strengths: int = 6
    """Values of C that logistic regressions choose from, between 10⁵ and 10⁻⁵."""
    sizes: str = "4,16,64"
    """Training examples in the regime scarcity, separated by commas."""
    ratios: str = "0.05,0.25,0.9"
    """Shares of the second class in the regime imbalance."""
    rates: str = "0.1,0.3"
    """Shares of flipped labels in the regime noise."""
    folds: int = 3
    """Outer folds by which "best" is chosen; 0: by the AUC that chose the hyper-parameters, as the paper did; then there is
    no report of doubtful labels."""
    prune: int = 8
    """Latents of the probe that is pruned in the regime shift; 0 for none."""
    report: int = 10
    """Doubtful labels and first latents that the details list for each data set."""


class Probing(Eval[ProbingConfig]):
    """Probes on latents against probes on activations, in the regimes of "Are SAEs useful?"."""

    Config = ProbingConfig
    version = 1
    metrics: ClassVar[Mapping[str, Metric]] = {
        "auc": Metric(doc="Area under the ROC curve on test examples.", better="higher", floor=0.5, ceiling=1.0),
        "accuracy": Metric(doc="Accuracy on balanced test examples (in standard).", better="higher", floor=0.5, ceiling=1.0),
        "f1": Metric(doc="F1 of the second class on balanced test examples (in standard).", better="higher", ceiling=1.0),
        "gain": Metric(doc='Test AUC of "best+latents" less that of "best".', better="higher", floor=0.0),
        "chosen": Metric(doc='Share of trials in which "best+latents" is a probe on latents.', better="neither"),
        "flips": Metric(
            doc="AUC with which a probe's doubt finds flipped training labels (in noise).", better="higher", floor=0.5,
            ceiling=1.0,
        ),
    }  # fmt: skip

    def __init__(self, config: ProbingConfig | None = None):
        super().__init__(config)
        c = self.config
        self.regimes, self.datasets = listed(c.regimes), listed(c.datasets)
        for kind, known, names in (("regime", REGIMES, self.regimes), ("method", NAMES, listed(c.methods))):
            for name in names:
                if name not in known:
                    raise UnknownName.among(kind, name, known)
            if not names:
                raise BadInput(f"probing needs at least one {kind}: {', '.join(known)}.")
        if "xgboost" in listed(c.methods) and find_spec("xgboost") is None:
            raise BadInput("The method xgboost needs a package: pip install 'assay-sae[probing]'. Or leave it out of methods.")
        self.pairs: dict[str, str] = {}
        """Data set → where it is tested under shift."""
        for pair in listed(c.shift) if "shift" in self.regimes else ():
            here, _, there = pair.partition("=")
            if not here or not there:
                raise BadInput(f"shift = {c.shift!r} is not a list of pairs such as probe:66=probe:66_OOD.")
            self.pairs[here] = there
        levels = Levels(
            numbers(c.sizes, "sizes", int, 2, float("inf")), numbers(c.ratios, "ratios", float, 0.001, 0.999),
            numbers(c.rates, "rates", float, 0, 0.5),
        )  # fmt: skip
        self.plan = Plan(
            seed=c.seed, regimes=self.regimes, published=c.split == "original", levels=levels, methods=listed(c.methods),
            ks=numbers(c.k, "k", int, 1, float("inf")), penalty=c.penalty, strengths=max(1, c.strengths), folds=c.folds,
            prune=c.prune, report=c.report,
        )  # fmt: skip
        self._sheets: dict[str, Sheet] = {}

    def needs(self) -> Mapping[str, Need]:
        c, names = self.config, list(dict.fromkeys([*self.datasets, *self.pairs]))
        if not names:
            raise BadInput("probing needs at least one data set.")
        found: dict[str, Need] = {
            name: Labelled(
                name, c.train, c.test, c.context, c.split, last=not ("tokens" in self.regimes and name in self.datasets)
            )
            for name in names
        }
        return found | {
            f"shift:{name}": Labelled(name, 0, c.test, c.context, c.split, last=True) for name in self.pairs.values()
        }

    def run(self, coder: SparseCoder[Any], inputs: Mapping[str, Any]) -> tuple[list[Score], dict[str, Any]]:
        device = home(coder)
        results: dict[str, list[tuple[Trial, Cells]]] = {}
        details: dict[str, Any] = {}
        units: dict[str, dict[str, str]] = {}
        for name in (n for n in inputs if not n.startswith("shift:")):
            sheet = self._sheet(name, inputs)
            cells, found = sheet.run(lambda x: coder.encode(x.to(device)).latents, coder.d_sae)
            results[name] = list(zip(sheet.trials, cells, strict=True))
            for method, correct in found.pop("correct", {}).items():
                units.setdefault(f"accuracy[regime=standard,method={method}]", {})[name] = correct
            details[name] = found | {"leak": sheet.data.leak, "conflicts": sheet.data.conflicts}
        return list(tabulated(results, self.regimes, self.config.seed)), details | {"units": units}

    def _sheet(self, name: str, inputs: Mapping[str, LabelledInput]) -> Sheet:
        """What does not depend on a coder: made for the first, kept for the others."""
        data, shifted = inputs[name], inputs.get(f"shift:{self.pairs[name]}") if name in self.pairs else None
        kept = self._sheets.get(name)
        if kept is None or kept.data is not data or kept.shifted is not shifted:
            regimes = self.regimes if name in self.datasets else ["shift"]
            self._sheets[name] = kept = Sheet(replace(self.plan, regimes=regimes), data, shifted)
        return kept


def listed(text: str) -> list[str]:
    """Parts of a comma-separated setting."""
    return [part.strip() for part in text.split(",") if part.strip()]


def numbers(text: str, name: str, kind: type, low: float, high: float) -> list[Any]:
    """A comma-separated setting as numbers, each in its bounds."""
    try:
        found = [kind(part) for part in listed(text)]
    except ValueError:
        found = []
    if not found or not all(low <= x <= high for x in found):
        raise BadInput(f"{name} = {text!r} is not a list of numbers from {low:g} to {high:g}, separated by commas.")
    return found


ORDER = ("gain", "chosen", "auc", "flips", "accuracy", "f1")


def tabulated(results: Mapping[str, Sequence[tuple[Trial, Cells]]], regimes: Sequence[str], seed: int) -> Iterator[Score]:
    """Scores of each regime, metric and method: over data sets, at each level, and of each data set over its levels."""
    table: dict[tuple[str, str, str], dict[str, dict[str, np.ndarray]]] = {}
    sizes: dict[tuple[str, str], int] = {}
    for name, trials in results.items():
        for trial, cells in trials:
            sizes[trial.regime, name] = len(trial.test)
            for (metric, method), marks in cells.items():
                table.setdefault((metric, trial.regime, method), {}).setdefault(name, {})[trial.level] = marks
    order = sorted(table, key=lambda p: (ORDER.index(p[0]), regimes.index(p[1])))  # stable: methods as they come
    for metric, regime, method in order:
        by = table[metric, regime, method]
        where = {"regime": regime} | ({"method": method} if method else {})
        yield mean_of(metric, {n: np.mean(list(levels.values()), axis=0) for n, levels in by.items()}, sizes, seed, where)
        for level in dict.fromkeys(level for levels in by.values() for level in levels if level):
            some = {n: levels[level] for n, levels in by.items() if level in levels}
            yield mean_of(metric, some, sizes, seed, where | {"level": level})
        for name, levels in by.items():
            marks = np.mean(list(levels.values()), axis=0)
            yield score(metric, statistics.percentile(float(marks[0]), marks[1:], sizes[regime, name]), dataset=name, **where)


def mean_of(
    metric: str, by: Mapping[str, np.ndarray], sizes: Mapping[tuple[str, str], int], seed: int, where: Mapping[str, str]
) -> Score:
    """The mean over data sets; where there are several, its interval knows that there might have been others."""
    stacked = np.stack(list(by.values()), axis=1)
    drawn = stacked[1:].mean(1)
    if len(by) > 1:
        rng = numpy_generator("probing", "datasets", seed)
        drawn = (stacked[1:] * np.concatenate(list(statistics.counts(len(by), rng)))).sum(1) / len(by)
    n = sum(sizes[where["regime"], name] for name in by)
    return score(metric, statistics.percentile(float(stacked[0].mean()), drawn, n), **where)
