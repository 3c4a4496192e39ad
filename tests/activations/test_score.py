"""Scores against a known truth: perfect, permuted, half blind and random coders, and a case small enough to work out by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from assay import coders
from assay.activations.ground import planted
from assay.activations.planted import Planted
from assay.activations.score import bias, match, matching, score
from assay.activations.truth import PlantedSource
from assay.coders.base import Code, CoderConfig, SparseCoder, Step
from assay.coders.latents import Latents
from assay.errors import BadInput, WidthMismatch

NAMES = ["superposition", "tree", "toy_model", "compiled", "circles", "composed"]
PERFECT = (
    "explained_variance",
    "precision",
    "recall",
    "f1",
    "accuracy",
    "shrinkage",
    "gamma",
    "mcc",
    "uniqueness",
    "mmcs",
    "recovered",
)


class Oracle(SparseCoder[CoderConfig]):
    """Knows the codes of what `score(…, seed=0)` asks. `order` permutes its latents, `silent` ones never fire."""

    def __init__(self, source: PlantedSource, n: int, order=None, silent=(), gain: float = 1.0):
        super().__init__(CoderConfig(d_in=source.d_in, d_sae=source.latents))
        self.order = torch.arange(source.latents) if order is None else order
        self.W_dec = source.directions[self.order]
        self.base = torch.as_tensor(source.offset, dtype=torch.float32).expand(source.d_in)
        self.gain, self.known = gain, {}
        for number, size in enumerate([1024] * (n // 1024) + ([n % 1024] if n % 1024 else [])):
            x, z = source.codes(size, "score 0", number)
            z[:, list(silent)] = 0
            self.known |= {row.numpy().tobytes(): code for row, code in zip(x, z[:, self.order])}

    def encode(self, x):
        z = torch.stack([self.known[row.numpy().tobytes()] for row in x])
        return Code(Latents.from_dense(self.gain * z), self.base)


@pytest.mark.parametrize("name", NAMES)
def test_a_perfect_coder_scores_1(name):
    source = planted(name)
    scores = score(Oracle(source, 2500), source, 2500)
    assert {m: scores[m] for m in PERFECT} == pytest.approx(dict.fromkeys(PERFECT, 1.0), abs=1e-5)
    assert scores["l0"] == scores["true_l0"] > 0
    assert scores["dead"] == 0


def test_order_does_not_matter():
    source = Planted(16, 24)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    straight, permuted = (score(Oracle(source, 2000, o, silent=(1, 2)), source, 2000) for o in (None, order))
    assert permuted == pytest.approx(straight, abs=1e-9)
    assert 0.9 < straight["f1"] < 1


def test_dead_latents_count_as_0_and_shrinkage_shows():
    source = Planted(16, 24)
    scores = score(Oracle(source, 2000, silent=range(12), gain=0.8), source, 2000)
    assert scores["dead"] == 0.5
    assert scores["precision"] == scores["recall"] == scores["f1"] == 0.5
    assert scores["mcc"] == pytest.approx(1)  # directions are all there
    assert 0.5 < scores["accuracy"] < 1
    none = score(Oracle(source, 2000, silent=range(24)), source, 2000)
    assert none["l0"] == none["precision"] == none["recall"] == none["f1"] == none["shrinkage"] == 0
    short = score(Oracle(source, 2000, gain=0.8), source, 2000)
    assert short["shrinkage"] == pytest.approx(0.8)
    assert short["f1"] == 1


def test_random_directions_score_near_the_floor():
    source = Planted()
    coder = coders.new("random", d_in=64, d_sae=256, k=8, seed=1)
    coder.initialise(next(source.batches(2048, 0)))
    scores = score(coder, source, 4000)
    assert scores["recovered"] == 0
    assert 0.25 < scores["mcc"] < 0.45
    assert scores["f1"] < 0.12
    assert 0.5 < scores["uniqueness"] < 0.75  # 1 − 1/e of random choices


class Table(PlantedSource):
    """Four vectors and what they are made of."""

    kind = "table"
    directions = torch.eye(2)
    z = torch.tensor([[3.0, 0.0], [0.0, 4.0], [0.0, 0.0], [3.0, 4.0]])

    def codes(self, size, seed, start=0):
        return self.z @ self.directions, self.z


class Fixed(SparseCoder[CoderConfig]):
    """Three latents with fixed activations for the four vectors."""

    W_dec = torch.tensor([[2.0, 0.0], [0.0, -1.0], [0.6, 0.8]])
    z = torch.tensor([[1.5, 0.0, 0.0], [1.0, 0.0, 5.0], [0.0, 0.0, 0.0], [1.5, 0.0, 0.0]])

    def encode(self, x):
        return Code(Latents.from_dense(self.z), torch.zeros(2))


def test_by_hand():
    scores = score(Fixed(CoderConfig(d_in=2, d_sae=3)), Table(2, 2, 0), 4)
    # Nearest features: 0, 1, 1. Latent 0 fires on vectors 0, 1, 3, its feature on 0, 3; latent 1 never; latent 2 on 1, its feature on 1, 3.
    x_hat = np.array([[3, 0], [5, 4], [0, 0], [3, 0]])
    x = np.array([[3, 0], [0, 4], [0, 0], [3, 4]])
    assert scores == pytest.approx({
        "l0": 1.0, "true_l0": 1.0,
        "explained_variance": 1 - (25 + 16) / (x - x.mean(0)).__pow__(2).sum(),
        "precision": (2 / 3 + 0 + 1) / 3, "recall": (1 + 0 + 1 / 2) / 3, "f1": (4 / 5 + 0 + 2 / 3) / 3,
        "accuracy": (3 / 4 + 2 / 4 + 3 / 4) / 3,
        "dead": 1 / 3, "dense": 2 / 3,
        "shrinkage": (1 + 41**0.5 / 4 + 3 / 5) / 3,  # the vector 0 has no length to compare with
        "gamma": bias(torch.tensor(x), torch.tensor(x_hat), torch.tensor(x.mean(0))),
        "mcc": (1 + 1) / 2, "uniqueness": 2 / 3, "mmcs": (1 + 0.8) / 2, "recovered": 1 / 2,
    })  # fmt: skip


def test_matching_is_the_best_of_all():
    rows, directions = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), Planted(3, 6).directions
    cosines = (torch.nn.functional.normalize(rows, dim=1) @ directions.T).abs()
    best = max(itertools.permutations(range(6), 4), key=lambda p: sum(cosines[i, j] for i, j in enumerate(p)))
    latents, features, found = matching(rows, directions)
    assert latents.tolist() == [0, 1, 2, 3] and tuple(features.tolist()) == best
    torch.testing.assert_close(found.float(), cosines[range(4), list(best)])
    assert matching(directions, rows)[2].sum() == pytest.approx(found.sum().item())  # more latents than features
    with pytest.raises(WidthMismatch, match="width 3, planted directions 2"):
        matching(rows, torch.eye(2))


def test_of_two_opposite_features_a_latent_is_matched_to_its_own():
    truth = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    assert match(truth, truth).tolist() == [0, 1, 2]
    assert matching(truth.flip(0), truth)[1].tolist() == [2, 1, 0]
    assert match(torch.tensor([[0.1, -1.0]]), truth).tolist() == [2]  # without a rival the sign does not matter


class Lazy(Fixed):
    """Does nothing while it trains."""

    def encode(self, x):
        return Code(Latents.from_dense(self.z * (not self.training)), torch.zeros(2))


def test_a_coder_in_training_is_scored_as_it_will_be_used():
    coder = Lazy(CoderConfig(d_in=2, d_sae=3)).train()
    assert score(coder, Table(2, 2, 0), 4)["l0"] == 1
    assert coder.training
    score(coder.eval(), Table(2, 2, 0), 4)
    assert not coder.training
    # BatchTopK, whose codes depend on the batch in training, goes through its inference form.
    source, coder = Planted(16, 24), coders.new("batch_topk", d_in=16, d_sae=24, k=3)
    batch = next(source.batches(1024, 0))
    coder.initialise(batch)
    coder.train().loss(batch, coder.encode(batch.x), Step())
    assert score(coder, source, 1500) == score(coder.eval(), source, 1500) != score(coder, source, 1500, seed=1)


def test_what_cannot_be_scored():
    source = Planted(16, 24)
    coder = Oracle(source, 10)
    with pytest.raises(BadInput, match=r"n ≥ 2 vectors and seed ≥ 0; got 1, 0"):
        score(coder, source, 1)
    bent = type("Bent", (Oracle,), {"linear": False})(source, 10)
    with pytest.raises(BadInput, match="Bent has no decoder directions"):
        score(bent, source, 10)
    with pytest.raises(WidthMismatch):
        score(coders.new("random", d_in=8, d_sae=4), source, 10)


def test_scores_agree_with_one_look_at_all_vectors():
    source = Planted(16, 24)
    coder = coders.new("topk", d_in=16, d_sae=24, k=3)
    coder.initialise(next(source.batches(1024, 0)))
    x = torch.cat([source.codes(size, "score 0", i)[0] for i, size in enumerate((1024, 1024, 452))])
    with torch.no_grad():
        code = coder.eval().encode(x)
        x_hat = coder.decode(code)
    scores = score(coder, source, 2500)
    assert scores["gamma"] == pytest.approx(bias(x, x_hat, x.double().mean(0)), abs=1e-6)
    residual, variance = (x - x_hat).double().square().sum(), (x - x.mean(0)).double().square().sum()
    assert scores["explained_variance"] == pytest.approx(1 - (residual / variance).item(), abs=1e-6)
    assert scores["l0"] == pytest.approx(code.latents.l0().mean().item())
