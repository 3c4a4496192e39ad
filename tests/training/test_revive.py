"""Dead latents come back: the exact values and gradients of each way, what it leaves alone, and a race from one start."""

from __future__ import annotations

import functools

import pytest
import torch

from assay import coders
from assay.activations.planted import Planted
from assay.coders.base import Batch, Step
from assay.errors import BadInput, UnknownName
from assay.randomness import generator
from assay.testing import toy_batch
from assay.train import TrainConfig, train
from assay.training import revive
from assay.training.optim import Optimiser

ALL = {
    "relu": {},
    "relu free": {"decoder": "free"},
    "relu uncentred": {"centred": False},
    "gated": {},
    "p_anneal": {},
    "jumprelu": {},
    "topk": {"k": 4},
    "topk free": {"k": 4, "decoder": "free"},
    "batch_topk": {"k": 4},
    "matryoshka": {"k": 4},
    "transcoder": {"d_out": 10, "settings": "k=4"},
    "transcoder jumprelu": {"d_out": 10, "of": "jumprelu"},
    "skip_transcoder": {"d_out": 10, "of": "relu"},
    "crosscoder": {"of": "relu"},
    "crosscoder joint": {"of": "batch_topk", "settings": "k=4", "norm": "joint"},
}
DEAD = torch.arange(32) % 3 == 0
EVERY = pytest.mark.parametrize("label", ALL)


def make(label, d=16, m=32):
    coder = coders.new(label.split()[0], d_in=d, d_sae=m, **ALL[label])
    coder.initialise(toy_batch(coder, 512))
    return coder.train()


def losses_of(coder, batch):
    code = coder.encode(batch.x)
    return code, dict(coder.loss(batch, code, Step(0.5)))


def learned(coder, steps=3, **settings):
    """The coder and its optimiser after a few steps, with moments that are not 0, and with a scattered bias."""
    with torch.no_grad():
        inner = revive.inner(coder)
        inner.b_enc.add_(0.1 * inner.W_enc.norm(dim=0) * torch.randn(32, generator=generator("scatter")))
    optimiser = Optimiser(list(coder.parameters()), TrainConfig(**settings))
    for i in range(steps):
        batch = toy_batch(coder, name=i)
        optimiser.zero_grad()
        sum(losses_of(coder, batch)[1].values()).backward()
        for p in coder.parameters():  # so that no moment is 0 by chance
            p.grad = torch.randn(p.shape, generator=generator("grad", i)) if p.grad is None else p.grad + 1e-3
        optimiser.step(1e-3)
        coder.constrain()
    return optimiser


@EVERY
def test_a_ghost_is_worth_its_share_of_the_error(label):
    """The value by construction; gradients for dead latents and nothing else, also where they are silent."""
    coder = make(label)
    inner, batch = revive.inner(coder), toy_batch(coder)
    with torch.no_grad():
        inner.b_enc[DEAD] = -5.0
    code, own = losses_of(coder, batch)
    term = revive.terms("ghost", coder, batch, code, own, DEAD)["ghost"]
    assert term.item() == pytest.approx(own["mse"].item() * 11 / 32, rel=1e-6)
    whole = revive.terms("ghost", coder, batch, code, own, DEAD, scaled=False)["ghost"]
    assert whole.item() == own["mse"].item()
    term.backward()
    for name, p in inner.named_parameters():
        if name in ("W_enc", "b_enc", "W_dec"):
            grad = p.grad if name != "W_enc" else p.grad.T
            assert (grad[~DEAD] == 0).all(), f"{name} of living latents"
            assert (grad[DEAD].reshape(11, -1).abs().sum(1) > 0).all(), f"{name} of dead latents"
        else:
            assert p.grad is None, name
    none = revive.terms("ghost", coder, batch, code, own, torch.zeros(32, dtype=torch.bool))["ghost"]
    assert none.item() == 0


