"""density against planted firing: exact recounts, known shrinkage and evenness, and coders that know nothing."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from assay import coders
from assay.activations import score as truth
from assay.coders.base import Batch, Code, CoderConfig, SparseCoder
from assay.coders.latents import Latents
from assay.coders.permuted_decoder import PermutedDecoder
from assay.evals.core import Core, CoreConfig
from assay.evals.density import EDGES, PRESETS, Density, DensityConfig, evenness, formulas, report
from assay.evals.needs import Losses, PassesInput
from assay.randomness import generator, numpy_generator
from assay.registry import EVALS

N, DOCUMENTS = 4000, 50
FIRES = [0, 0, 1, 3, 4, 5, 40, 41, 400, 401, 2000, 4000]
"""Tokens on which each planted latent fires: on both sides of, and on, the borders .001, .01 and .1."""
D = len(FIRES)


def given(x: torch.Tensor, documents: int = DOCUMENTS, piece: int = 700, seed: int = 0) -> PassesInput:
    document = np.sort(numpy_generator("test density", "documents", seed).integers(0, documents, len(x)))
    nothing = Losses(np.zeros(0, np.float32), np.zeros(0, np.float32))

    def vectors():
        for start in range(0, len(x), piece):
            yield x[start : start + piece], document[start : start + piece]

    return PassesInput(
        documents=documents, vectors=vectors, mean=x.double().mean(0).float(), document=np.zeros(0, np.int64), clean=nothing,
        mean_ablated=nothing, zero_ablated=nothing, spliced=nothing,
    )  # fmt: skip


def planted(seed: int = 0) -> torch.Tensor:
    """Vectors that are their own sparse code: latent i is not zero on exactly FIRES[i] of them."""
    rng = numpy_generator("test density", "planted", seed)
    x = np.zeros((N, D), dtype=np.float32)
    for i, often in enumerate(FIRES):
        x[rng.choice(N, often, replace=False), i] = rng.uniform(0.5, 2.0, often)
    return torch.from_numpy(x)


class Oracle(SparseCoder):
    """The code is what is positive of x; row i of the decoder is e_i · gain, so x̂ = gain · x."""

    def __init__(self, d=D, gain=1.0, lengths=None, sparse=False, order=None, bias=0.0):
        super().__init__(CoderConfig(d_in=d, d_sae=d))
        rows = torch.diag(torch.ones(d) * gain if lengths is None else lengths)
        self.register_buffer("W_dec", rows if order is None else rows[order])
        self.sparse, self.bias = sparse, bias

    def encode(self, x):
        z = (x - self.bias).relu()
        if not self.sparse:
            return Code(Latents.from_dense(z), x.new_zeros(x.shape[1]))
        row, column = z.nonzero(as_tuple=True)
        offsets = torch.cat([torch.zeros(1, dtype=torch.long), (z != 0).sum(1).cumsum(0)])
        return Code(Latents.from_csr(z[row, column], column, offsets, tuple(z.shape)), x.new_zeros(x.shape[1]))


class Blind(Oracle):
    """The same number of latents on every token, whatever the token says."""

    def encode(self, x):
        z = torch.rand(x.shape, generator=generator("test density", "blind", len(x)))
        return Code(Latents.from_dense(z * (z >= z.topk(3).values[:, -1:])), x.new_zeros(x.shape[1]))


class Wordless(SparseCoder):
    """No decoder directions, no latent that fires, and always the same reconstruction."""

    linear = False

    def __init__(self, constant):
        super().__init__(CoderConfig(d_in=D, d_sae=D))
        self.register_buffer("constant", constant)

    def encode(self, x):
        return Code(Latents.from_dense(x.new_zeros(*x.shape[:-1], D)), self.constant)

    def decode(self, code):
        return self.constant.expand(*code.z.shape[:-1], -1)


def run(coder, text, **config):
    with torch.no_grad():
        scores, details = Density(DensityConfig(**config)).run(coder.eval(), {"text": text})
    return {s.spec: s for s in scores}, details


def values(scores):
    return {name: s.value for name, s in scores.items()}


def topk(x, k=3):
    coder = coders.new("topk", d_in=x.shape[1], d_sae=3 * x.shape[1], k=k)
    coder.initialise(Batch.of(x))
    return coder


@pytest.mark.parametrize("sparse", [False, True])
def test_planted_frequencies_are_counted_exactly(sparse):
    scores, details = run(Oracle(sparse=sparse), given(planted()))
    total = sum(FIRES)
    expected = {  # (above, to) in tokens of 4,000: (0, .4], (.4, 4], (4, 40], (40, 400]
        "latents_over[frequency=0.001]": 7, "latents_in_band[above=1e-05,to=0.0001]": None,
        "latents_in_band[above=0.0001,to=0.001]": 3 / D, "latents_in_band[above=0.001,to=0.01]": 2 / D,
        "latents_in_band[above=0.01,to=0.1]": 2 / D, "activations_in_band[above=0.0001,to=0.001]": 8 / total,
        "activations_in_band[above=0.001,to=0.01]": 45 / total, "activations_in_band[above=0.01,to=0.1]": 441 / total,
    }  # fmt: skip
    for name, value in expected.items():
        assert scores[name].value == pytest.approx(value) if value is not None else scores[name].value is None, name
    assert details["table"]["over"] == {"0.1": 3, "0.01": 5, "0.001": 7}
    assert details["table"]["never"] == 2
    assert details["table"]["bands"][-1] == {"above": 0.1, "to": 1.0, "latents": 3, "share_of_activations": 6401 / total}
    assert details["dead"] == [0, 1]
    assert [(row["latent"], row["frequency"]) for row in details["dense"]] == [(11, 1.0), (10, 0.5), (9, 0.10025)]
    x = planted().numpy()
    assert details["dense"][2]["mean_activation"] == pytest.approx(x[:, 9][x[:, 9] > 0].mean(), rel=1e-5)
    # log10 of 1/4000 … 4000/4000 in half decades from -7
    assert details["histogram"]["latents"] == [0, 0, 0, 0, 0, 0, 1, 1, 2, 0, 2, 0, 2, 2]
    assert (details["tokens"], details["documents"]) == (N, DOCUMENTS)


def test_recount_of_a_coder_by_brute_force():
    x = planted() + 0.3 * torch.randn(N, D, generator=generator("test density", "noise"))
    coder = topk(x).eval()
    scores, details = run(coder, given(x))
    with torch.no_grad():
        z = coder.encode(x).z.double().numpy()
    assert coder.encode(x[:1]).latents.is_sparse
    often = [sum(1 for t in range(N) if z[t, i] != 0) for i in range(coder.d_sae)]
    for low, high in pairwise((*EDGES, 1.0)):
        inside = [n for n in often if low * N < n <= high * N]
        row = next(r for r in details["table"]["bands"] if r["above"] == low)
        assert (row["latents"], row["share_of_activations"]) == (len(inside), pytest.approx(sum(inside) / sum(often)))
        if high < 1 and high * N >= 1:
            where = f"[above={low:g},to={high:g}]"
            assert scores["latents_in_band" + where].value == pytest.approx(len(inside) / len(often))
            assert scores["activations_in_band" + where].value == pytest.approx(sum(inside) / sum(often))
    assert details["dead"] == [i for i, n in enumerate(often) if not n]
    assert {row["latent"] for row in details["dense"]} == {i for i, n in enumerate(often) if n > N / 10}
    uniform, effective, some = [], [], 0
    lengths = coder.W_dec.detach().double().norm(dim=1).numpy()
    for row in z:
        parts = [abs(v) * n for v, n in zip(row, lengths, strict=True) if v]
        some += bool(parts)
        share = np.array(parts) / sum(parts) if parts else np.ones(0)
        effective.append(np.exp(-(share * np.log(share)).sum()) if parts else 0.0)
        uniform.append(effective[-1] / len(parts) if parts else 0.0)
    assert scores["length_uniformity"].value == pytest.approx(sum(uniform) / some, rel=1e-5)
    assert scores["effective_l0"].value == pytest.approx(np.mean(effective), rel=1e-5)
    assert scores["gamma"].value == pytest.approx(truth.bias(x, coder(x), x.mean(0)), rel=1e-5)


def test_with_core_the_table_is_whole():
    """Bands here and the two ends in core make up all latents and all activations; core's 1 % is the other column."""
    text = given(planted(), seed=3)
    with torch.no_grad():
        core = {s.spec: s.value for s in Core(CoreConfig(weights=False)).run(Oracle().eval(), {"text": with_losses(text)})[0]}
    mine, details = run(Oracle(), text)
    of = {
        name: sum(s.value or 0.0 for s in mine.values() if s.metric == name)
        for name in ("latents_in_band", "activations_in_band")
    }
    assert of["latents_in_band"] + core["freq_over_10_percent"] + 1 - core["frac_alive"] == pytest.approx(1)
    assert of["activations_in_band"] + core["normalized_freq_over_10_percent"] == pytest.approx(1)
    assert details["table"]["over"]["0.01"] == pytest.approx(core["freq_over_1_percent"] * D)
    assert not set(Density.metrics) & set(Core.metrics)


