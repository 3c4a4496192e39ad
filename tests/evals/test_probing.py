"""probing on planted concepts: what a latent that is the concept must score, what a coder that cannot see it must not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from assay import coders
from assay.errors import BadInput, UnknownName
from assay.evals.needs import LabelledInput
from assay.evals.probing import Probing, ProbingConfig
from assay.probing import trials

D, LENGTH = 12, 4
CONCEPT, SPURIOUS, MOVING = 5, 7, 2
PLAIN = {"methods": "logreg,knn", "k": "1,8", "strengths": 4, "shift": "", "context": LENGTH}
PLAIN |= {"sizes": "16", "ratios": "0.2", "rates": "0.2"}


def make_data(
    seed: int = 0, n: int = 240, name: str = "planted", *, turned: bool = False, strength: float = 3.0
) -> LabelledInput:
    """Examples of some tokens. The last says the class along CONCEPT; SPURIOUS says it too, or with `turned` its opposite;
    MOVING says it at one token, wherever. All else is noise."""
    rng = np.random.default_rng([seed, turned])
    labels = np.arange(n) % 2
    x = rng.normal(size=(n, LENGTH, D)).astype(np.float32)
    x[:, :, [CONCEPT, SPURIOUS, MOVING]] = 0
    x[:, -1, CONCEPT] = strength * labels + 0.5 * np.abs(rng.normal(size=n))
    x[:, -1, SPURIOUS] = 2 * strength * (labels != turned) + 0.2 * np.abs(rng.normal(size=n))
    x[np.arange(n), rng.integers(0, LENGTH - 1, n), MOVING] = 4.0 * labels
    start = rng.integers(0, 2, n)
    keep = np.arange(LENGTH) >= start[:, None]
    flat, example = torch.from_numpy(x[keep]), np.repeat(np.arange(n), keep.sum(1))

    def vectors():
        for i in range(0, len(flat), 97):
            yield flat[i : i + 97], example[i : i + 97]

    return LabelledInput(
        name=name, labels=labels, train=np.arange(n) % 4 < 2, classes=["no", "yes"], leak=0.1, conflicts=2, vectors=vectors,
        documents=range(1000, 1000 + n),
    )  # fmt: skip


def dictionary(*blind: int):
    """A coder whose latents are the coordinates and their opposites, without some of them."""
    coder = coders.new("identity", d_in=D, d_sae=2 * D)
    for axis in blind:
        coder.W_dec[[axis, D + axis]] = 0
    return coder.eval()


def make(*data: LabelledInput, regimes: str = "standard", **config) -> Probing:
    names = ",".join(d.name for d in data)
    return Probing(ProbingConfig(**(PLAIN | {"datasets": names, "regimes": regimes} | config)))


def run(one: Probing, coder, *data: LabelledInput, **shifted: LabelledInput):
    inputs = {d.name: d for d in data} | {f"shift:{d.name}": d for d in shifted.values()}
    with torch.no_grad():
        scores, details = one.run(coder, inputs)
    assert len({s.spec for s in scores}) == len(scores)
    return {s.spec: s for s in scores}, details


def auc(scores, method: str, regime: str = "standard", **where: str) -> float:
    extra = "".join(f",{k}={v}" for k, v in where.items())
    return scores[f"auc[regime={regime},method={method}{extra}]"].value


def test_a_latent_that_is_the_concept_is_enough():
    data = make_data()
    scores, details = run(make(data), dictionary(SPURIOUS), data)
    assert auc(scores, "latents-1") > 0.99
    first = details["planted"]["standard_latents"][0]
    assert first["latent"] in (CONCEPT, D + CONCEPT)
    assert first["auc"] > 0.99
    assert scores["gain[regime=standard]"].value == pytest.approx(0, abs=0.01)  # nothing is left to gain


def test_a_coder_that_cannot_see_the_concept_is_at_the_floor():
    data = make_data()
    scores, _ = run(make(data), dictionary(CONCEPT, SPURIOUS), data)
    for k in (1, 8):
        at = scores[f"auc[regime=standard,method=latents-{k}]"]
        assert at.low <= 0.5 <= at.high
    assert auc(scores, "logreg") > 0.95
    assert scores["chosen[regime=standard]"].value == 0
    assert scores["gain[regime=standard]"].value == 0


def test_latents_gain_where_vectors_are_entangled():
    """A coder that undoes a random mixture of features gives a probe of few latents what few examples do not."""
    gains = []
    for seed in range(4):
        data, coder = mixed(seed)
        scores, _ = run(make(data, regimes="scarcity", sizes="24", k="1", methods="logreg"), coder, data)
        gains.append(
            (auc(scores, "latents-1", "scarcity") - auc(scores, "logreg", "scarcity"), scores["gain[regime=scarcity]"].value)
        )
    assert min(g for g, _ in gains) > 0
    assert np.mean(gains, axis=0).min() > 0.01


def mixed(seed: int):
    """Sparse features in superposition, the class one of them; and a coder that knows them."""
    rng = np.random.default_rng(seed)
    d, features, n = 64, 128, 400
    W = rng.normal(size=(features, d)).astype(np.float32)
    W /= np.linalg.norm(W, axis=1, keepdims=True)
    labels = np.arange(n) % 2
    z = (rng.random((n, features)) < 0.05) * rng.uniform(1, 2, (n, features))
    z[:, 0] = labels * rng.uniform(1, 2, n)
    x = torch.from_numpy((z @ W).astype(np.float32))
    coder = coders.new("identity", d_in=d, d_sae=2 * d).eval()
    coder.W_dec.copy_(torch.from_numpy(W))

    def vectors():
        yield x, np.arange(n)

    data = LabelledInput(
        name="mixed", labels=labels, train=np.arange(n) % 4 < 2, classes=["0", "1"], leak=0.0, conflicts=0, vectors=vectors
    )
    return data, coder


def test_order_of_baselines_on_a_weak_linear_concept():
    """Logistic regression over neighbours, by a margin that holds over seeds; and it needs examples."""
    margins, climbs = [], []
    for seed in range(3):
        data = make_data(seed, n=400, strength=0.1)
        one = make(data, regimes="standard,scarcity", sizes="4,16,64", methods="logreg,knn", k="1", strengths=3)
        scores, _ = run(one, dictionary(), data)
        margins.append(auc(scores, "logreg") - auc(scores, "knn"))
        climbs.append([auc(scores, "logreg", "scarcity", level=n) for n in ("4", "16", "64")])
    assert min(margins) > 0
    assert np.mean(margins) > 0.02
    assert np.all(np.diff(np.mean(climbs, axis=0)) > 0.05)


def test_flipped_labels_are_found():
    """The doubt of a probe finds them, and so do the first rows of its report."""
    precision = []
    for seed in range(4):
        data = make_data(seed)
        one = make(data, regimes="noise", rates="0.1,0.2", methods="logreg", k="1")
        scores, _ = run(one, dictionary(), data)
        assert scores["flips[regime=noise,method=latents-1]"].value > 0.95
        assert scores["flips[regime=noise,method=logreg]"].value > 0.6  # 12 directions find a way round some of them
        sheet = one._sheets["planted"]
        rng = np.random.default_rng(seed)
        wrong = sorted(rng.choice(np.flatnonzero(data.train), 10, replace=False).tolist())
        labels = data.labels.copy()
        labels[wrong] ^= 1
        spoilt = LabelledInput(**{**vars_of(data), "labels": labels})
        _, details = run(make(spoilt, methods="logreg", k="1", strengths=3), dictionary(), spoilt)
        said = [row["document"] - 1000 for row in details["planted"]["doubtful"]]
        precision.append(len(set(said) & set(wrong)) / len(said))
        assert all(row["probability"] > 0.5 for row in details["planted"]["doubtful"])
        assert sheet.trials[0].flipped.sum() == 12
        assert (sheet.trials[1].flipped >= sheet.trials[0].flipped).all()
    assert np.mean(precision) > 0.8
    blind, _ = run(make(data, regimes="noise", rates="0.2"), dictionary(CONCEPT, SPURIOUS), data)
    at = blind["flips[regime=noise,method=latents-8]"]
    assert at.low <= 0.5 <= at.high


def vars_of(data: LabelledInput) -> dict:
    return {k: v for k, v in vars(data).items() if k not in ("last", "pooled")}


def test_a_latent_that_turns_round_is_pruned():
    for seed in range(3):
        data, other = make_data(seed), make_data(seed + 10, n=160, name="turned", turned=True)
        one = make(data, regimes="shift", shift="planted=turned")
        scores, details = run(one, dictionary(), data, turned=other)
        assert auc(scores, "latents-1", "shift") < 0.1  # the spurious one is the stronger
        assert auc(scores, "latents-8-pruned", "shift") > 0.95
        assert auc(scores, "latents-8-pruned", "shift") > auc(scores, "latents-8", "shift") + 0.05
        found = details["planted"]
        assert SPURIOUS in found["pruned"]["removed"]
        assert CONCEPT in found["pruned"]["kept"]
        by = {row["latent"]: row for row in found["shift_latents"]}
        assert by[SPURIOUS]["train_auc"] > 0.95
        assert by[SPURIOUS]["auc"] < 0.1
        assert by[CONCEPT]["auc"] > 0.95
        sheet = one._sheets["planted"]
        assert not set(sheet.look) & set(sheet.trials[0].test)


def test_attention_and_pooling_find_what_the_last_token_hides():
    data = make_data()
    hidden = LabelledInput(**{**vars_of(data), "vectors": lambda: ((without(x), e) for x, e in data.vectors())})
    scores, _ = run(make(hidden, regimes="tokens"), dictionary(), hidden)
    for method in ("attention", "logreg-mean", "latents-8-max", "latents-8-mean"):
        assert auc(scores, method, "tokens") > 0.9  # where the token with the concept is cut off, nobody can know
    last = scores["auc[regime=tokens,method=logreg]"]
    assert last.low <= 0.5 <= last.high


def without(x: torch.Tensor) -> torch.Tensor:
    x = x.clone()
    x[:, [CONCEPT, SPURIOUS]] = 0
    return x


REGIMES = "standard,scarcity,imbalance,noise,tokens"


def test_nothing_is_chosen_on_the_test():
    """Other labels of the test examples leave every choice and every margin as it was."""
    data = make_data(n=160, strength=0.5)
    labels = data.labels.copy()
    labels[~data.train] = np.random.default_rng(0).permutation(labels[~data.train])
    other = LabelledInput(**{**vars_of(data), "labels": labels})
    found = []
    for d in (data, other):
        one = make(d, regimes=REGIMES, strengths=3, k="8")
        _, details = run(one, dictionary(), d)
        margins = [o.fit.margin for t in one._sheets["planted"].baselines for o in t.values()]
        found.append((details["planted"]["chosen"], np.concatenate(margins).tolist()))
    assert found[0] == found[1]


def test_deterministic_and_baselines_once_for_all_coders(monkeypatch):
    data = make_data(n=160)
    few = {"regimes": "standard,noise,tokens", "methods": "logreg", "strengths": 3}
    one = make(data, **few)
    fits, real = [], trials.fit

    def counted(method, x, *rest):
        fits.append(isinstance(x, np.ndarray))
        return real(method, x, *rest)

    monkeypatch.setattr(trials, "fit", counted)
    first = run(one, dictionary(), data)
    dense = sum(fits)
    assert dense > 0
    fits.clear()
    second = run(one, dictionary(CONCEPT), data)
    assert sum(fits) == 0
    assert fits  # only probes on latents
    other = make(data, **few)
    assert run(other, dictionary(CONCEPT), data) == second  # whatever was scored before
    assert run(other, dictionary(), data) == first
    assert {s.metric for s in first[0].values()} == set(Probing.metrics)
    assert all(s.low <= s.value <= s.high and s.n for s in first[0].values())


def test_scores_are_means_and_intervals_know_of_data_sets():
    """Over levels, then over data sets: so that two coders can be paired on the finer scores."""
    easy, hard = make_data(name="easy"), make_data(5, name="hard")
    hard = LabelledInput(**{**vars_of(hard), "labels": np.random.default_rng(0).permutation(hard.labels)})
    one = make(easy, hard, regimes="standard,scarcity", sizes="8,32")
    scores, _ = run(one, dictionary(), easy, hard)
    for regime in ("standard", "scarcity"):
        parts = [auc(scores, "logreg", f"{regime}").real]
        by = [
            s.value
            for s in scores.values()
            if s.where == {"regime": regime, "method": "logreg"} | {"dataset": s.where.get("dataset")} and s.metric == "auc"
        ]
        assert len(by) == 2
        assert parts[0] == pytest.approx(np.mean(by))
    levels = [auc(scores, "logreg", "scarcity", level=n) for n in ("8", "32")]
    assert auc(scores, "logreg", "scarcity") == pytest.approx(np.mean(levels))
    total = scores["auc[regime=standard,method=logreg]"]
    assert total.high - total.low > 0.2  # one at 1, one at a half: with other data sets it would be another mean


def test_bad_settings(monkeypatch):
    with pytest.raises(UnknownName, match="scarcity"):
        make(make_data(), regimes="standard,scarcety")
    with pytest.raises(UnknownName, match="logreg"):
        make(make_data(), methods="logregg")
    with pytest.raises(BadInput, match="sizes"):
        make(make_data(), sizes="1")
    with pytest.raises(BadInput, match="pairs"):
        make(make_data(), regimes="shift", shift="planted")
    with pytest.raises(BadInput, match="at least one data set"):
        make(regimes="standard").needs()
    many = LabelledInput(**{**vars_of(make_data()), "classes": ["a", "b", "c"]})
    with pytest.raises(BadInput, match="tell two apart"):
        run(make(many), dictionary(), many)
    lonely = LabelledInput(**{**vars_of(make_data()), "labels": (np.arange(240) == 0).astype(int)})
    with pytest.raises(BadInput, match="fewer than two"):
        run(make(lonely), dictionary(), lonely)
    monkeypatch.setattr("assay.evals.probing.find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"pip install 'assay-sae\[probing\]'"):
        make(make_data(), methods="xgboost")


def test_needs_name_what_to_gather():
    needs = Probing(ProbingConfig(datasets="a", shift="a=b,c=d", train=20, test=30)).needs()
    assert set(needs) == {"a", "c", "shift:b", "shift:d"}
    assert (needs["a"].train, needs["a"].test, needs["a"].last) == (20, 30, False)
    assert (needs["shift:b"].train, needs["shift:b"].test, needs["shift:b"].last) == (0, 30, True)
    assert Probing(ProbingConfig(datasets="a", regimes="standard")).needs()["a"].last