def test_ghost_gradients_are_those_of_the_formula():
    """e = sg(y − ŷ); g = exp(z) W; g · sg(‖e‖ / 2‖g‖); ‖e − g‖² · sg(mse / ‖e − g‖²) · n/M, written out in double precision."""
    coder = make("relu").double()
    with torch.no_grad():
        coder.b_enc[DEAD] = -3.0
    batch = Batch.of(toy_batch(coder).x.double())
    code, own = losses_of(coder, batch)
    weights = [coder.W_enc, coder.b_enc, coder.W_dec]
    ours = torch.autograd.grad(revive.terms("ghost", coder, batch, code, own, DEAD)["ghost"], weights)
    e = (batch.y - coder(batch.x)).detach()
    z = (batch.x - coder.b_dec.detach()) @ coder.W_enc + coder.b_enc
    g = (z.exp() * DEAD) @ coder.W_dec
    g = g * (e.norm(dim=1, keepdim=True) / (2 * g.norm(dim=1, keepdim=True))).detach()
    missed = (e - g).square().sum(1).mean()
    theirs = torch.autograd.grad(missed * (own["mse"] / missed).detach() * 11 / 32, weights)
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("bias", [-1000.0, 1000.0])
def test_ghosts_of_extreme_latents_are_finite_and_pull(bias):
    coder = make("relu")
    batch = toy_batch(coder)
    code, own = losses_of(coder, batch)
    with torch.no_grad():
        coder.b_enc[DEAD] = bias
    revive.terms("ghost", coder, batch, code, own, DEAD)["ghost"].backward()
    assert torch.isfinite(coder.W_enc.grad).all()
    assert (coder.b_enc.grad[DEAD] != 0).any()


@EVERY
def test_aux_k_is_added_once_and_reaches_silent_latents(label):
    coder = make(label)
    inner, batch = revive.inner(coder), toy_batch(coder)
    with torch.no_grad():
        inner.b_enc[DEAD] = -5.0
    code, own = losses_of(coder, batch)
    added = revive.terms("aux_k", coder, batch, code, own, DEAD)
    if inner.penalised:
        added["aux_k"].backward()
        assert added["aux_k"].item() > 0
        assert (inner.W_enc.grad[:, ~DEAD] == 0).all()
        assert (inner.b_enc.grad[DEAD] != 0).any()
        assert revive.terms("aux_k", coder, batch, code, own, torch.zeros(32, dtype=torch.bool))["aux_k"] == 0
    else:
        assert "aux_k" in own
        assert added == {}


def test_added_aux_k_weighs_as_topk_does():
    """Dead latents that say nothing leave all of the error: 1/32, once all k_aux = d/2 of them are there."""
    coder = make("relu")
    batch = toy_batch(coder)
    with torch.no_grad():
        coder.W_dec[DEAD] = 0.0
    code, own = losses_of(coder, batch)
    error = (batch.y - coder.decode(code)).detach()
    relative = error.square().sum() / (error - error.mean(0)).square().sum()
    assert revive.terms("aux_k", coder, batch, code, own, DEAD)["aux_k"].item() == pytest.approx(relative.item() / 32, rel=1e-5)


@EVERY
def test_resampling_changes_dead_latents_and_nothing_else(label):
    coder = make(label)
    optimiser, inner, batch = learned(coder), revive.inner(coder), toy_batch(coder, name="new")
    before = {k: v.clone() for k, v in coder.state_dict().items()}
    error = (batch.y - coder(batch.x)).detach()
    assert revive.resample(coder, optimiser, batch, DEAD, 0, 7) == 11
    prefix = "" if inner is coder else "inner."
    for name, after in coder.state_dict().items():
        old, new = before[name], after
        if (short := name.removeprefix(prefix)) in revive.OF_LATENTS:
            old, new = (old.T, new.T) if short == "W_enc" else (old, new)
            torch.testing.assert_close(new[~DEAD], old[~DEAD], rtol=1e-6, atol=1e-7)  # rows of norm 1 are made so again
            assert (new[DEAD] != old[DEAD]).any(), name
        else:
            assert torch.equal(new, old), name
    alive = inner.W_enc[:, ~DEAD].norm(dim=0).mean()
    size = revive.LOUD if hasattr(inner, "log_threshold") or not inner.penalised else revive.SOFT
    torch.testing.assert_close(inner.W_enc[:, DEAD].norm(dim=0), (size * alive).expand(11))
    if label in ("transcoder", "transcoder jumprelu"):
        cosine = torch.nn.functional.cosine_similarity(inner.W_dec[DEAD][:, None], error, dim=2)
        torch.testing.assert_close(cosine.amax(1), torch.ones(11))
    if label.startswith(("relu", "topk", "gated")):
        torch.testing.assert_close(revive.unit_rows(inner.W_dec[DEAD]), revive.unit_rows(inner.W_enc.T[DEAD]))
        toward = torch.nn.functional.cosine_similarity(inner.W_dec[DEAD][:, None], batch.x - inner.b_dec, dim=2)
        torch.testing.assert_close(toward.amax(1), torch.ones(11))
    constrained = coder.W_dec.clone()
    coder.constrain()
    torch.testing.assert_close(coder.W_dec, constrained)


