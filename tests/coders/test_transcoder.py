"""What the contract cannot know of transcoders, and of composing any architecture."""

from __future__ import annotations

import itertools

import pytest
import torch

from assay import coders
from assay.activations.planted import recovery
from assay.coders.base import Batch
from assay.coders.composed import parsed, written
from assay.coders.jumprelu import JumpReLU
from assay.coders.linear import unit_rows
from assay.coders.transcoder import regression
from assay.errors import BadInput, UnknownName
from assay.randomness import generator
from assay.testing import ready, toy_batch
from assay.train import TrainConfig, train

KINDS = {"topk": "k=4", "batch_topk": "k=4", "matryoshka": "k=4", "relu": "", "gated": "", "jumprelu": "", "p_anneal": ""}


class PlantedMap:
    """x = z A, y = z B (+ x L): sparse features that are written in other directions than they are read in."""

    tokens, fingerprint, d_in, d_out, features = None, "planted map", 24, 16, 48

    def __init__(self, seed: int, dense: float = 0.0):
        random = generator("planted map", seed)
        self.read = unit_rows(torch.randn(self.features, self.d_in, generator=random))
        self.write = unit_rows(torch.randn(self.features, self.d_out, generator=random))
        self.dense = dense * torch.randn(self.d_in, self.d_out, generator=random) / self.d_out**0.5
        self.seed = seed

    def batch(self, size, *name):
        random = generator("planted map codes", self.seed, *name)
        z = (torch.rand(size, self.features, generator=random) < 0.04) * (
            0.5 + torch.rand(size, self.features, generator=random)
        )
        noise = torch.randn(size, self.d_in, generator=random) * (0.3 if self.dense.any() else 0.0)
        x = z @ self.read + noise  # noise: what only a linear map can carry over
        return Batch(x, z @ self.write + x @ self.dense)

    def batches(self, size, seed, start=0):
        return (self.batch(size, seed, number) for number in itertools.count(start))

    def held_out(self, size):
        return self.batch(size, "held out")

    def describe(self):
        return {"kind": "planted map"}


def trained(name, source, seed=0, steps=500, **settings):
    coder = coders.new(name, seed=seed, d_in=source.d_in, d_out=source.d_out, d_sae=64, **settings)
    list(train({"c": coder}, source, TrainConfig(tokens=steps * 256, batch=256, lr=5e-3, log_every=steps, dead_after=20_000)))
    return coder


def fvu(coder, batch):
    return ((batch.y - coder(batch.x)).square().sum() / (batch.y - batch.y.mean(0)).square().sum()).item()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_recovers_where_features_are_read_and_written(seed):
    source = PlantedMap(seed)
    coder = trained("transcoder", source, seed, of="topk", settings="k=2")
    chance = coders.new("transcoder", d_in=24, d_out=16, d_sae=64, seed=seed + 100)
    for W, lucky, truth, least in (
        (coder.W_dec, chance.W_dec, source.write, 0.95),  # .977 to .984 on three seeds; chance .56
        (
            coder.W_enc.T,
            chance.W_enc.T,
            source.read,
            0.62,
        ),  # .66 to .69; chance .47. In superposition encoders turn away from others
    ):
        found, luck = recovery(W, truth)["mmcs"], recovery(lucky, truth)["mmcs"]
        assert found > least > luck + 0.1, (found, luck)
    assert fvu(coder, source.batch(2048, "new")) < 0.3


@torch.no_grad()
def test_the_start_is_a_regression():
    """Each encoder reads what predicts the output along its decoder row; for an autoencoder this is W_enc = W_decᵀ."""
    source = PlantedMap(0)
    batch = source.batch(4096, "start")
    M = regression(batch.x, batch.y)
    exact = torch.linalg.lstsq(batch.x - batch.x.mean(0), batch.y - batch.y.mean(0)).solution
    assert (M - exact).norm() < 0.1 * exact.norm()
    coder = coders.new("transcoder", d_in=24, d_out=16, d_sae=64, settings="k=2")
    before = fvu(coder, batch)
    coder.initialise(batch)
    assert fvu(coder, batch) < 0.9 < before
    same = coders.new("transcoder", d_in=16, d_sae=32, settings="k=2")
    same.initialise(toy_batch(same, n=4096))
    assert torch.cosine_similarity(same.W_enc.T, same.W_dec).mean() > 0.9


