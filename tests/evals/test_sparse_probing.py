"""sparse_probing on planted concepts: a latent that is the concept scores 1, a scrambled one is at chance."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from assay import coders
from assay.errors import BadInput
from assay.evals.needs import LabelledInput
from assay.evals.sparse_probing import (
    SparseProbing,
    SparseProbingConfig,
    make_tasks,
    measures,
    rotated,
    standardised,
    strongest,
)
from assay.probing.probes import margins_of
from assay.randomness import numpy_generator

D, N, LENGTH = 8, 240, 5


def make_data(classes: int = 2, seed: int = 0, name: str = "planted") -> LabelledInput:
    """Examples of a few tokens; class c has direction c switched on in some of its tokens."""
    rng = np.random.default_rng(seed)
    labels = np.arange(N) % classes
    x = rng.normal(size=(N, LENGTH, D)) * 0.3
    x[np.arange(N), rng.integers(0, LENGTH, N), labels] += 6.0
    lengths = rng.integers(LENGTH - 2, LENGTH + 1, N)
    keep = np.arange(LENGTH) < lengths[:, None]
    hot = x.max(2).argmax(1)
    keep[np.arange(N), hot] = True
    flat, example = torch.from_numpy(x[keep].astype(np.float32)), np.repeat(np.arange(N), keep.sum(1))

    def vectors():
        for start in range(0, len(flat), 97):
            yield flat[start : start + 97], example[start : start + 97]

    return LabelledInput(
        name=name, labels=labels, train=np.arange(N) % 4 < 2,
        classes=[f"c{i}" for i in range(classes)], leak=0.1, conflicts=2, vectors=vectors,
    )  # fmt: skip


def dictionary(scrambled: bool = False):
    """A coder whose latents are the basis directions and their opposites; scrambled: directions that ignore the concept."""
    coder = coders.new("identity", d_in=D, d_sae=2 * D)
    if scrambled:
        W = torch.zeros(2 * D, D)
        W[:, D - 2 :] = torch.randn(2 * D, 2, generator=torch.Generator().manual_seed(0))  # only dimensions without concept
        coder.W_dec.copy_(W)
    return coder.eval()


def run(coder, data, **config):
    names = [d.name for d in data]
    one = SparseProbing(SparseProbingConfig(datasets=",".join(names), **config))
    with torch.no_grad():
        scores, details = one.run(coder, dict(zip(names, data, strict=True)))
    return {s.spec: s for s in scores}, details


def test_planted_concept_is_found_by_one_latent():
    scores, details = run(dictionary(), [make_data()])
    for k in ("1", "2", "5", "all"):
        assert scores[f"accuracy[k={k},on=latents]"].value > 0.98
    assert details["planted"]["classes"]["c1"]["latents"]["features"][0] in (0, 1)
    assert scores["auc[k=1,on=latents]"].value > 0.99
    assert details["planted"]["leak"] == 0.1


def test_scrambled_coder_is_at_chance():
    scores, _ = run(dictionary(scrambled=True), [make_data()])
    for k in ("1", "all"):
        at = scores[f"accuracy[k={k},on=latents]"]
        assert at.low <= 0.5 <= at.high
    assert scores["accuracy[k=all,on=activations]"].value > 0.95
    assert scores["accuracy[k=mean_difference,on=activations]"].value > 0.9


def test_many_classes_are_one_against_rest():
    data = make_data(classes=3)
    scores, details = run(dictionary(), [data])
    assert set(details["planted"]["classes"]) == {"c0", "c1", "c2"}
    assert scores["accuracy[dataset=planted,class=c2,k=1,on=latents]"].value > 0.95
    each = [scores[f"accuracy[dataset=planted,class=c{i},k=1,on=latents]"].value for i in range(3)]
    assert scores["accuracy[dataset=planted,k=1,on=latents]"].value == pytest.approx(np.mean(each))
    for task in make_tasks("planted", data, 0):
        for side in (task.train, task.test):
            assert task.truth[side].mean() == 0.5
        assert not set(task.train) & set(task.test)
        assert (data.train[task.train]).all()
        assert not data.train[task.test].any()
        assert 0.2 < task.validation.mean() < 0.3


def test_negatives_are_the_same_for_every_coder():
    first, again = ([t.train.tolist() for t in make_tasks("planted", make_data(3), 0)] for _ in range(2))
    other = [t.train.tolist() for t in make_tasks("planted", make_data(3), 1)]
    assert first == again != other


def test_datasets_are_averaged_and_resampled():
    easy, hard = make_data(name="easy"), make_data(name="hard", seed=5)
    hard = LabelledInput(**{**vars(hard), "labels": np.random.default_rng(0).permutation(hard.labels)})
    scores, _ = run(dictionary(), [easy, hard])
    parts = [scores[f"accuracy[dataset={n},k=1,on=latents]"].value for n in ("easy", "hard")]
    total = scores["accuracy[k=1,on=latents]"]
    assert total.value == pytest.approx(np.mean(parts))
    assert parts[0] - parts[1] > 0.3
    assert total.low < parts[1] + 0.1  # the interval knows that datasets differ
    assert total.high > parts[0] - 0.1


def test_declared_scored_deterministic_and_intervals_hold_values():
    data = make_data()
    scores, _ = run(dictionary(), [data])
    again, _ = run(dictionary(), [data])
    assert scores == again
    assert {s.metric for s in scores.values()} == set(SparseProbing.metrics)
    assert all(s.low <= s.value <= s.high and s.n for s in scores.values())


def test_raw_probes_run_once_for_all_coders(monkeypatch):
    data = make_data()
    one = SparseProbing(SparseProbingConfig(datasets="planted"))
    calls = []
    real = LabelledInput.pool
    monkeypatch.setattr(LabelledInput, "pool", lambda self, encode: calls.append(1) or real(self, encode))
    first, _ = one.run(dictionary(), {"planted": data})
    second, _ = one.run(dictionary(scrambled=True), {"planted": data})
    assert len(calls) == 3  # raw once, latents twice

    def raw(scores):
        return [s for s in scores if s.where["on"] == "activations"]

    assert raw(first) == raw(second)
    assert first != second


def test_pooling_by_loop():
    data = make_data()
    x, example = (np.concatenate(p) for p in zip(*((x.numpy(), e) for x, e in data.vectors()), strict=True))
    expected = np.stack([x[example == i].mean(0) for i in range(N)])
    assert np.allclose(data.pooled, expected, atol=1e-6)
    assert np.allclose(
        data.pool(lambda x: x.relu()), np.stack([np.maximum(x[example == i], 0).mean(0) for i in range(N)]), atol=1e-6
    )


def test_rotation_keeps_the_probe():
    """On more features than examples the rotated probe gives the same margins as the plain one."""
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 200)), rng.random(60) < 0.5
    train = np.arange(60) < 40
    small = rotated(x, train)
    assert small.shape[1] <= 40
    margins = [
        LogisticRegression(C=1.0, tol=1e-9, max_iter=5000).fit(f[train], y[train]).decision_function(f[~train])
        for f in (x, small)
    ]
    assert np.allclose(*margins, atol=1e-3)


def test_standardised_uses_training_examples_only():
    x = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    x[:, 2] = 7
    train = np.arange(10) < 6
    out = standardised(x, train)
    assert np.allclose(out[train, :2].mean(0), 0, atol=1e-6)
    assert np.allclose(out[train, :2].std(0), 1)
    assert (out[:, 2] == 0).all()


def test_strongest_is_mean_difference():
    data = make_data()
    task = next(make_tasks("planted", data, 0))
    x = data.pooled
    truth = task.truth[task.train]
    gaps = [abs(x[task.train][truth][:, j].mean() - x[task.train][~truth][:, j].mean()) for j in range(D)]
    assert strongest(x, task, 3).tolist() == np.argsort(gaps)[::-1][:3].tolist()


def test_measures_match_sklearn_under_any_weights():
    from sklearn import metrics

    rng = numpy_generator("measures")
    margin = np.round(rng.normal(size=50), 1)  # with ties
    truth = rng.random(50) < 0.4
    weights = np.vstack([np.ones(50), rng.integers(0, 4, size=(5, 50))]).astype(float)
    got = measures(margin, truth, weights)
    for i, w in enumerate(weights):
        assert got["accuracy"][i] == pytest.approx(metrics.accuracy_score(truth, margin > 0, sample_weight=w))
        assert got["f1"][i] == pytest.approx(metrics.f1_score(truth, margin > 0, sample_weight=w))
        assert got["auc"][i] == pytest.approx(metrics.roc_auc_score(truth, margin, sample_weight=w))


def test_bad_settings():
    with pytest.raises(BadInput, match="whole numbers"):
        _ = SparseProbing(SparseProbingConfig(k="1,two")).ks
    with pytest.raises(BadInput, match="at least one dataset"):
        SparseProbing(SparseProbingConfig(datasets=" ")).needs()
    lonely = LabelledInput(**{**vars(make_data()), "labels": (np.arange(N) == 0).astype(int)})
    with pytest.raises(BadInput, match="too few"):
        list(make_tasks("planted", lonely, 0))


def test_examples_are_kept_for_pairing():
    """Which test examples each probe gets right, nested as the mean is formed: their mean is the score."""
    scores, details = run(dictionary(scrambled=True), [make_data(3, name="one"), make_data(2, name="two")])
    units = details["units"]
    assert set(units) == {s for s in scores if s.startswith("accuracy[k=") and "on=latents" in s}
    for spec, datasets in units.items():
        assert {name: len(classes) for name, classes in datasets.items()} == {"one": 3, "two": 1}
        right = [np.mean([np.mean([int(hit) for hit in hits]) for hits in classes.values()]) for classes in datasets.values()]
        assert np.mean(right) == pytest.approx(scores[spec].value)


@pytest.mark.parametrize("features", [3, 300])
def test_regressions_are_those_of_scikit_learn(features):
    """Few features go another way than many; both end in the same optimum."""
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(features)
    x, y = rng.normal(size=(120, features)), rng.random(120) < 0.4
    x[:, 0] += y
    found = margins_of(x[:80], y[:80], [0.01, 1.0], x[80:])
    for C, margins in zip([0.01, 1.0], found, strict=True):
        exact = LogisticRegression(C=C, max_iter=10_000, tol=1e-8).fit(x[:80], y[:80]).decision_function(x[80:])
        np.testing.assert_allclose(margins, exact, rtol=2e-3, atol=2e-3)