@EVERY
def test_resampled_latents_fire(label):
    """On vectors like those they were drawn from, nearly all of them: a latent that does not was resampled in vain."""
    coder = make(label)
    inner = revive.inner(coder)
    optimiser = learned(coder)
    batch = toy_batch(coder, 512, name="new")
    with torch.no_grad():
        inner.b_enc[DEAD] = -50.0
    assert not coder.encode(batch.x).latents.fired()[DEAD].any()
    revive.resample(coder, optimiser, batch, DEAD, 0, 0)
    fired = coder.encode(batch.x).latents.fired()[DEAD]
    assert fired.float().mean() > 0.7, fired


@pytest.mark.parametrize("how", ["adam", "muon", "signum"])
@pytest.mark.parametrize("label", ["jumprelu", "gated", "crosscoder", "skip_transcoder"])
def test_moments_of_resampled_latents_are_forgotten(label, how):
    """Exactly theirs."""
    coder = make(label)
    optimiser, inner = learned(coder, optimiser=how), revive.inner(coder)
    names = {p: name for name, p in inner.named_parameters()}
    moments = [
        (names.get(p), moment, moment.clone())
        for p in coder.parameters()
        for moment in optimiser.state(p).values()
        if moment.shape == p.shape
    ]
    assert len(moments) == len(list(coder.parameters())) * (1 if how == "signum" else 2) - (2 if how == "muon" else 0) - (
        how == "muon" and label == "skip_transcoder"
    )
    revive.resample(coder, optimiser, toy_batch(coder), DEAD, 0, 0)
    for name, now, then in moments:
        if name in revive.OF_LATENTS:
            now, then = (now.T, then.T) if name == "W_enc" else (now, then)
            assert (now[DEAD] == 0).all(), name
            assert (then[DEAD] != 0).any(), name
            assert torch.equal(now[~DEAD], then[~DEAD]), name
        else:
            assert torch.equal(now, then), name


def test_thresholds_and_gates_start_anew():
    coder = make("jumprelu")
    optimiser = learned(coder)
    with torch.no_grad():
        coder.log_threshold.copy_(torch.linspace(-3, 0, 32))
        coder.log_threshold[DEAD] = 5.0
    revive.resample(coder, optimiser, toy_batch(coder), DEAD, 0, 0)
    assert (coder.log_threshold[DEAD] == coder.log_threshold[~DEAD].median()).all()
    coder = make("gated")
    optimiser = learned(coder)
    revive.resample(coder, optimiser, toy_batch(coder), DEAD, 0, 0)
    for p in (coder.r_mag, coder.b_mag, coder.b_enc):
        assert (p[DEAD] == 0).all()
        assert (p[~DEAD] != 0).all()


def test_without_centring_the_bias_does_it():
    """A resampled latent reads x − b_dec, whether or not its siblings do."""
    coder = make("relu uncentred")
    revive.resample(coder, learned(coder), toy_batch(coder), DEAD, 0, 0)
    at_centre = coder.pre_activations(coder.b_dec[None])[0]
    torch.testing.assert_close(at_centre[DEAD], torch.zeros(11), atol=1e-6, rtol=0)


