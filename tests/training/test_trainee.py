"""What `assay.train` can be told: optimisers, averages, schedules, a wanted L0, settings of each coder; and what stops a coder."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from assay import coders
from assay.activations.planted import Planted
from assay.coders.base import Batch
from assay.errors import BadInput, NotFinite, OutOfMemory
from assay.store import Store
from assay.sweep import sweep
from assay.train import TrainConfig, train
from assay.training.control import Controller
from assay.training.optim import lr_factor
from assay.training.trainee import Trainee, held_out_look

CFG = TrainConfig(tokens=64 * 60, batch=64, lr=3e-3, log_every=20, dead_after=1000, held_out_vectors=256)
SOURCE = Planted(d=16, latents=32, seed=0)


def with_(**settings):
    return TrainConfig(**{**{f: getattr(CFG, f) for f in CFG.__dataclass_fields__}, **settings})


def make(name="topk", **settings):
    return coders.new(name, d_in=16, d_sae=32, **({"k": 3} if name == "topk" else {}), **settings)


def weights(coder):
    return torch.cat([p.detach().reshape(-1) for p in coder.parameters()])


@pytest.mark.parametrize(
    "settings",
    [
        {"optimiser": "muon"}, {"optimiser": "signum", "lr": 1e-3}, {"ema": 0.9}, {"schedule": "cosine", "decay": 1.0},
        {"normalise": "root_d"}, {"normalise": "none"}, {"b_dec": "median"}, {"b_dec": "zeros"}, {"tied": False},
        {"revive": "resample", "resample_at": (0.3, 0.6), "dead_after": 64}, {"revive": "ghost", "dead_after": 64},
        {"revive": "aux_k", "dead_after": 64}, {"revive": "none"}, {"beta1": 0.0, "clip": 0.0}, {"l0": 3.0},
        {"l0": 3.0, "optimiser": "muon", "ema": 0.9, "revive": "resample", "resample_at": (0.3, 0.6), "dead_after": 64},
    ],
    ids=lambda s: " ".join(f"{k}={v}" for k, v in s.items()),
)  # fmt: skip
@pytest.mark.parametrize("name", ["topk", "relu", "jumprelu"])
def test_every_way_of_training_learns_and_resumes_bit_for_bit(name, settings, tmp_path):
    cfg = with_(**settings, checkpoint_seconds=0)
    whole, again = {"a": make(name)}, {"a": make(name)}
    rows = list(train(whole, SOURCE, cfg))
    assert rows[-1].metrics["fvu"] < rows[0].metrics["fvu"]
    half = train({"a": make(name)}, SOURCE, cfg, resume=tmp_path / "c")
    while next(half).step < 40:
        pass
    half.close()
    tail = list(train(again, SOURCE, cfg, resume=tmp_path / "c"))
    assert torch.equal(weights(whole["a"]), weights(again["a"]))
    assert tail[-1].metrics == rows[-1].metrics
    assert tail[-1].density == rows[-1].density


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "lr"), [(500, 1e-3), (1500, 3e-3)])
@pytest.mark.parametrize("name", ["relu", "gated", "p_anneal", "jumprelu"])
def test_controller_lands_on_the_wanted_l0(name, steps, lr):
    """Within 5 % on fresh vectors; with time enough, whatever weight the penalty began with."""
    lr = 3e-3 if name == "jumprelu" else lr  # its thresholds move by no more than this a step, in ratios
    cfg = TrainConfig(tokens=256 * steps, batch=256, lr=lr, l0=4.0, log_every=100)
    source = Planted(d=32, latents=64, seed=1)
    starts = {n: s for n, s in _starts(name).items() if steps > 500 or n == "default"}
    some = {n: coders.new(name, d_in=32, d_sae=64, **s) for n, s in starts.items()}
    list(train(some, source, cfg))
    x = source.codes(8192, seed=99)[0]
    for label, coder in some.items():
        assert coder.encode(x).latents.l0().mean().item() == pytest.approx(4.0, rel=0.05), label


def _starts(name):
    key = "sparsity" if name == "jumprelu" else "l1"
    wide = {"bandwidth": 0.1} if name == "jumprelu" else {}
    return {"default": wide, "weak": {key: 0.003, **wide}, "strong": {key: 0.2, **wide}}


def test_a_wanted_l0_that_k_contradicts_is_refused():
    with pytest.raises(BadInput, match="made for an L0 of 3, the training asks for 7"):
        next(train({"a": make()}, SOURCE, with_(l0=7)))
    list(train({"a": make()}, SOURCE, with_(l0=3)))


def test_controller_on_a_plant_that_is_known():
    """L0 = 100 / weight, reached with a lag: settles at the weight that gives the wanted L0."""
    steps, l0 = 2000, 100.0
    controller = Controller(5.0, steps)
    for _ in range(steps):
        l0 *= (100.0 / controller.pressure / l0) ** 0.05
        controller.observe(l0)
    assert l0 == pytest.approx(5.0, rel=0.01)
    assert controller.pressure == pytest.approx(20.0, rel=0.05)


def test_average_is_of_the_weights_over_steps():
    """With one step: a tenth of the start, whatever the decay, which is shorter while there are few steps."""
    cfg = with_(tokens=64, ema=0.75, normalise="none", b_dec="zeros", warm_up=0, decay=0)
    start, there, mean = make("relu"), make("relu"), make("relu")
    list(train({"a": there}, SOURCE, with_(tokens=64, normalise="none", b_dec="zeros", warm_up=0, decay=0)))
    list(train({"a": mean}, SOURCE, cfg))
    torch.testing.assert_close(mean.W_enc, 0.1 * start.W_enc + 0.9 * there.W_enc)
    torch.testing.assert_close(mean.W_dec.norm(dim=1), torch.ones(32))


def test_signum_moves_every_weight_by_lr():
    cfg = with_(tokens=64, optimiser="signum", normalise="none", b_dec="zeros", warm_up=0, decay=0, clip=0)
    start, there = make("relu", l1=0.5), make("relu", l1=0.5)
    list(train({"a": there}, SOURCE, cfg))
    moved = (there.W_enc - start.W_enc).abs()
    assert ((moved - 3e-3).abs().le(1e-6) | (moved == 0)).all()
    assert (moved > 0).any()


def test_cosine_schedule():
    factors = [lr_factor(i, 100, 0.0, 1.0, "cosine") for i in range(100)]
    assert factors[0] == pytest.approx(1.0)
    assert factors[50] == pytest.approx(0.5)
    assert factors[75] == pytest.approx(0.5 - 0.5 * math.cos(math.pi * 0.25))
    assert all(a >= b for a, b in itertools.pairwise(factors))


def test_normalisation_is_undone():
    """Whatever the scale in training, the coder that comes out reads the data as they are."""
    x = SOURCE.codes(2048, seed=5)[0]
    for how in ("unit", "root_d", "none"):
        coder = make()
        last = list(train({"a": coder}, SOURCE, with_(normalise=how)))[-1]
        fvu = ((x - coder(x)).square().sum() / (x - x.mean(0)).square().sum()).item()
        assert fvu == pytest.approx(last.metrics["held_out_fvu"], rel=0.1), how


def test_the_last_row_is_what_the_saved_file_does(tmp_path):
    """Held-out figures are of the inference form of the file, exactly."""
    from assay.formats import native

    store = Store(tmp_path)
    some = {n: make(n) for n in ("topk", "relu", "gated")} | {"batch_topk": make("batch_topk", k=3)}
    rows: dict[str, dict[str, float]] = {}
    paths = sweep(some, SOURCE, with_(ema=0.9), store, listen=lambda row: rows.update({row.coder: dict(row.metrics)}))
    for name, path in paths.items():
        again = held_out_look(native.read(path), SOURCE.held_out(256))
        assert again == {k: rows[name][k] for k in again}


def test_each_coder_may_have_its_own_settings():
    alone, together = make(), make()
    list(train({"a": alone}, SOURCE, with_(lr=1e-3)))
    list(train({"b": make(), "a": together}, SOURCE, CFG, each={"a": with_(lr=1e-3)}))
    assert torch.equal(weights(alone), weights(together))
    with pytest.raises(BadInput, match="asks for batch=32, the run for 64"):
        next(train({"a": make()}, SOURCE, CFG, each={"a": with_(batch=32)}))
    with pytest.raises(BadInput, match="no such coder"):
        next(train({"a": make()}, SOURCE, CFG, each={"c": CFG}))


def test_fine_tuning_begins_with_the_weights_there_are():
    """With a learning rate next to 0, what comes out is what went in; with a fresh start it is not."""
    coder = make("batch_topk", k=3)
    list(train({"a": coder}, SOURCE, CFG))
    tuned, fresh = coder.clone(), coder.clone()
    list(train({"a": tuned}, SOURCE, with_(tokens=64 * 2, lr=1e-12, fine_tune=True)))
    list(train({"a": fresh}, SOURCE, with_(tokens=64 * 2, lr=1e-12)))
    torch.testing.assert_close(weights(tuned), weights(coder), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(fresh.b_dec, coder.b_dec, atol=1e-3)


def test_one_coder_that_diverges_stops_alone(tmp_path):
    """Its row says why, its siblings' bits do not change, and only they are saved."""
    wild = with_(lr=1e18, clip=0.0, warm_up=0.0)
    calm, beside = make(), make()
    list(train({"calm": calm}, SOURCE, CFG))
    rows = list(train({"wild": make("relu"), "calm": beside}, SOURCE, CFG, each={"wild": wild}))
    stops = [r for r in rows if r.stopped]
    assert [r.coder for r in stops] == ["wild"]
    assert "diverged" in stops[0].stopped or "no longer finite" in stops[0].stopped
    assert torch.equal(weights(calm), weights(beside))
    store = Store(tmp_path)
    for _ in range(2):  # asked again, it says so again, without training anew
        with pytest.raises(NotFinite, match=r"wild.*Saved: calm"):
            sweep({"wild": make("relu"), "calm": make()}, SOURCE, CFG, store, each={"wild": wild})
        assert list(store.names("coders")) == ["calm"]
    with pytest.raises(NotFinite, match="wild"):
        list(train({"wild": make("relu")}, SOURCE, wild))


