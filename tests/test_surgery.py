"""Surgery: what is taken out, merged or moved shows in numbers that are known beforehand."""

from __future__ import annotations

import json
import math

import pytest
import torch

from assay import coders, surgery
from assay.activations import Planted
from assay.coders.base import Batch
from assay.errors import BadInput, NotFinite, WidthMismatch
from assay.formats import native
from assay.randomness import generator
from assay.surgery.patient import look
from assay.surgery.thresholds import _recalibrated

D, LATENTS, DEAD = 24, 40, 5
SETTINGS = {
    "relu": {}, "gated": {}, "jumprelu": {}, "p_anneal": {}, "topk": {"k": 3}, "batch_topk": {"k": 3},
    "matryoshka": {"k": 3, "fractions": "1/4,1/2,1"},
    "free": {"architecture": "batch_topk", "k": 3, "decoder": "free"},
    "free_topk": {"architecture": "topk", "k": 3, "decoder": "free"},
    "free_relu": {"architecture": "relu", "decoder": "free"},
    "free_jumprelu": {"architecture": "jumprelu", "decoder": "free"},
    "transcoder": {"settings": "k=3"}, "crosscoder": {"settings": "k=3"}, "skip_transcoder": {"of": "jumprelu"},
    "transcoder_relu": {"architecture": "transcoder", "of": "relu", "settings": "decoder=free"},
    "crosscoder_matryoshka": {"architecture": "crosscoder", "of": "matryoshka", "settings": "fractions=1/4,1,k=3"},
}  # fmt: skip
LINEAR = [name for name in SETTINGS if "coder" not in name]
COUNTED = ["topk", "free_topk", "transcoder"]  # exactly k latents
SOURCE = Planted(d=D, latents=LATENTS, seed=0)
BOUND = 0.18
ROWS = SOURCE.directions
READ = torch.linalg.lstsq(*SOURCE.codes(8192, 4), driver="gelsd").solution  # the best linear guess of each feature
READ = READ / (ROWS * READ.T).sum(1)  # without shrinkage


def new(name: str, d_sae: int = LATENTS):
    settings = dict(SETTINGS[name])
    return coders.new(settings.pop("architecture", name), d_in=D, d_sae=d_sae, **settings)


