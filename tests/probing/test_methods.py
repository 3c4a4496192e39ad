"""The methods that probes on latents are measured against, one by one: what they choose, on which examples, and what comes of
it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse

from assay.coders.latents import Latents
from assay.errors import BadInput
from assay.evals.needs import LabelledInput
from assay.probing import methods
from assay.probing.features import Ragged, last_latents, nonzeros, pooled_latents
from assay.probing.methods import auc, fit, inner_folds, logistic, out_of_fold, outer_folds
from assay.probing.regimes import Levels, grouped, original
from assay.probing.reports import alone, pruned


def two_classes(n: int, d: int = 6, seed: int = 0, gap: float = 1.5):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2 == 1
    x = rng.normal(size=(n, d))
    x[:, 0] += gap * y
    return rng.permutation(np.arange(n)), x, y


def test_auc_matches_sklearn():
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    margin, y = np.round(rng.normal(size=60), 1), rng.random(60) < 0.4
    assert auc(margin, y) == pytest.approx(roc_auc_score(y, margin))
    assert auc(margin, np.ones(60, dtype=bool)) == 0.5


@pytest.mark.parametrize(("n", "count", "held"), [(3, 0, 0), (8, 16, 2), (12, 36, 2), (40, 6, 0), (200, 1, 40), (1000, 1, 100)])
def test_inner_folds_as_published(n, count, held):
    _, _, y = two_classes(n)
    folds = inner_folds(y, 0)
    assert len(folds) == count
    for some, others in folds:
        assert not set(some) & set(others)
        assert 0 < y[others].sum() < len(others)
        assert not held or len(others) == held
    if count == 1:
        assert folds[0][1].tolist() == list(range(n - held, n))


def test_folds_of_a_lopsided_set_have_both_classes():
    y = np.zeros(200, dtype=bool)
    y[:4] = True
    for some, others in inner_folds(y, 0):
        assert y[others].any()
        assert y[some].any()
    assert outer_folds(y, 3, 0) == []
    y[:8] = True
    assert len(outer_folds(y, 3, 0)) == 3
    assert outer_folds(y, 0, 0) == []


@pytest.mark.parametrize("name", ["logreg", "pca", "knn"])
@pytest.mark.parametrize("n", [3, 10, 60, 150])
def test_each_method_learns_and_is_repeatable(name, n):
    order, x, y = two_classes(n + 200, seed=1, gap=3.0)
    method = logistic(4) if name == "logreg" else methods.PLAIN[name]
    train, test = order[:n], order[n:]
    if len(set(y[train])) < 2:
        train = np.array([0, 1, 2])
    first, again = (fit(method, x[train], y[train], x[test], 7) for _ in range(2))
    assert (first.margin == again.margin).all()
    assert auc(first.margin, y[test]) > (0.85 if n >= 60 else 0.5)
    assert np.isnan(first.validation) == (n == 3)


@pytest.mark.slow
def test_networks_learn_what_no_line_tells():
    x, y = crossed(300)
    found, again = (fit(methods.PLAIN["mlp"], x[:150], y[:150], x[150:], 0) for _ in range(2))
    assert (found.margin == again.margin).all()
    assert auc(found.margin, y[150:]) > 0.8


def crossed(n: int):
    """Two features whose product has the sign of the class."""
    x = np.random.default_rng(0).normal(size=(n, 3))
    return x, x[:, 0] * x[:, 1] > 0


def test_trees_learn_what_no_line_tells():
    pytest.importorskip("xgboost")
    x, y = crossed(500)
    found = fit(methods.PLAIN["xgboost"], x[:300], y[:300], x[300:], 0)
    again = fit(methods.PLAIN["xgboost"], x[:300], y[:300], x[300:], 0)
    assert (found.margin == again.margin).all()
    assert auc(found.margin, y[300:]) > 0.85
    assert auc(fit(logistic(4), x[:300], y[:300], x[300:], 0).margin, y[300:]) < 0.65


def test_out_of_fold_never_sees_the_example():
    """Labels without meaning: margins of examples left out know nothing, those of the fit itself know all."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(90, 60)), rng.permutation(np.arange(90) % 2 == 1)
    folds = outer_folds(y, 3, 0)
    doubt = out_of_fold(logistic(4), x, y, folds, 0)
    assert np.mean([auc(doubt[others], y[others]) for _, others in folds]) < 0.65
    assert auc(fit(logistic(4), x, y, x, 0).margin, y) > 0.8


