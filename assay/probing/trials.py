"""The trials of a data set, run: what each method scores on activations, once for all coders, and on a coder's latents."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from assay import statistics
from assay.errors import BadInput
from assay.evals.needs import LabelledInput
from assay.probing import methods, reports
from assay.probing.features import Encode, Ragged, last_latents, pooled_latents
from assay.probing.methods import PLAIN, Fit, Method, auc, fit, logistic, out_of_fold, outer_folds, strongest
from assay.probing.probes import measures
from assay.probing.regimes import Levels, Trial, grouped, original
from assay.randomness import numpy_generator

LOOK = 0.25
"""Share of the shifted examples by which latents are pruned; the others are for the test."""
Cells = dict[tuple[str, str], np.ndarray]
"""(metric, method) → its value, then its value under each resample."""


@dataclass(frozen=True)
class Plan:
    """What the settings ask for, as numbers and names."""

    seed: int
    regimes: Sequence[str]
    published: bool
    levels: Levels
    methods: Sequence[str]
    ks: Sequence[int]
    penalty: Any
    strengths: int
    folds: int
    prune: int
    report: int

    @cached_property
    def baselines(self) -> dict[str, Method]:
        """Those on activations."""
        return {name: logistic(self.strengths) if name == "logreg" else PLAIN[name] for name in self.methods}

    def latents(self, k: int) -> Method:
        """The one on k latents."""
        return methods.latents(k, self.strengths, self.penalty)


@dataclass(frozen=True)
class Outcome:
    """What came of one method in one trial."""

    fit: Fit
    marks: Mapping[str, np.ndarray]
    """Metric → its value, then its value under each resample of the test examples."""
    judged: float | None
    """By what it may be chosen as the best: mean AUC on the outer folds, else the AUC that chose its hyper-parameters; NaN
    where there were too few examples for that. None: it is no candidate."""
    doubt: np.ndarray | None
    """Margin of each training example from a fit without it."""


class Sheet:
    """One data set: its trials, and their outcomes without a coder."""

    def __init__(self, plan: Plan, data: LabelledInput, shifted: LabelledInput | None):
        self.plan, self.data, self.shifted = plan, data, shifted
        for one in (data, shifted):
            if one is not None and len(one.classes) != 2:
                raise BadInput(
                    f"{one.name} has {len(one.classes)} classes; these probes tell two apart. sparse_probing takes more."
                )
        self.truth = data.labels == 1
        regimes = [r for r in plan.regimes if r != "shift" or shifted is not None]
        if plan.published:
            trials = original(regimes, self.truth, plan.levels, plan.seed)
        else:
            trials = grouped(regimes, self.truth, data.train, plan.levels, plan.seed, data.name)
        self.look = np.zeros(0, dtype=np.int64)
        if shifted is not None and "shift" in regimes:
            order = numpy_generator("probing", "shift", plan.seed, shifted.name).permutation(len(shifted.labels))
            n = 0 if plan.published or plan.prune < 2 else int(LOOK * len(order))
            self.look, rest = order[:n], np.sort(order[n:])
            trials = [t if t.regime != "shift" else Trial(t.regime, t.level, t.train, t.y, rest, t.seed) for t in trials]
        self.trials = trials

    def tested(self, trial: Trial) -> LabelledInput:
        """Where a trial's test examples are from."""
        return self.shifted if trial.regime == "shift" and self.shifted is not None else self.data

    def truth_of(self, trial: Trial) -> np.ndarray:
        """Labels of a trial's test examples, bool."""
        return self.tested(trial).labels[trial.test] == 1

    def weights(self, trial: Trial) -> np.ndarray:
        """Ones, then how often each resample draws each test example, positives and negatives apart: [1 + resamples, test]."""
        where = hashlib.sha256(trial.test.tobytes()).hexdigest()
        return drawn(self.truth_of(trial), self.plan.seed, self.data.name, trial.regime == "shift", where)

    @cached_property
    def baselines(self) -> list[dict[str, Outcome]]:
        """For each trial, the outcome of each method on activations."""
        found: list[dict[str, Outcome]] = []
        for trial in self.trials:
            x, other, weights = self.data.last, self.tested(trial).last, self.weights(trial)
            if trial.regime == "tokens":
                found.append(self._over_tokens(trial, weights))
                continue
            here = {
                n: self.outcome(trial, m, x[trial.train], other[trial.test], weights) for n, m in self.plan.baselines.items()
            }
            if len(self.look) and trial.regime == "shift":
                here["logreg-tuned"] = self._tuned(trial, x[trial.train], other, weights)
            found.append(here)
        return found

    def outcome(self, trial: Trial, method: Method, x: Any, test: Any, weights: np.ndarray) -> Outcome:
        """Fit and judge a method; `x` and `test` are the rows of the trial's examples."""
        found = fit(method, x, trial.y, test, trial.seed)
        folds = [] if trial.regime == "tokens" else outer_folds(trial.y, self.plan.folds, trial.seed)
        doubt = out_of_fold(method, x, trial.y, folds, trial.seed) if folds else None
        judged = found.validation if doubt is None else float(np.mean([auc(doubt[o], trial.y[o]) for _, o in folds]))
        marks = measures(found.margin, self.truth_of(trial), weights)
        return Outcome(found, marks, None if trial.regime == "tokens" else judged, doubt)

    def _over_tokens(self, trial: Trial, weights: np.ndarray) -> dict[str, Outcome]:
        plain, truth = logistic(self.plan.strengths), self.truth_of(trial)
        pooled = {"logreg": self.data.last, "logreg-mean": self.data.pooled}
        found = {n: self.outcome(trial, plain, x[trial.train], x[trial.test], weights) for n, x in pooled.items()}
        tokens = Ragged(self.data.vectors(), len(self.truth))
        one = methods.attention(tokens, trial.train, trial.y, trial.test, self.plan.seed, self.data.name)
        return found | {"attention": Outcome(one, measures(one.margin, truth, weights), None, None)}

    def _tuned(self, trial: Trial, x: np.ndarray, other: np.ndarray, weights: np.ndarray) -> Outcome:
        assert self.shifted is not None
        plain = logistic(self.plan.strengths)
        options = plain.options(len(x), x.shape[1], trial.seed)
        margins = plain.margins(x, trial.y, np.concatenate([other[self.look], other[trial.test]]), options, trial.seed)
        truth = self.shifted.labels[self.look] == 1
        areas = [auc(m[: len(self.look)], truth) for m in margins]
        best = int(np.argmax(areas))
        one = Fit(margins[best][len(self.look) :], areas[best], options[best])
        return Outcome(one, measures(one.margin, self.truth_of(trial), weights), None, None)

    # ---- with a coder ------------------------------------------------------------------------------------------------------

    def run(self, encode: Encode, d_sae: int) -> tuple[list[Cells], dict[str, Any]]:
        """(cells of each trial, details): all methods, and the probes on latents of this coder beside them."""
        z = last_latents(self.data, encode, d_sae)
        shifted = last_latents(self.shifted, encode, d_sae) if self.shifted is not None else z
        pools = pooled_latents(self.data, encode, d_sae) if any(t.regime == "tokens" for t in self.trials) else {}
        names = np.flatnonzero(z.getnnz(axis=0))  # a latent that is never on helps nobody
        z, shifted = z[:, names], shifted[:, names]
        cells: list[Cells] = []
        details: dict[str, Any] = {"chosen": {}}
        with threadpool_limits(1):  # problems this small only lose by threads, and their number must not change the bits
            for trial, plain in zip(self.trials, self.baselines):
                weights = self.weights(trial)
                if trial.regime == "tokens":
                    k = max(self.plan.ks)
                    here = {f"latents-{k}": z} | {f"latents-{k}-{how}": pooled for how, pooled in pools.items()}
                    method = self.plan.latents(k)
                    ours = {n: self.outcome(trial, method, x[trial.train], x[trial.test], weights) for n, x in here.items()}
                else:
                    x, test = z[trial.train], (shifted if trial.regime == "shift" else z)[trial.test]
                    ours = {f"latents-{k}": self.outcome(trial, self.plan.latents(k), x, test, weights) for k in self.plan.ks}
                    if trial.regime in ("standard", "shift"):
                        first = reports.alone(
                            x, trial.y, test, self.truth_of(trial), names, self.data.classes, self.plan.report
                        )
                        details[f"{trial.regime}_latents"] = first
                    if trial.regime == "standard":
                        details |= self._doubtful(trial, plain, ours)
                        truth = self.truth_of(trial)
                        details["correct"] = {
                            n: "".join("01"[int(h)] for h in (o.fit.margin > 0) == truth) for n, o in ours.items()
                        }
                    if len(self.look) and trial.regime == "shift":
                        ours |= self._pruned(trial, x, shifted, names, weights, details)
                cells.append(self._cells(trial, plain, ours))
                details["chosen"][f"{trial.regime} {trial.level}".strip()] = {
                    name: {"option": o.fit.option, "judged": _rounded(o.judged)} for name, o in (plain | ours).items()
                }
        return cells, details

    def _pruned(
        self, trial: Trial, x: Any, shifted: Any, names: np.ndarray, weights: np.ndarray, details: dict[str, Any]
    ) -> dict[str, Outcome]:
        assert self.shifted is not None
        k, plain = self.plan.prune, logistic(self.plan.strengths, self.plan.penalty)
        whole = self.outcome(trial, self.plan.latents(k), x, shifted[trial.test], weights)
        top = strongest(x, trial.y, k)
        here, look, test = (m[:, top].toarray() for m in (x, shifted[self.look], shifted[trial.test]))
        option, truth = whole.fit.option, self.shifted.labels[self.look] == 1
        keep = reports.pruned(plain, here, trial.y, look, truth, option, trial.seed)
        margin = plain.margins(here[:, keep], trial.y, test[:, keep], [option], trial.seed)[0]
        kept = names[top[keep]]
        details["pruned"] = {"kept": kept.tolist(), "removed": np.setdiff1d(names[top], kept).tolist()}
        marks = measures(margin, self.truth_of(trial), weights)
        pruned = Outcome(Fit(margin, float("nan"), option), marks, None, None)
        return {f"latents-{k}": replace(whole, judged=None), f"latents-{k}-pruned": pruned}

    def _doubtful(self, trial: Trial, plain: Mapping[str, Outcome], ours: Mapping[str, Outcome]) -> dict[str, Any]:
        best, logreg = ours[chosen(ours)], plain.get("logreg")
        if best.doubt is None or logreg is None or logreg.doubt is None:
            return {}
        documents = np.arange(len(self.truth)) if self.data.documents is None else np.asarray(self.data.documents)
        margins = (np.concatenate([o.doubt, o.fit.margin]) for o in (best, logreg) if o.doubt is not None)
        report = reports.doubtful(trial, self.truth, *margins, classes=self.data.classes, rows=documents, most=self.plan.report)
        return {"doubtful": report}

    def _cells(self, trial: Trial, plain: Mapping[str, Outcome], ours: Mapping[str, Outcome]) -> Cells:
        found: Cells = {}
        both = dict(plain) | dict(ours)
        for name, outcome in both.items():
            found["auc", name] = outcome.marks["auc"]
            if trial.regime == "standard":
                found |= {(metric, name): outcome.marks[metric] for metric in ("accuracy", "f1")}
        if any(o.judged is not None for o in plain.values()):
            best, first = chosen(plain), chosen(both)
            found["auc", "best"], found["auc", "best+latents"] = both[best].marks["auc"], both[first].marks["auc"]
            found["gain", ""] = found["auc", "best+latents"] - found["auc", "best"]
            found["chosen", ""] = np.full_like(found["gain", ""], first in ours)
        if trial.flipped.any():
            rng = "flips", self.plan.seed, self.data.name, trial.level
            weights = drawn(trial.flipped, *rng)
            for name, outcome in both.items():
                if outcome.doubt is not None:
                    found["flips", name] = reports.flips_found(trial, outcome.doubt, weights)
        return found


def chosen(outcomes: Mapping[str, Outcome]) -> str:
    """The candidate that is judged best; the first of equals, and where nothing can be judged."""
    judged = {name: -1.0 if np.isnan(o.judged) else o.judged for name, o in outcomes.items() if o.judged is not None}
    return max(judged, key=lambda name: judged[name])


def _rounded(value: float | None) -> float | None:
    return None if value is None or np.isnan(value) else round(value, 4)


def drawn(truth: np.ndarray, *name: object) -> np.ndarray:
    """Bootstrap weights, ones first: [1 + resamples, n], both classes as large as they are."""
    rng = numpy_generator("probing", "bootstrap", *name)
    weights = np.ones((1 + statistics.RESAMPLES, len(truth)))
    for some in (np.flatnonzero(truth), np.flatnonzero(~truth)):
        weights[1:, some] = np.concatenate(list(statistics.counts(len(some), rng)))
    return weights