def with_losses(text: PassesInput) -> PassesInput:
    losses = Losses(np.ones(N, np.float32), np.ones(N, np.float32))
    return PassesInput(
        documents=text.documents, vectors=text.vectors, mean=text.mean, document=np.arange(N) % text.documents, clean=losses,
        mean_ablated=losses, zero_ablated=losses, spliced=losses,
    )  # fmt: skip


@pytest.mark.parametrize("gain", [0.7, 1.0, 1.3])
def test_gamma_is_the_planted_factor_even_where_a_mean_hides_it(gain):
    x = planted()
    centre = torch.full((D,), 50.0)

    class About(Oracle):
        def decode(self, code):
            return super().decode(code) * gain + centre + (1 - gain) * x.mean(0)

        def encode(self, x):
            return super().encode(x - centre)

    scores, _ = run(About(), given(x + centre))
    assert scores["gamma"].value == pytest.approx(gain, abs=2e-3)
    assert truth.bias(x + centre, About()(x + centre)) == pytest.approx(1, abs=1e-3)  # core's, about 0, sees nothing


@pytest.mark.parametrize("sparse", [False, True])
def test_evenness_of_planted_codes(sparse):
    """Equal: 1. One that does all: 1/L0. Lengths of decoder rows count, signs do not."""
    z = torch.zeros(5, 8)
    z[0, :4] = 3.0
    z[1, :4] = torch.tensor([1e9, 1, 1, 1])
    z[2, 2:4] = torch.tensor([1.0, -0.25])
    z[4, 5] = 7.0
    lengths = torch.tensor([1.0, 1, 1, 4, 1, 1, 1, 1])
    latents = Oracle(8, sparse=True).encode(z.abs()).latents if sparse else Latents.from_dense(z)
    even = evenness(latents, torch.ones(8))
    assert even[[0, 1, 3, 4]].tolist() == pytest.approx([4, 1, 0, 1], abs=1e-5)
    assert even[2] == pytest.approx(np.exp(-(0.8 * np.log(0.8) + 0.2 * np.log(0.2))))
    assert evenness(latents, lengths)[2] == pytest.approx(2)