def test_input_is_centred_by_its_own_mean_alone():
    coder = coders.new("transcoder", d_in=16, d_sae=32, settings="k=4")
    batch = toy_batch(coder)
    coder.initialise(batch)
    z = coder.encode(batch.x).z
    with torch.no_grad():
        coder.inner.b_dec += 5
    assert torch.equal(coder.encode(batch.x).z, z), "b_dec is the output's"
    torch.testing.assert_close(coder.b_in, batch.x.mean(0))


@pytest.mark.parametrize("of", KINDS)
@pytest.mark.parametrize("d_out", [16, 12])
def test_folded_is_an_architecture_of_its_own(of, d_out):
    coder = ready(lambda seed: coders.new("transcoder", seed=seed, d_in=16, d_sae=32, d_out=d_out, of=of, settings=KINDS[of]))
    x = toy_batch(coder).x
    before = coder.eval()(x)
    coder.rescale(2.0, 3.0)
    form, x = coder.folded(), x / 2
    torch.testing.assert_close(coder(x) * 3, before, rtol=1e-4, atol=1e-5)
    assert type(form) in (type(coder.inner), JumpReLU)
    torch.testing.assert_close(form(x), coder(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(form.clone()(x), coder(x), rtol=1e-4, atol=1e-5)  # as it is after saving and loading
    assert torch.equal(form.encode(x).latents.fired(), coder.encode(x).latents.fired())


def test_what_the_trainer_asks_is_the_inner_coders():
    relu, topk = (coders.new("transcoder", d_in=8, d_sae=16, of=of, settings=s) for of, s in (("relu", ""), ("topk", "k=3")))
    assert (relu.penalised, topk.penalised) == (True, False)
    assert (relu.wanted_l0, topk.wanted_l0) == (None, 3.0)
    topk.fraction = 0.25
    assert topk.fraction == topk.inner.fraction == 0.25


def test_settings_are_read_strictly():
    assert parsed("") == {}
    assert parsed(" k = 3 , aux_weight=0,k_aux=None") == {"k": "3", "aux_weight": "0", "k_aux": None}
    assert parsed("fractions=1/4,1/2,1,k=8") == {"fractions": "1/4,1/2,1", "k": "8"}
    for broken in ("k", "k=", "=3", "k=1,k=2", "k=1,", "a b=1"):
        with pytest.raises(BadInput, match=r"settings must read like|valid integer"):
            coders.new("transcoder", d_in=8, d_sae=16, settings=broken)

    def make(of, settings):
        return coders.new("transcoder", d_in=8, d_sae=16, of=of, settings=settings).inner.config

    config = make("matryoshka", "fractions=1/4,1,k=8,aux_weight=0")
    assert (config.fractions, config.k, config.aux_weight, config.d_sae) == ("1/4,1", 8, 0.0, 16)
    assert make("matryoshka", written(config)) == config
    with pytest.raises(BadInput, match=r"settings of topk: k: .*valid integer.* \(got '3.5'\)"):
        make("topk", "k=3.5")
    with pytest.raises(UnknownName, match=r"No setting of topk named 'kk'. Did you mean 'k'\?"):
        make("topk", "kk=3")
    with pytest.raises(UnknownName, match="No setting of topk named 'd_in'"):
        make("topk", "d_in=3")
    with pytest.raises(UnknownName, match=r"No architecture named 'topkk'"):
        make("topkk", "")


@pytest.mark.parametrize("of", ["matching_pursuit", "pca", "random", "transcoder", "crosscoder"])
def test_what_cannot_be_composed_is_refused(of):
    with pytest.raises(BadInput, match=rf"{of} has no linear encoder, .* Choose of: .*topk"):
        coders.new("transcoder", d_in=8, d_sae=16, of=of)