def test_no_memory_says_which_tensor_and_which_setting(monkeypatch):
    def full(self, x):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to …")

    monkeypatch.setattr(type(make()), "encode", full)
    with pytest.raises(
        OutOfMemory, match=r"training 'a'.*weights with gradients.*lower d_sae.*pre-activations \[batch 64, d_sae 32\]"
    ):
        list(train({"a": make()}, SOURCE, CFG))


def test_terms_of_the_model_take_the_place_of_mse():
    """`Batch.ahead` hears an unscaled reconstruction, and its terms reach the coder's weights."""
    heard = []

    def ahead(y_hat):
        heard.append(y_hat.detach())
        return {"kl": y_hat.square().sum(1).mean()}

    trainee = Trainee("a", make("relu"), CFG)
    x = SOURCE.codes(64, 0)[0]
    metrics, density = trainee.step(Batch(2 * x, 2 * x, ahead=ahead), 0, (2.0, 2.0), log=True)
    assert set(metrics) >= {"kl", "l1", "loss"}
    assert "mse" not in metrics
    assert metrics["loss"] == pytest.approx(metrics["kl"] + metrics["l1"])
    assert heard[0].square().sum(1).mean() < 4 * x.square().sum(1).mean() * 4
    assert sum(density) == 32


def test_density_counts_latents_by_frequency():
    trainee = Trainee("a", make(), CFG)
    trainee.seen += 1000
    trainee.fires += torch.tensor([0, 1, 5, 40, 400, 1000] + [0] * 26)
    density = trainee._density()
    assert density[0] == 27
    assert density[8] == 1, "10⁻³ begins the bin from 10⁻³ to 10^-2.5"
    assert density[9] == 1, "5 · 10⁻³"
    assert density[11] == 1, "4 · 10⁻²"
    assert density[13] == 2, "above 10^-½"
    assert sum(density) == 32
    assert int(trainee.fires.sum()) == 0