def test_choice_among_latents_is_made_in_each_fold():
    """Of many meaningless latents some fit the labels by chance. Chosen on all examples they look good; ours must not."""
    rng = np.random.default_rng(0)
    x = sparse.csr_matrix(np.where(rng.random((120, 3000)) < 0.1, rng.random((120, 3000)), 0))
    y = rng.permutation(np.arange(120) % 2 == 1)
    found = fit(methods.latents(5, 4, "l2"), x, y, x, 0)
    careless = fit(logistic(4), x[:, methods.strongest(x, y, 5)].toarray(), y, x[:, :5].toarray(), 0)
    assert careless.validation > 0.75
    assert found.validation < 0.65


def test_strongest_by_definition():
    rng = np.random.default_rng(0)
    dense = np.where(rng.random((50, 20)) < 0.3, rng.normal(2, 1, (50, 20)), 0) * np.logspace(-3, 3, 20)
    y = rng.random(50) < 0.5
    size = np.abs(dense).sum(0) / ((dense != 0).sum(0) + 1e-6)
    scaled = dense / (size + 1e-6)
    gap = np.abs(scaled[y].mean(0) - scaled[~y].mean(0))
    assert methods.strongest(sparse.csr_matrix(dense), y, 5).tolist() == np.argsort(-gap)[:5].tolist()


def test_penalties():
    """l1 leaves out what says nothing."""
    order, x, y = two_classes(300, d=10)
    x, y = x[order], y[order]
    unit = np.concatenate([np.zeros((1, 10)), np.eye(10)])
    for penalty, zeros in (("l1", True), ("l2", False)):
        margin = logistic(3, penalty).margins(x, y, unit, [0.02], 0)[0]
        weights = margin[1:] - margin[0]
        assert (abs(weights[1:]) < 1e-6).sum() >= 5 if zeros else (abs(weights[1:]) > 1e-6).all()
        assert weights[0] > 0.1


def test_wide_features_are_rotated_without_loss():
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 400)), rng.random(60) < 0.5
    got = logistic(3).margins(x[:40], y[:40], x[40:], [1.0], 0)[0]
    want = LogisticRegression(C=1.0, tol=1e-10, max_iter=5000).fit(x[:40], y[:40]).decision_function(x[40:])
    assert np.allclose(got, want, atol=1e-3)


def test_features_by_loop():
    rng = np.random.default_rng(0)
    n, d = 30, 7
    lengths = rng.integers(1, 9, n)
    example = np.repeat(np.arange(n), lengths)
    x = torch.from_numpy(rng.normal(size=(len(example), d)).astype(np.float32))
    x[lengths[0] - 1] = 0  # a token like any other, not padding

    def vectors():
        for start in range(0, len(x), 11):
            yield x[start : start + 11], example[start : start + 11]

    data = LabelledInput(
        name="loop", labels=np.arange(n) % 2, train=np.arange(n) < 15, classes=["0", "1"], leak=0, conflicts=0, vectors=vectors
    )
    each = [x[example == i] for i in range(n)]
    assert np.array_equal(data.last, np.stack([e[-1].numpy() for e in each]))
    for encode in (lambda v: Latents.from_dense(v.relu()), lambda v: csr(v.relu())):
        pooled = pooled_latents(data, encode, d)
        assert np.allclose(pooled["mean"].toarray(), np.stack([e.relu().mean(0).numpy() for e in each]), atol=1e-6)
        assert np.array_equal(pooled["max"].toarray(), np.stack([e.relu().max(0).values.numpy() for e in each]))
        assert np.array_equal(last_latents(data, encode, d).toarray(), np.maximum(data.last, 0))
        row, column, value = nonzeros(encode(x))
        assert np.array_equal(x.numpy()[row, column], value)
    ragged = Ragged(vectors(), n)
    rows, place, shape = ragged.of(np.array([4, 2]))
    assert torch.equal(rows, torch.cat([each[4], each[2]]))
    assert shape == (2, max(len(each[4]), len(each[2])))
    assert place.tolist() == [*range(len(each[4])), *range(shape[1], shape[1] + len(each[2]))]