def test_uniformity_leaves_out_tokens_without_latents():
    x = torch.zeros(N, D)
    x[: N // 2, :3] = 2.0
    scores, _ = run(Oracle(), given(x))
    assert scores["length_uniformity"].value == pytest.approx(1)
    assert scores["effective_l0"].value == pytest.approx(1.5)
    uneven, _ = run(Oracle(lengths=torch.tensor([1e6, *[1.0] * (D - 1)])), given(x))
    assert uneven["length_uniformity"].value == pytest.approx(1 / 3, abs=1e-3)


def test_a_scrambled_coder_is_told_from_the_oracle():
    """Permuted rows: γ is far from 1 or has no value, and frequencies cannot tell. Blind choice: one band, none dead."""
    x = planted()
    own, _ = run(Oracle(), given(x))
    order = torch.roll(torch.arange(D), 5)
    permuted, _ = run(Oracle(order=order), given(x))
    assert own["gamma"].value == pytest.approx(1, abs=1e-5)
    assert permuted["gamma"].value is None or abs(permuted["gamma"].value - 1) > 1
    assert {k: v for k, v in values(permuted).items() if "over" in k or "band" in k} == {
        k: v for k, v in values(own).items() if "over" in k or "band" in k
    }
    blind, details = run(Blind(), given(x))
    assert len([row for row in details["table"]["bands"] if row["latents"]]) == 1
    assert details["dead"] == []
    assert blind["gamma"].value is None or blind["gamma"].value > 5


def test_trained_lies_between_oracle_and_permuted():
    """Distance of γ from 1, over several seeds."""
    for seed in range(3):
        x = planted(seed) + 0.05 * torch.randn(N, D, generator=generator("test density", "noise", seed))
        coder = coders.new("relu", d_in=D, d_sae=2 * D, seed=seed)
        coder.initialise(Batch.of(x))
        optimiser, some = torch.optim.Adam(coder.parameters(), 1e-2), x[::5]
        for _ in range(60):
            optimiser.zero_grad()
            code = coder.encode(some)
            ((some - coder.decode(code)).square().sum(-1).mean() + 0.2 * code.z.sum(-1).mean()).backward()
            optimiser.step()
        off = {}
        for name, one in {
            "oracle": Oracle(),
            "trained": coder,
            "permuted": PermutedDecoder.of(coder, "relu", seed=seed),
        }.items():
            gamma = run(one, given(x))[0]["gamma"].value
            off[name] = np.inf if gamma is None else abs(gamma - 1)
        assert off["oracle"] < 0.02 < off["trained"] < 0.5 < off["permuted"], off


def test_coder_that_says_nothing():
    x = planted()
    scores, details = run(Wordless(x.mean(0)), given(x))
    assert scores["gamma"].value is None
    assert "do not follow" in scores["gamma"].reason
    assert "no decoder directions" in scores["length_uniformity"].reason
    assert scores["latents_over[frequency=0.001]"].value == 0
    assert scores["activations_in_band[above=0.001,to=0.01]"].reason == "no latent fired"
    assert details["dead"] == list(range(D))
    assert details["dense"] == []
    silent, _ = run(Oracle(bias=100.0), given(x))
    assert silent["length_uniformity"].reason == "no latent fired"
    assert silent["effective_l0"].value == 0


def test_bands_below_the_resolution_have_no_score():
    scores, _ = run(Oracle(), given(planted()))
    low = scores["latents_in_band[above=0,to=1e-05]"]
    assert low.value is None
    assert "4,000 tokens" in low.reason
    assert scores["latents_in_band[above=0.0001,to=0.001]"].value is not None


def test_histogram_keeps_latents_that_are_rarer_than_its_first_bin():
    table = report(np.array([0, 1, 10**9]), 10**9, np.ones(3))
    assert table["histogram"]["latents"] == [1, *[0] * 12, 1]


def test_every_declared_metric_is_scored_and_intervals_hold_values():
    scores, details = run(topk(planted()), given(planted()))
    assert {s.metric for s in scores.values()} == set(Density.metrics)
    for s in scores.values():
        assert s.value is None or s.low <= s.value <= s.high, s
        assert s.n, s
    assert scores["gamma"].n == DOCUMENTS
    assert sum(details["blocks"]["vectors"]) == N
    for name, formula, _ in formulas():  # what a comparison of two records computes from the details
        blocks = {k: np.sum(v) for k, v in details["blocks"].items()}
        assert formula(blocks) == pytest.approx(scores[name].value, rel=1e-5)
    assert [EVALS.load("density"), bool(EVALS.summary("density"))] == [Density, True]
    assert all(s.doc for s in EVALS.settings("density"))
    for preset in PRESETS.values():
        assert DensityConfig(**preset).tokens > 0


def test_seed_and_pieces():
    """The seed moves intervals only; the size of the pieces moves nothing that is counted."""
    x = planted()
    coder = topk(x)
    (a, first), (b, again), (c, _) = run(coder, given(x)), run(coder, given(x)), run(coder, given(x), seed=1)
    assert (a, first) == (b, again)
    assert values(a) == values(c)
    assert a["gamma"].low != c["gamma"].low
    small, details = run(coder, given(x, piece=64))
    assert details["table"] == first["table"]
    for name, value in values(a).items():
        assert small[name].value == (None if value is None else pytest.approx(value, rel=1e-5)), name


def test_intervals_are_as_wide_as_draws_of_the_text_scatter():
    """Latents that fire by document, 40 texts of one law: intervals hold the law's value, and are neither idle nor idly wide."""
    rates = 10 ** np.linspace(-4, -0.5, 120)
    true = {
        "latents_over[frequency=0.001]": (rates > 0.001).sum(),
        "latents_in_band[above=0.01,to=0.1]": ((rates > 0.01) & (rates < 0.1)).mean(),
        "gamma": (0.36 + 1) / 1.6,
    }  # fmt: skip
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in true}
    for seed in range(40):
        rng = numpy_generator("test density", "law", seed)
        mood = rng.gamma(2.0, 0.5, size=(DOCUMENTS, len(rates)))  # mean 1: how much a document likes each latent
        document = np.sort(numpy_generator("test density", "documents", seed).integers(0, DOCUMENTS, N))
        x = (rng.random((N, len(rates))) < rates * mood[document]).astype(np.float32)
        gains = torch.from_numpy(rng.choice([0.6, 1.0], size=DOCUMENTS).astype(np.float32)[document])

        class Uneven(Oracle):
            def decode(self, code, gains=gains):
                mean = code.z.mean(0)
                return mean + (code.z - mean) * gains[:, None]

        scores, _ = run(Uneven(len(rates)), given(torch.from_numpy(x), seed=seed, piece=N))
        for name in true:
            found[name].append((scores[name].value, scores[name].low, scores[name].high))
    for name, value in true.items():
        at, low, high = np.array(found[name]).T
        assert ((low <= value) & (value <= high)).sum() >= 34, name
        assert 0.7 < (high - low).mean() / (2 * 1.96 * at.std()) < 1.5, (name, (high - low).mean() / (2 * 1.96 * at.std()))