@pytest.mark.parametrize("label", ["transcoder", "skip_transcoder", "crosscoder"])
def test_composed_coders_are_resampled_as_the_inner_one_sees_the_data(label):
    """Behind a transcoder's b_in, and a crosscoder's scales of sites: 0 at the centre, reading along inputs from there."""
    coder, batch = make(label), toy_batch(make(label), name="new")
    if label == "crosscoder":
        batch = Batch.of(torch.cat([batch.x[:, :8], 10 * batch.x[:, 8:]], dim=1))
        coder.initialise(batch)
    optimiser, inner, inside = learned(coder), revive.inner(coder), coder.inside(batch)
    revive.resample(coder, optimiser, batch, DEAD, 0, 0)
    centre = inner.b_dec if label == "crosscoder" else inside.x.mean(0)
    torch.testing.assert_close(inner.pre_activations(centre[None])[0, DEAD], torch.zeros(11), atol=1e-6, rtol=0)
    cosine = torch.nn.functional.cosine_similarity(inner.W_enc.T[DEAD][:, None], inside.x - centre, dim=2)
    torch.testing.assert_close(cosine.amax(1), torch.ones(11))


def test_resampling_depends_on_seed_and_step_alone():
    results = []
    for seed, step in [(0, 5), (0, 5), (1, 5), (0, 6)]:
        coder = make("topk")
        optimiser = learned(coder)
        torch.manual_seed(len(results))
        revive.resample(coder, optimiser, toy_batch(coder), DEAD, seed, step)
        results.append(coder.W_dec.detach())
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    assert not torch.equal(results[0], results[3])


def test_inputs_are_drawn_by_squared_loss():
    loss = torch.tensor([0.0, 1.0, 2.0, 3.0])
    draws = torch.cat([revive._drawn(loss, 1, 0, i) for i in range(2000)])
    share = torch.bincount(draws, minlength=4) / 2000
    torch.testing.assert_close(share, torch.tensor([0, 1, 4, 9]) / 14, atol=0.035, rtol=0)
    assert sorted(revive._drawn(loss, 3, 0, 0).tolist()) == [1, 2, 3], "none twice"
    assert len(revive._drawn(loss, 9, 0, 0)) == 9, "more latents than tokens"
    assert len(revive._drawn(torch.zeros(4), 3, 0, 0)) == 3, "nothing to choose by"
    assert len(revive._drawn(loss * 1e30, 3, 0, 0)) == 3


def test_all_dead_or_none():
    coder = make("relu")
    optimiser = learned(coder)
    before = coder.W_dec.clone()
    assert revive.resample(coder, optimiser, toy_batch(coder), torch.zeros(32, dtype=torch.bool), 0, 0) == 0
    assert torch.equal(coder.W_dec, before)
    assert revive.resample(coder, optimiser, toy_batch(coder, 8), torch.ones(32, dtype=torch.bool), 0, 0) == 32
    assert torch.isfinite(coder(toy_batch(coder).x)).all()


def test_what_cannot_be_revived_says_so():
    coder = coders.new("matching_pursuit", d_in=16, d_sae=32, k=2, aux_weight=0.0).train()
    batch = toy_batch(coder)
    code, own = losses_of(coder, batch)
    with pytest.raises(BadInput, match=r"MatchingPursuit has no parameters W_enc, b_enc.*revive=own"):
        revive.terms("ghost", coder, batch, code, own, DEAD)
    coder = coders.new("topk", d_in=16, d_sae=32, k=2, aux_weight=0.0).train()
    code, own = losses_of(coder, batch)
    with pytest.raises(BadInput, match="aux_weight=0 turns off the AuxK that TopK brings"):
        revive.terms("aux_k", coder, batch, code, own, DEAD)
    with pytest.raises(UnknownName, match="Did you mean 'ghost'"):
        revive.terms("ghosts", coder, batch, code, own, DEAD)


D, M, STEPS, SIZE = 32, 128, 800, 256
FORCED = M // 2


