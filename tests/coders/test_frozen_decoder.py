"""frozen_decoder: what encoder and biases alone can learn."""

from __future__ import annotations

import pytest
import torch

from assay import baselines, coders
from assay.activations.planted import Planted
from assay.activations.score import score
from assay.errors import BadInput
from assay.registry import CODERS
from assay.train import TrainConfig, train

D, LATENTS, K = 32, 96, 4


def frozen(of="topk", settings=f"k={K}", **more):
    return coders.new("frozen_decoder", d_in=D, d_sae=LATENTS, of=of, settings=settings, **more)


def taught(some, source, **more):
    cfg = {"tokens": 250 * 256, "batch": 256, "lr": 8e-3, "dead_after": 10_000, "held_out_vectors": 0} | more
    for _ in train(some, source, TrainConfig(**cfg)):
        pass


@pytest.mark.parametrize("of", ["topk", "batch_topk", "matryoshka", "relu", "gated", "jumprelu", "p_anneal"])
def test_the_decoder_has_not_moved(of):
    settings = f"k={K}" if "k" in {s.name for s in CODERS.settings(of)} else ""
    coder = frozen(of, settings)
    before = {name: value.clone() for name, value in coder.state_dict().items()}
    taught({"a": coder}, Planted(D, 64), tokens=40 * 256, dead_after=2000)
    after = coder.state_dict()
    assert torch.equal(after["inner.W_dec"], before["inner.W_dec"]), "to the bit"
    assert torch.equal(coder.W_dec, before["inner.W_dec"])
    for name in ("inner.W_enc", "inner.b_enc", "inner.b_dec"):
        assert not torch.equal(after[name], before[name]), name


def test_it_begins_as_its_twin_does():
    twin = coders.new("batch_topk", d_in=D, d_sae=LATENTS, k=K, seed=7)
    assert torch.equal(frozen("batch_topk", seed=7).W_dec, twin.W_dec)
    assert not torch.equal(frozen("batch_topk", seed=8).W_dec, twin.W_dec)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_is_over_random_and_under_trained(seed):
    source = Planted(D, 64, seed)
    some = {"frozen": frozen(seed=seed), "trained": coders.new("topk", d_in=D, d_sae=LATENTS, k=K, seed=seed)}
    taught(some, source)
    some |= baselines.matched({"trained": some["trained"]}, source, ["random"], seed=seed)
    found = {name: score(coder, source, 4096) for name, coder in some.items()}
    floor, middle, top = (found[name] for name in (f"random-k{K}", "frozen", "trained"))
    assert middle["l0"] == pytest.approx(top["l0"], abs=0.2) == pytest.approx(floor["l0"], abs=0.2)
    # Of three seeds: .37 to .39, .42 to .43, .86 to .87; frozen over random by .040 to .052.
    assert floor["explained_variance"] + 0.025 < middle["explained_variance"] < top["explained_variance"] - 0.35
    assert abs(middle["mcc"] - floor["mcc"]) < 0.05, "its directions are random"
    assert top["mcc"] > middle["mcc"] + 0.4


def test_it_is_a_baseline_that_learns():
    coder = frozen()
    assert coder.baseline and coder.trained
    tagged = set(CODERS.names(tag="baseline"))
    for name in CODERS:
        one = coders.new(name, d_in=16, d_sae=32)
        assert one.baseline == (name in tagged), name


@pytest.mark.parametrize("how", ["resample", "ghost"])
def test_what_would_move_it_is_refused(how):
    with pytest.raises(BadInput, match="FrozenDecoder has no parameters W_dec"):
        taught({"a": frozen("relu", "")}, Planted(D, 64), tokens=40 * 256, revive=how, dead_after=1000)
