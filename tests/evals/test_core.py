"""core against ground truth: perfect and empty coders, and naive loops for every formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from assay import coders
from assay.coders.base import Batch, Code, CoderConfig, SparseCoder
from assay.coders.latents import Latents
from assay.evals.core import Core, CoreConfig, closest_cosine, densities
from assay.evals.needs import Losses, PassesInput
from assay.registry import EVALS

D, DOCUMENTS, N = 6, 9, 300


def make_input(spliced=None, seed=0, scale=1.0, shift=2.0) -> PassesInput:
    rng = np.random.default_rng(seed)
    x = torch.from_numpy((rng.normal(size=(N, D)) * scale + shift).astype(np.float32))
    document = np.sort(rng.integers(0, DOCUMENTS, N))

    def vectors():
        for start in range(0, N, 70):
            yield x[start : start + 70], document[start : start + 70]

    clean, mean, zero = (np.float32(rng.random(N) + add) for add in (2, 3, 4))
    spliced = {"clean": clean, "mean": mean}.get(spliced, np.float32(clean + 0.1))
    kl = np.float32(spliced - clean)
    return PassesInput(
        documents=DOCUMENTS, vectors=vectors, mean=x.mean(0), document=document, clean=Losses(clean, 0 * clean),
        mean_ablated=Losses(mean, mean - clean), zero_ablated=Losses(zero, zero - clean), spliced=Losses(spliced, kl),
    )  # fmt: skip


def all_x(given) -> np.ndarray:
    return np.concatenate([x.numpy() for x, _ in given.vectors()]).astype(np.float64)


def run(coder, given, **config):
    with torch.no_grad():
        scores, details = Core(CoreConfig(**config)).run(coder.eval(), {"text": given})
    return {s.spec: s for s in scores}, details


def identity():
    return coders.new("identity", d_in=D, d_sae=2 * D)


def topk(given):
    coder = coders.new("topk", d_in=D, d_sae=15, k=2)
    coder.initialise(Batch.of(torch.from_numpy(all_x(given)).float()))
    return coder


class Mean(SparseCoder):
    """Says nothing: always the mean."""

    linear = False

    def __init__(self, mean):
        super().__init__(CoderConfig(d_in=D, d_sae=4))
        self.register_buffer("mean", mean)

    def encode(self, x):
        return Code(Latents.from_dense(x.new_zeros(*x.shape[:-1], 4)), self.mean)

    def decode(self, code):
        return code.base.expand(*code.z.shape[:-1], -1)


def test_perfect_coder():
    scores, _ = run(identity(), make_input("clean"))
    for name, value in {
        "loss_recovered[ablation=mean]": 1, "loss_recovered[ablation=zero]": 1, "kl": 0, "kl_div_score[ablation=mean]": 1, "fvu": 0,
        "explained_variance": 1, "explained_variance_legacy": 1, "explained_variance_saebench_0_6": 1, "mse": 0,
        "cosine_similarity": 1, "l2_ratio": 1, "relative_reconstruction_bias": 1, "ce_loss_increase": 0,
    }.items():  # fmt: skip
        assert scores[name].value == pytest.approx(value, abs=1e-6), name


def test_empty_coder():
    given = make_input("mean")
    scores, _ = run(Mean(given.mean), given)
    for name, value in {
        "loss_recovered[ablation=mean]": 0, "kl_div_score[ablation=mean]": 0, "fvu": 1, "explained_variance": 0,
        "explained_variance_legacy": 0, "l0": 0, "l1": 0, "frac_alive": 0,
    }.items():  # fmt: skip
        assert scores[name].value == pytest.approx(value, abs=1e-6), name
    assert scores["average_max_decoder_cosine_sim"].value is None
    assert "no two decoder directions" in scores["average_max_decoder_cosine_sim"].reason
    assert scores["normalized_freq_over_1_percent"].reason == "no latent fired"


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 2.0), (1.0, 0.0), (40.0, 5.0), (0.1, 10.0)])
def test_formulas_by_naive_loops(scale, shift):
    given = make_input(scale=scale, shift=shift)
    coder = topk(given).eval()
    scores, _ = run(coder, given)
    x = all_x(given)
    with torch.no_grad():
        code = coder.encode(torch.from_numpy(x).float())
        y, z = coder.decode(code).double().numpy(), code.z.double().numpy()
    mean = x.mean(0)
    se = var = xx = yy = xy = legacy = cos = nx = ny = 0.0
    for a, b in zip(x, y, strict=True):
        e, v = sum((a - b) ** 2), sum((a - mean) ** 2)
        se, var, legacy = se + e, var + v, legacy + 1 - e / v
        xx, yy, xy = xx + a @ a, yy + b @ b, xy + a @ b
        nx, ny, cos = nx + (a @ a) ** 0.5, ny + (b @ b) ** 0.5, cos + a @ b / ((a @ a) * (b @ b)) ** 0.5
    mean_square = sum(np.mean(x[:, j] ** 2) for j in range(D)) / D
    expected = {
        "fvu": se / var, "explained_variance": 1 - se / var, "explained_variance_legacy": legacy / N,
        "explained_variance_saebench_0_6": 1 - (se / N) / (xx / N - mean_square**2), "mse": se / (N * D), "cosine_similarity": cos / N,
        "l2_norm_in": nx / N, "l2_norm_out": ny / N, "l2_ratio": ny / nx, "relative_reconstruction_bias": yy / xy,
        "l0": (z != 0).sum() / N, "l1": np.abs(z).sum() / N, "frac_alive": (z != 0).any(0).mean(),
        "freq_over_1_percent": ((z != 0).mean(0) > 0.01).mean(), "freq_over_10_percent": ((z != 0).mean(0) > 0.1).mean(),
    }  # fmt: skip
    p = (z != 0).mean(0)
    expected["normalized_freq_over_10_percent"] = p[p > 0.1].sum() / p.sum()
    for name, value in expected.items():
        assert scores[name].value == pytest.approx(value, rel=2e-4), name


def test_saebench_variance_differs_in_the_published_direction():
    """A large mean makes the 0.6 formula flatter the coder; a large scale lifts it above 1."""
    flattered, _ = run(topk(given := make_input(shift=1.5, scale=0.5)), given)
    assert flattered["explained_variance_saebench_0_6"].value > flattered["explained_variance"].value + 0.05
    absurd, _ = run(topk(given := make_input(scale=40.0)), given)
    assert absurd["explained_variance_saebench_0_6"].value > 1


def test_ratio_of_sums_not_mean_of_ratios():
    """Pieces and documents of unequal size must not matter."""
    given = make_input()
    scores, _ = run(topk(given), given)
    clean, spliced, mean = (p.ce.astype(np.float64).sum() for p in (given.clean, given.spliced, given.mean_ablated))
    assert scores["loss_recovered[ablation=mean]"].value == pytest.approx((mean - spliced) / (mean - clean), rel=1e-9)


def test_sparse_and_dense_latents_count_alike():
    given = make_input()
    coder = topk(given).eval()
    sparse, a = run(coder, given)
    encode = coder.encode
    coder.encode = lambda x: (lambda code: code.with_latents(code.z))(encode(x))
    dense, b = run(coder, given)
    assert coder.encode(torch.zeros(1, D)).latents.is_sparse is False
    assert encode(torch.zeros(1, D)).latents.is_sparse is True
    for name in ("l0", "l1", "frac_alive", "freq_over_10_percent"):
        assert dense[name].value == pytest.approx(sparse[name].value, rel=1e-6)
    assert a["latents"]["density"] == b["latents"]["density"]


def test_intervals_of_frequencies_are_as_wide_as_draws_of_the_text_scatter():
    """80 texts of one law, documents that like some latents: as wide as the values scatter, which leaving out blocks was not."""
    rates = 10 ** np.random.default_rng(0).uniform(-6, -0.5, 600)
    found: dict[str, list[tuple[float, float]]] = {}
    for seed in range(80):
        rng = np.random.default_rng([1, seed])
        mood = rng.gamma(0.3, 1 / 0.3, size=(192, len(rates)))
        fires = rng.binomial(100, np.minimum(rates * mood, 1)).reshape(3, 64, -1).sum(0).astype(float)
        for s in densities(fires, np.full(64, 300.0), rng):
            found.setdefault(s.metric, []).append((s.value, s.high - s.low))
    for metric, rows in found.items():
        value, width = np.array(rows).T
        widest = 1.8 if metric == "frac_alive" else 1.5  # which must leave out blocks, see `densities`
        assert 0.65 < width.mean() / (2 * 1.96 * value.std()) < widest, metric


def test_every_declared_metric_is_scored_and_intervals_hold_values():
    given = make_input()
    scores, details = run(topk(given), given)
    assert {s.metric for s in scores.values()} == set(Core.metrics)
    for s in scores.values():
        assert s.low <= s.value <= s.high, s
        assert s.n, s
    assert scores["fvu"].n == DOCUMENTS
    assert details["tokens"] == N
    assert len(details["latents"]["density"]) == 15
    assert sum(details["blocks"]["predicted"]) == N


def test_same_seed_same_scores_another_seed_other_intervals():
    given = make_input()
    coder = topk(given)
    (a, _), (b, _), (c, _) = run(coder, given), run(coder, given), run(coder, given, seed=1)
    assert a == b
    assert a["fvu"].value == c["fvu"].value
    assert a["fvu"].low != c["fvu"].low


def test_closest_cosine_by_loop():
    W = torch.randn(11, 5, generator=torch.Generator().manual_seed(0))
    W[3] = 0
    for i, value in enumerate(closest_cosine(W, chunk=4)):
        others = [float(torch.cosine_similarity(W[i], W[j], dim=0)) for j in range(11) if j != i]
        assert value == pytest.approx(max(others), abs=1e-6)


def test_weights_can_be_skipped():
    scores, details = run(identity(), make_input(), weights=False)
    assert scores["average_max_encoder_cosine_sim"].value is None
    assert "switched off" in scores["average_max_encoder_cosine_sim"].reason
    assert set(details["latents"]) == {"density"}


def test_registry_knows_both_evals():
    assert {"core", "sparse_probing"} <= set(EVALS)
    assert EVALS.load("core") is Core
    assert {s.name: s.default for s in EVALS.settings("core")}["tokens"] == 100_000
    assert all(s.doc for name in ("core", "sparse_probing") for s in EVALS.settings(name))
