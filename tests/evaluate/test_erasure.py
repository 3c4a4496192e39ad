"""evaluate: scr and tpp through a model, on a corpus with two labels and on one with four classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from assay.corpora.base import Document
from assay.corpora.joint import JointCorpus
from assay.evals.scr import SCR, SCRConfig
from assay.evals.tpp import TPP, TPPConfig
from assay.evaluate import evaluate
from tests.evaluate.tiny import SITE, scored


@dataclass(frozen=True)
class Letters:
    """Texts of two letters and noise; the label is the first letter's, the second's, or both."""

    of: str

    @property
    def name(self):
        return f"letters-{self.of}"

    fingerprint = "00000000000000bb"

    @property
    def classes(self):
        return {"first": ("a", "b"), "second": ("c", "d"), "both": ("ac", "ad", "bc", "bd")}[self.of]

    def documents(self):
        rng = np.random.default_rng(0)
        for i in range(240):
            kind = i % 4
            text = "ab"[kind // 2] * 4 + "cd"[kind % 2] * 4 + "".join(rng.choice(list("efghij"), size=5))
            yield Document(text, {"first": kind // 2, "second": kind % 2, "both": kind}[self.of])


QUICK = {"train": 120, "test": 120, "context": 14, "n": "2,10", "epochs": 10, "lr": 0.01}


def test_end_to_end(model, some, store):
    evals = [SCR(SCRConfig(datasets="two", **QUICK)), TPP(TPPConfig(datasets="four", **QUICK))]
    labelled = {"two": JointCorpus(Letters("first"), Letters("second")), "four": Letters("both")}
    records = evaluate(some, evals, model=model, site=SITE, store=store, labelled=labelled)
    by = {(r.eval, r.coder): r for r in records}
    for name in some:
        removal, perturbation = by["scr", name], by["tpp", name]
        assert removal.details["two"]["classes"] == ["a & c", "a & d", "b & c", "b & d"]
        assert removal.details["two"]["train"] == perturbation.details["four"]["train"] == [30] * 4
        assert perturbation.details["four"]["probes"]["ac"]["accuracy"] > 0.8
        assert perturbation.value("tpp[n=10]") == pytest.approx(
            perturbation.value("intended[n=10]") - perturbation.value("unintended[n=10]")
        )
        assert removal.inputs["two"] != perturbation.inputs["four"]
    assert by["scr", "identity"].value("scr[n=10]") is not None
    fresh = [SCR(SCRConfig(datasets="two", **QUICK)), TPP(TPPConfig(datasets="four", **QUICK))]
    alone = evaluate({"topk": some["topk"]}, fresh, model=model, site=SITE, store=store, labelled=labelled, again="always")
    assert scored(alone) == scored([by["scr", "topk"], by["tpp", "topk"]])