@torch.no_grad()
def planted(name: str, seed: int = 0):
    """A coder of the true directions, with thresholds around BOUND or k latents; every eighth latent is dead."""
    coder, random = new(name).eval(), generator("planted coder", seed)
    inner, mean = getattr(coder, "inner", coder), 0.1 * SOURCE.codes(4096, 3)[0].mean(0)
    length = torch.rand(LATENTS, generator=random) + 0.5 if inner.free else torch.ones(LATENTS)
    theta = BOUND * (0.7 + 0.6 * torch.rand(LATENTS, generator=random))
    inner.W_dec.copy_(ROWS * length[:, None])
    inner.W_enc.copy_(READ / length)
    inner.b_dec.copy_(mean)
    if not inner.centred:
        inner.b_enc.copy_(-mean @ inner.W_enc)
        if hasattr(coder, "b_in"):
            coder.b_in.copy_(mean / 2)
            inner.b_enc.add_(coder.b_in @ inner.W_enc)
    kind = type(inner).__name__
    if kind in ("ReLU", "PAnneal", "Gated"):
        inner.b_enc.sub_(theta / length)
    if kind == "TopK":
        inner.b_enc.add_(0.2 / length)  # else a vector may have fewer than k that are positive
    if kind == "JumpReLU":
        inner.log_threshold.copy_((theta / length).log())
    if kind == "Gated":
        inner.r_mag.copy_(0.1 * torch.randn(LATENTS, generator=random))
        inner.b_mag.copy_(0.05 * torch.randn(LATENTS, generator=random))
    if hasattr(inner, "threshold_batches"):
        inner.threshold.fill_(BOUND)
    if name == "skip_transcoder":
        coder.W_skip.copy_(0.01 * torch.randn(D, D, generator=random))
    inner.b_enc[:: -(-LATENTS // DEAD)] = -50.0
    return coder


@pytest.fixture(scope="module")
def made():
    return {name: planted(name) for name in SETTINGS}


@pytest.fixture(scope="module")
def x():
    return SOURCE.codes(8192, 1)[0]


@pytest.fixture(scope="module")
def fresh():
    return SOURCE.codes(32_768, 2)[0]


def nearly(a, b):
    """Equal but for vectors on which rounding moves a latent across its threshold."""
    assert ((a - b).abs().amax(1) < 1e-5).double().mean() > 0.999


def lands(coder, l0, x, fresh):
    """The mean L0 of fresh vectors is `l0` but for chance, which is small."""
    each = coder.encode(fresh).latents.l0()
    chance = float(each.std()) * (1 / len(x) + 1 / len(fresh)) ** 0.5
    assert abs(float(each.mean()) - l0) < 2.5 * chance + 1e-3 * l0
    assert chance < 0.02 * l0


def duplicated(coder, name: str, seed: int, noise: float = 0.1):
    """The coder with every fifth latent twice, the second one's directions off by `noise`."""
    random, numbers = generator("duplicates", seed), torch.arange(1, LATENTS, 5)
    twin = new(name, LATENTS + len(numbers))
    weights, wide = coder.state_dict(), twin.state_dict()
    for key, t in weights.items():
        for axis in (i for i, (a, b) in enumerate(zip(t.shape, wide[key].shape)) if a != b):
            again = t.index_select(axis, numbers)
            if key in ("W_enc", "W_dec"):
                off = torch.randn(again.shape, generator=random) * again.norm(dim=1 - axis, keepdim=True) * noise / D**0.5
                again = again + off
            weights[key] = torch.cat([t, again], axis)
    twin.load_state_dict(weights)
    return twin.eval(), [[i, LATENTS + n] for n, i in enumerate(numbers.tolist())]


@pytest.mark.parametrize("name", ["topk", "jumprelu", "transcoder"])
def test_firing_counts_every_piece(made, x, name):
    coder = made[name]
    expected = (coder.encode(x[:5000]).z != 0).double().mean(0)
    torch.testing.assert_close(surgery.firing(coder, x[:5000]), expected)
    assert coder.encode(x[:5000]).z.any()


@pytest.mark.parametrize("name", SETTINGS)
def test_dead_latents_go_without_a_trace(made, x, name, tmp_path):
    coder = made[name]
    keep = ~surgery.dead(surgery.firing(coder, x))
    pruned, report = surgery.prune(coder, keep, x)
    assert type(pruned) is type(coder)
    assert LATENTS - pruned.d_sae == int((~keep).sum()) >= DEAD
    assert report["kept"] == keep.nonzero()[:, 0].tolist()
    assert not report["folded"]
    torch.testing.assert_close(pruned(x), coder(x), rtol=0, atol=1e-6)
    torch.testing.assert_close(pruned.encode(x).z, coder.encode(x).z[:, keep], rtol=0, atol=1e-6)
    size = {}
    for which, one in {"old": coder, "new": pruned}.items():
        native.write(one, tmp_path / which)
        size[which] = (tmp_path / which / "weights.safetensors").stat().st_size
        torch.testing.assert_close(native.read(tmp_path / which)(x), one(x), rtol=0, atol=0)
    assert size["new"] < size["old"]


def test_matryoshka_keeps_its_prefixes(made, x):
    coder = made["matryoshka"]
    keep = torch.ones(LATENTS, dtype=torch.bool)
    keep[3:8] = keep[10:16] = keep[36:] = False  # 5 of the first 10 stay, 9 of 20, 25 of 40
    pruned, _ = surgery.prune(coder, keep)
    assert pruned.fixed == [5, 9, 25]
    z = torch.zeros(LATENTS).scatter(0, keep.nonzero()[:, 0], torch.rand(25, generator=generator("prefix z")))
    old = coder.reconstructions(coder.encode(x[0]).with_latents(z), coder.fixed)
    new_ = pruned.reconstructions(pruned.encode(x[0]).with_latents(z[keep]), pruned.fixed)
    for a, b in zip(old, new_, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    first = torch.zeros(LATENTS, dtype=torch.bool)
    first[18:] = True  # the shortest prefix is gone for good
    assert surgery.prune(coder, first)[0].fixed == [2, 22]


@pytest.mark.parametrize("name", [*LINEAR, "skip_transcoder", "crosscoder"])
def test_what_dense_latents_contributed_on_average_goes_into_b_dec(made, x, name):
    coder = made[name]
    often = surgery.firing(coder, x)
    keep = ~surgery.dense(often, float(often.sort().values[-9]))
    assert int((~keep).sum()) == 8
    folded, report = surgery.prune(coder, keep, x, fold=True)
    bare, plain = surgery.prune(coder, keep, x, fold=False)
    best, chosen = surgery.prune(coder, keep, x)
    torch.testing.assert_close(folded(x).mean(0), coder(x).mean(0), rtol=0, atol=1e-5)
    torch.testing.assert_close(folded.encode(x).z, bare.encode(x).z, rtol=0, atol=1e-5)
    assert not torch.allclose(bare(x).mean(0), coder(x).mean(0), atol=1e-3)
    assert chosen["after"]["fvu"] == min(report["after"]["fvu"], plain["after"]["fvu"])
    if chosen["before"]["gamma"] < 1.3:  # else reconstructions are too long already, and the mean is better left out
        assert chosen["folded"]
    assert chosen["before"]["fvu"] < chosen["after"]["fvu"] == look(best, Batch.of(x))["fvu"]


@pytest.mark.parametrize(("name", "seed"), [*((name, 0) for name in LINEAR), ("topk", 1), ("topk", 2), ("jumprelu", 1)])
def test_planted_duplicates_are_merged_and_nothing_is_lost(made, x, fresh, name, seed):
    coder = made[name]
    twin, pairs = duplicated(coder, name, seed)
    found = surgery.duplicates(twin, x)
    own = surgery.duplicates(coder, x)
    assert sorted(map(sorted, found)) == sorted(map(sorted, [*own, *pairs]))
    merged, report = surgery.merge(twin, x)
    assert merged.d_sae == twin.d_sae - len(pairs) - len(own)
    assert report["kept"] == list(range(LATENTS))
    was, now = look(coder, Batch.of(fresh))["fvu"], look(merged, Batch.of(fresh))["fvu"]
    assert now < 1.01 * was
    if name == "topk":
        assert look(twin, Batch.of(fresh))["fvu"] > 1.1 * was


@pytest.mark.parametrize("name", [name for name in LINEAR if name != "matryoshka"])
def test_halves_become_a_whole(made, x, fresh, name):
    """A latent as two that each say half of it: the merged one must say twice as much as either."""
    coder = made[name]
    twin, pairs = duplicated(coder, name, 0, noise=0.0)
    halves = torch.tensor(pairs).flatten()
    with torch.no_grad():
        twin.W_enc[:, halves] *= 0.5
        for weight in ("b_enc", "b_mag"):
            if hasattr(twin, weight):
                getattr(twin, weight)[halves] *= 0.5
        if hasattr(twin, "log_threshold"):
            twin.log_threshold[halves] -= math.log(2)
    merged, _ = surgery.merge(twin, x)
    assert merged.d_sae == LATENTS
    assert look(merged, Batch.of(fresh))["fvu"] < 1.01 * look(coder, Batch.of(fresh))["fvu"]
    if not hasattr(coder.config, "k"):  # latents do not compete: those that are longer fire where they did
        torch.testing.assert_close(surgery.firing(merged, x), surgery.firing(coder, x), rtol=0, atol=1e-3)
        old, new_ = coder.encode(x).z[:, 6], merged.encode(x).z[:, 6]
        ratio = (new_ / old)[(old > 0.01) & (new_ > 0)]
        assert len(ratio) > 100
        assert ratio.max() < 1.001 * ratio.min()


def test_latents_that_only_share_a_direction_are_no_duplicates(made, x):
    """Two that fire on different vectors, by opposite encoders; and a chain whose ends are not alike."""
    coder = made["relu"].clone()
    with torch.no_grad():
        coder.W_dec[2] = coder.W_dec[1]
        coder.W_enc[:, 2] = -coder.W_enc[:, 1]
        a, b = torch.eye(D)[0], torch.eye(D)[1]
        for number, turn in zip((5, 6, 8), (0.0, 0.4, 0.8)):
            coder.W_dec[number] = coder.W_enc[:, number] = torch.cos(torch.tensor(turn)) * a + torch.sin(torch.tensor(turn)) * b
    groups = surgery.duplicates(coder, x)
    assert not any({1, 2} <= set(group) for group in groups)
    assert [len(group) for group in groups if {5, 6, 8} & set(group)] in ([3], [2])
    (group,) = [group for group in groups if {5, 6, 8} & set(group)]
    assert len(group) == (3 if group[0] == 6 else 2)


@pytest.mark.parametrize("name", SETTINGS)
def test_l0_lands_on_fresh_vectors(made, x, fresh, name):
    coder = made[name]
    l0 = 2 if name in COUNTED else 0.8 * float(surgery.firing(coder, x).sum())
    moved, report = surgery.recalibrate(coder, x, l0)
    assert report["after"]["l0"] == pytest.approx(l0, rel=1e-3)
    lands(moved, l0, x, fresh)
    assert look(moved, Batch.of(fresh))["fvu"] < 0.6
    assert moved.d_sae == LATENTS


@pytest.mark.parametrize("name", ["jumprelu", "free_jumprelu", "gated", "free_relu"])
@torch.no_grad()
def test_a_shift_and_a_factor_both_land(made, x, name):
    for rule, form in _recalibrated(made[name], x, 3.0):
        assert look(form, Batch.of(x))["l0"] == pytest.approx(3.0, rel=1e-3), rule


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_l0_lands_within_a_percent_whatever_the_dictionary(seed):
    source = Planted(d=48, latents=96, seed=seed)
    sample, fresh = (source.codes(131_072, number)[0] for number in (1, 2))
    for name in ("jumprelu", "batch_topk", "relu"):
        coder = coders.new(name, d_in=48, d_sae=96, seed=seed)
        coder.initialise(Batch.of(sample[:4096]))
        for l0 in (4.0, 9.5):
            moved, _ = surgery.recalibrate(coder.eval(), sample, l0)
            assert float(surgery.firing(moved, fresh).sum()) == pytest.approx(l0, rel=0.01), (name, l0)


@pytest.mark.parametrize("name", ["jumprelu", "free_jumprelu", "gated"])
def test_thresholds_keep_their_relations(made, x, name):
    coder = made[name]
    own = look(coder, Batch.of(x))["l0"]
    moved, report = surgery.recalibrate(coder, x, 1.5 * own)
    assert report["after"]["l0"] == pytest.approx(1.5 * own, rel=0.01)
    old, new_ = (c.folded().threshold.detach() for c in (coder, moved))
    free = old > 1e-6
    spread = (new_ / old if report["rule"] == "factor" else new_ - old)[free & (new_ > 1e-6)]
    assert spread.std() < 1e-4 * spread.abs().mean()


@pytest.mark.parametrize("name", [name for name in SETTINGS if name not in COUNTED])
def test_conversion_is_exact_but_for_topk(made, x, name):
    coder = made[name]
    converted, report = surgery.to_jumprelu(coder, x)
    inner = getattr(converted, "inner", converted)
    assert type(inner).__name__ == "JumpReLU"
    assert hasattr(converted, "inner") == (name == "skip_transcoder")
    nearly(converted(x), coder(x))
    assert report["after"]["fvu"] == pytest.approx(report["before"]["fvu"], rel=1e-3)
    torch.testing.assert_close(surgery.to_jumprelu(coder)[0](x), converted(x))


@pytest.mark.parametrize("name", COUNTED)
def test_topk_is_converted_at_its_own_l0(made, x, fresh, name):
    coder = made[name]
    converted, report = surgery.to_jumprelu(coder, x)
    assert type(converted).__name__ == "JumpReLU"
    assert report["after"]["l0"] == pytest.approx(report["before"]["l0"], rel=1e-3)
    was, now = look(coder, Batch.of(fresh)), look(converted, Batch.of(fresh))
    lands(converted, was["l0"], x, fresh)
    assert now["fvu"] < 1.3 * was["fvu"]
    if report["rule"] == "thresholds":
        torch.testing.assert_close(surgery.firing(converted, x), surgery.firing(coder, x), rtol=0, atol=2e-4)


def test_transcoders_of_other_widths_need_what_they_predict(x):
    coder = coders.new("transcoder", d_in=D, d_out=5, d_sae=32, settings="k=3")
    y = x[:, :5] * 2
    coder.initialise(Batch(x, y))
    coder.eval()
    with pytest.raises(BadInput, match="give y"):
        surgery.recalibrate(coder, x, 2)
    assert surgery.recalibrate(coder, x, 2, y)[1]["after"]["l0"] == pytest.approx(2, rel=0.01)
    assert surgery.prune(coder, ~surgery.dense(surgery.firing(coder, x), 0.5), x, y)[0](x).shape == y.shape
    assert surgery.merge(coder, x, 0.9, y)[0](x).shape == y.shape
    with pytest.raises(WidthMismatch):
        surgery.merge(coder, x, 0.9, y[:, :4])


def test_the_patient_is_not_touched(made, x):
    coder = made["jumprelu"].clone().train()
    before = {name: t.clone() for name, t in coder.state_dict().items()}
    twin, _ = duplicated(coder, "jumprelu", 0)
    for operate in (
        lambda: surgery.prune(coder, surgery.firing(coder, x) < 0.1, x),
        lambda: surgery.merge(twin, x),
        lambda: surgery.merge(coder, x),
        lambda: surgery.recalibrate(coder, x, 2.0),
        lambda: surgery.to_jumprelu(coder, x),
    ):
        found, _ = operate()
        assert found is not coder
        assert not found.training
        for name, t in coder.state_dict().items():
            torch.testing.assert_close(t, before[name], rtol=0, atol=0)
        assert coder.training


def test_hostile_input(made, x):
    relu, topk = made["relu"], made["topk"]
    every, none = torch.ones(LATENTS, dtype=torch.bool), torch.zeros(LATENTS, dtype=torch.bool)
    for keep, message in ((none, "Nothing would be left"), (every[1:], "truth values"), (every.float(), "truth values")):
        with pytest.raises(BadInput, match=message):
            surgery.prune(relu, keep, x)
    with pytest.raises(BadInput, match="give x"):
        surgery.prune(relu, every, fold=True)
    assert surgery.prune(topk, every, x)[0].d_sae == LATENTS
    one = none.clone()
    one[1] = True
    assert surgery.prune(topk, one, x)[0].config.k == 1
    for bound in (-0.1, 1.0, 2.0, float("nan")):
        with pytest.raises(BadInput):
            surgery.dead(torch.zeros(3), bound)
        with pytest.raises(BadInput):
            surgery.dense(torch.zeros(3), bound)
    for cosine in (0.0, -1.0, 1.1, float("nan")):
        with pytest.raises(BadInput, match="cosine"):
            surgery.merge(relu, x, cosine)
    for l0 in (0.0, -3.0, LATENTS, 1e9, float("nan"), float("inf")):
        with pytest.raises(BadInput, match="A mean L0"):
            surgery.recalibrate(relu, x, l0)
    for coder, l0 in ((relu, 39), (topk, 39), (relu, 1e-6)):
        with pytest.raises(BadInput, match="cannot be had"):
            surgery.recalibrate(coder, x, l0)
    with pytest.raises(BadInput, match="whole number"):
        surgery.recalibrate(topk, x, 2.5)
    with pytest.raises(BadInput, match="give x"):
        surgery.to_jumprelu(topk)


@pytest.mark.parametrize(
    "operate",
    [
        lambda c, x: surgery.firing(c, x),
        lambda c, x: surgery.prune(c, torch.ones(LATENTS, dtype=torch.bool), x),
        lambda c, x: surgery.merge(c, x),
        lambda c, x: surgery.recalibrate(c, x, 2.0),
        lambda c, x: surgery.to_jumprelu(c, x),
    ],
    ids=["firing", "prune", "merge", "recalibrate", "convert"],
)
def test_vectors_that_do_not_fit(made, x, operate):
    coder, bad = made["jumprelu"], x[:9].clone()
    bad[4, 2] = float("nan")
    with pytest.raises(NotFinite, match="row 4"):
        operate(coder, bad)
    for other in (x[:, 1:], x[None], x[:0]):
        with pytest.raises(WidthMismatch):
            operate(coder, other)


def test_vectors_that_are_all_the_same_explain_nothing(made):
    with pytest.raises(BadInput, match="nothing to explain"):
        surgery.recalibrate(made["jumprelu"], torch.ones(9, D), 2.0)


def test_coders_without_a_linear_encoder_are_refused(x):
    for name in ("matching_pursuit", "random"):
        coder = coders.new(name, d_in=D, d_sae=32, k=3)
        coder.initialise(Batch.of(x))
        assert surgery.firing(coder, x).sum() > 0
        with pytest.raises(BadInput, match="no linear encoder"):
            surgery.merge(coder, x)


def test_saved_coders_say_what_was_done(made, x, store):
    parent = made["batch_topk"]
    keep = ~surgery.dead(surgery.firing(parent, x))
    coder, report = surgery.prune(parent, keep, x)
    about = {"site": "resid_post.1", "run": "old", "kind": "trained", "architecture": "batch_topk"}
    path = surgery.save("small", coder, report, store, parent=parent, about=about, data={"fingerprint": "f" * 16}, key="k")
    manifest = store.manifest("coders", "small")
    assert manifest["about"]["kind"] == "trained"
    assert manifest["about"]["site"] == "resid_post.1"
    assert manifest["about"]["run"] == "k"
    assert manifest["about"]["config"]["d_sae"] == int(keep.sum())
    assert manifest["inputs"] == {"coder": manifest["about"]["surgery"][0]["coder"], "activations": "f" * 16}
    assert json.loads((path / "surgery.json").read_text())["kept"] == keep.nonzero()[:, 0].tolist()
    torch.testing.assert_close(native.read(path)(x), coder(x), rtol=0, atol=0)
    again, report = surgery.to_jumprelu(coder, x)
    surgery.save("jump", again, report, store, parent=coder, about=manifest["about"])
    about = store.manifest("coders", "jump")["about"]
    assert [done["operation"] for done in about["surgery"]] == ["prune", "convert"]
    assert about["architecture"] == "jumprelu"