def raced(name, kind, seed, monkeypatch=None, steps=STEPS, **settings):
    """Train from a start with half of the latents silenced: (shares dead of all and of those, rows)."""
    source = Planted(d=D, latents=M, seed=seed)
    coder = coders.new(name, d_in=D, d_sae=M, seed=seed, **settings)
    coder.initialise(Batch.of(source.codes(4096, 9)[0]))
    with torch.no_grad():
        coder.W_enc[:, :FORCED] *= 0.3
        coder.b_enc[:FORCED] = -1.0
        assert not coder.eval().encode(source.codes(4096, 9)[0]).latents.fired()[:FORCED].any()
    cfg = TrainConfig(
        tokens=SIZE * steps, batch=SIZE, lr=3e-3, dead_after=SIZE * 20, log_every=1, held_out_vectors=0, seed=seed,
        normalise="none", revive="ghost" if kind == "unscaled" else kind, fine_tune=True,
    )  # fmt: skip
    if kind == "unscaled":
        monkeypatch.setattr(revive, "terms", functools.partial(revive.terms, scaled=False))
    rows = list(train({"a": coder}, source, cfg))
    fired = coder.encode(source.codes(16_384, 77)[0]).latents.fired()
    return 1 - fired.float().mean().item(), 1 - fired[:FORCED].float().mean().item(), rows


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_race_from_one_start(seed, monkeypatch):
    """Of a ReLU coder with half its latents silenced: all stay so with nothing done; ghosts bring back most, the others all."""
    forced = {}
    for kind in ("none", "aux_k", "ghost", "resample", "unscaled"):  # the last one leaves its mark
        dead, forced[kind], _ = raced("relu", kind, seed, monkeypatch)
        assert dead == pytest.approx(forced[kind] / 2, abs=0.02), "the living stay alive"
    assert forced["none"] == 1.0
    assert forced["ghost"] < 0.2
    assert forced["unscaled"] < 0.2
    assert forced["aux_k"] < 0.02
    assert forced["resample"] < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gated", "jumprelu", "p_anneal", "topk"])
def test_silenced_latents_of_other_architectures_come_back(name):
    """AuxK and resampling revive more than 80 % of them (half in jumprelu, by resampling); without, they stay as they are."""
    settings = {"k": 4, "aux_weight": 0.0} if name == "topk" else {}
    assert raced(name, "none", 0, **settings)[1] > 0.95
    assert raced(name, "resample", 0, **settings)[1] < (0.5 if name == "jumprelu" else 0.2)
    if name != "topk":  # whose own AuxK is tested where it lives
        assert raced(name, "aux_k", 0)[1] < 0.2


@pytest.mark.parametrize("name", ["relu", "topk"])
def test_first_ghosts_leave_the_error_as_it_is(name):
    """They come in at step 20 at full strength; the error goes on as it does without them."""
    settings = {"k": 4, "aux_weight": 0.0} if name == "topk" else {}
    without, ghosts = ([row.metrics for row in raced(name, kind, 0, steps=45, **settings)[2]] for kind in ("none", "ghost"))
    assert "ghost" in ghosts[20]
    assert ghosts[20]["ghost"] == pytest.approx(ghosts[20]["mse"] / 2, rel=1e-5)
    assert ghosts[19]["ghost"] == 0
    assert max(g["mse"] / n["mse"] for g, n in zip(ghosts, without)) < 1.01


def test_the_learning_rate_rises_anew_after_a_resampling():
    source, coder = Planted(d=16, latents=32, seed=0), coders.new("relu", d_in=16, d_sae=32)
    cfg = TrainConfig(
        tokens=64 * 100,
        batch=64,
        revive="resample",
        resample_at=(0.5,),
        dead_after=64,
        warm_up=0.1,
        decay=0.0,
        log_every=1,
        held_out_vectors=0,
        lr=1e-3,
    )
    with torch.no_grad():
        coder.b_enc[:8] = -10.0  # there must be someone to resample
    lr = [row.metrics["lr"] for row in train({"a": coder}, source, cfg)]
    assert lr[49] == 1e-3
    assert lr[50] == pytest.approx(1e-4)
    assert lr[59] == 1e-3
