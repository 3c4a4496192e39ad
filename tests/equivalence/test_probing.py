"""Splits, choices and AUCs of sae-probes 0.4.2 on a fixed matrix, frozen by freeze_probing.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scipy import sparse

from assay.probing.methods import auc, fit, logistic, strongest
from assay.probing.regimes import Levels, original
from tests.equivalence.freeze_probing import RATES, RATIOS, SEED, SIZES, matrix

FROZEN = json.loads((Path(__file__).parent / "frozen_probing.json").read_text(encoding="utf-8"))
X, Z, Y = matrix()
TRIALS = original(["standard", "scarcity", "imbalance", "noise"], Y == 1, Levels(SIZES, RATIOS, RATES), SEED)


@pytest.mark.parametrize("trial", TRIALS, ids=lambda t: f"{t.regime} {t.level}")
def test_rows_and_labels(trial):
    want = FROZEN[f"{trial.regime} {trial.level}"]
    assert trial.train.tolist() == want["train"]
    assert trial.test.tolist() == want["test"]
    assert trial.y.astype(int).tolist() == want["y"]


def test_rows_of_the_shift(monkeypatch):
    monkeypatch.setattr("assay.probing.regimes.PUBLISHED_SHIFT", 300)
    assert original(["shift"], Y == 1, Levels([2], [0.5], [0]), SEED)[0].train.tolist() == FROZEN["shift "]["train"]


@pytest.mark.parametrize("trial", TRIALS, ids=lambda t: f"{t.regime} {t.level}")
def test_choices_and_scores(trial):
    want = FROZEN[f"{trial.regime} {trial.level}"]
    z = sparse.csr_matrix(Z)[:, want["latents"]].toarray()
    assert strongest(sparse.csr_matrix(Z)[trial.train], trial.y, 5).tolist() == want["latents"]
    for name, x, method in (
        ("logreg", X, logistic(10)), ("latents-5 l2", z, logistic(10)), ("latents-5 l1", z, logistic(10, "l1")),
    ):  # fmt: skip
        got, said = fit(method, x[trial.train], trial.y, x[trial.test], SEED), want["fits"][name]
        assert got.option == pytest.approx(said["C"])
        assert got.validation == pytest.approx(said["val"], abs=5e-3)  # their lbfgs stops earlier than our Newton steps
        assert auc(got.margin, Y[trial.test] == 1) == pytest.approx(said["auc"], abs=5e-3)