def csr(z: torch.Tensor) -> Latents:
    row, column = z.nonzero(as_tuple=True)
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), torch.bincount(row, minlength=len(z)).cumsum(0)])
    return Latents.from_csr(z[row, column], column, offsets, tuple(z.shape))


def test_trials_share_their_test_and_grow():
    y = np.arange(400) % 2 == 1
    pool = np.arange(400) < 200
    found = grouped(
        ["standard", "scarcity", "imbalance", "noise"], y, pool, Levels([4, 16, 1000], [0.05, 0.9], [0.1, 0.3]), 0, "planted"
    )
    assert {t.regime: t.level for t in found} == {"standard": "", "scarcity": "16", "imbalance": "0.9", "noise": "0.3"}
    for t in found:
        assert set(t.test) == set(range(200, 400))
        assert pool[t.train].all()
        assert len(set(t.train)) == len(t.train)
    by = {(t.regime, t.level): t for t in found}
    few, more = by["scarcity", "4"], by["scarcity", "16"]
    assert set(few.train) < set(more.train)
    assert more.y.mean() == 0.5
    for ratio in (0.05, 0.9):
        t = by["imbalance", f"{ratio:g}"]
        assert len(t.train) == 105
        assert t.y.mean() == pytest.approx(ratio, abs=0.01)
    for rate in (0.1, 0.3):
        t = by["noise", f"{rate:g}"]
        assert t.flipped.sum() == 200 * rate
        assert (t.y == (y[t.train] ^ t.flipped)).all()
    again = grouped(["noise"], y, pool, Levels([4], [0.5], [0.1]), 1, "planted")
    assert again[0].train.tolist() != by["noise", "0.1"].train.tolist()


def test_pruning_and_single_latents():
    rng = np.random.default_rng(0)
    y, truth = np.arange(100) % 2 == 1, np.arange(60) % 2 == 1
    x = np.stack([y + 0.3 * rng.random(100), 2.0 * y + 0.1 * rng.random(100), rng.random(100)], 1)
    there = np.stack([truth + 0.3 * rng.random(60), 2.0 * ~truth, rng.random(60)], 1)
    keep = pruned(logistic(3), x, y, there, truth, 1.0, 0)
    assert 1 not in keep
    assert 0 in keep
    table = alone(sparse.csr_matrix(x), y, sparse.csr_matrix(there), truth, np.array([10, 11, 12]), ["no", "yes"], 3)
    by = {row["latent"]: row for row in table}
    assert by[11]["auc"] == 0.0
    assert by[10]["auc"] == by[10]["train_auc"] == 1.0
    assert by[11]["fires"] == [1.0, 1.0]
    assert by[11]["says"] == "yes"


def test_published_sizes_are_those_of_the_paper():
    """The preset `paper` says them as text: 20 sizes from 2 to 1024, 113 sets."""
    from assay.evals.probing import PRESETS, Probing, ProbingConfig

    paper = PRESETS["paper"]
    sizes = np.unique(np.round(np.logspace(1, 10, num=20, base=2)).astype(int)).tolist()
    one = Probing(ProbingConfig(**paper | {"methods": "logreg"}))
    assert one.plan.levels.sizes == sizes
    assert one.plan.levels.ratios == pytest.approx(np.linspace(0.05, 0.95, 19).tolist())
    assert one.plan.levels.rates == pytest.approx(np.linspace(0, 0.5, 11).tolist())
    assert len(one.datasets) == len(set(one.datasets)) == 113
    assert len(one.pairs) == 8
    assert set(one.pairs) <= set(one.datasets)


def test_original_split_refuses_what_it_cannot_draw():
    y = np.arange(300) < 40
    with pytest.raises(BadInput, match="Use split=grouped"):
        original(["standard"], y, Levels([2], [0.5], [0]), 42)
