"""Where training begins: b_dec, an encoder of its own, the weights of a coder that was trained before."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from assay import coders
from assay.coders.base import Batch
from assay.errors import BadInput, UnknownName, WidthMismatch
from assay.randomness import generator
from assay.testing import toy_batch
from assay.train import TrainConfig, train
from assay.training import start
from assay.training.start import geometric_median
from assay.training.trainee import Trainee

ALL = {
    "relu": {},
    "relu free": {"decoder": "free"},
    "gated": {},
    "gated annealed": {"p_end": 0.5},
    "p_anneal": {},
    "jumprelu": {},
    "topk": {"k": 4},
    "topk free": {"k": 4, "decoder": "free"},
    "batch_topk": {"k": 4},
    "batch_topk free": {"k": 4, "decoder": "free"},
    "matryoshka": {"k": 4},
    "matching_pursuit": {"k": 4},
    "transcoder": {"d_out": 10, "settings": "k=4"},
    "transcoder jumprelu": {"d_out": 10, "of": "jumprelu"},
    "transcoder gated": {"d_out": 10, "of": "gated"},
    "skip_transcoder": {"d_out": 10, "of": "batch_topk", "settings": "k=4"},
    "crosscoder": {"of": "relu"},
}
EVERY = pytest.mark.parametrize("label", ALL)


def make(label, seed=0, **extra):
    return coders.new(label.split()[0], d_in=16, d_sae=32, seed=seed, **(ALL[label] | extra))


class Toys:
    """Toy batches as a source, x and y of whatever scale."""

    tokens, fingerprint, d_in = None, "toys", 16

    def __init__(self, coder, x_scale=1.0, y_scale=1.0):
        self.coder, self.d_out, self.scales = coder, coder.d_out, (x_scale, y_scale)

    def at(self, name, size=64):
        batch = toy_batch(self.coder, size, name)
        x = batch.x * self.scales[0]
        return Batch.of(x) if batch.y is batch.x else Batch(x, batch.y * self.scales[1])

    def batches(self, size, seed, start=0):
        while True:
            yield self.at((seed, start), size)
            start += 1

    def describe(self):
        return {"kind": "toys"}


CFG = TrainConfig(tokens=64 * 30, batch=64, lr=3e-3, log_every=10, held_out_vectors=0)


def trained(label):
    coder = make(label)
    list(train({"a": coder}, Toys(coder, 5.0, 20.0), CFG))
    return coder


def distances(x, point):
    return (x - point).norm(dim=1).sum().item()


@pytest.mark.parametrize(
    ("rows", "median"),
    [
        ([[0, 0], [2, 0], [0, 2], [2, 2]], [1, 1]),
        ([[0, 0], [1, 0], [3, 0]], [1, 0]),
        ([[0, 0], [4, 0], [0, 4], [1, 1]], [1, 1]),
        ([[0, 0], [1, 0], [0, 1]], [(3 - 3**0.5) / 6] * 2),
        ([[0, 0], [10, 1], [10, -1]], [10 - 3**-0.5, 0]),
        ([[0, 0], [8, 0], [1, 1], [1, 1], [1, 1]], [1, 1]),
        ([[3, 4]] * 4, [3, 4]),
        ([[3, 4]], [3, 4]),
    ],
    ids=["square", "line", "inner point", "Fermat", "Fermat, flat", "several at one place", "all alike", "one"],
)
def test_geometric_median_of_known_cases(rows, median):
    found = geometric_median(torch.tensor(rows, dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor(median, dtype=torch.float64), atol=1e-4, rtol=0)
    shifted = geometric_median(torch.tensor(rows, dtype=torch.float64) * 1e6 + 1e6)
    torch.testing.assert_close(shifted / 1e6 - 1, found, atol=1e-4, rtol=0)


def test_no_point_has_less_distance_to_all():
    x = torch.randn(200, 5, generator=generator("cloud"), dtype=torch.float64).exp()
    found = geometric_median(x)
    for i in range(50):
        near = found + 0.03 * torch.randn(5, generator=generator("near", i), dtype=torch.float64)
        assert distances(x, near) > distances(x, found)
    assert distances(x, x.mean(0)) > distances(x, found)


def test_outliers_move_the_mean_and_not_the_median():
    """One vector in a hundred, a hundred times as long."""
    coder = make("topk")
    x = toy_batch(coder, 2000).x
    clean_mean, clean_median = x.mean(0), geometric_median(x)
    bad = x.clone()
    bad[::100] *= 100
    start.centre(coder, Batch.of(bad), "median")
    assert (coder.b_dec - clean_median).norm() < 0.1 * (bad.mean(0) - clean_mean).norm()
    assert (coder.b_dec - clean_median).norm() < 0.05
    start.centre(coder, Batch.of(bad), "mean")
    torch.testing.assert_close(coder.b_dec.detach(), bad.mean(0))
    start.centre(coder, Batch.of(bad), "zeros")
    assert (coder.b_dec == 0).all()
    with pytest.raises(UnknownName, match="Did you mean 'median'"):
        start.centre(coder, Batch.of(bad), "medium")


@EVERY
def test_centre_is_that_of_what_is_predicted(label):
    coder = make(label)
    batch = toy_batch(coder, 512)
    coder.initialise(batch)
    start.centre(coder, batch, "median")
    torch.testing.assert_close(coder.b_dec.detach(), geometric_median(batch.y), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("b_dec", ["mean", "median", "zeros"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("label", ["jumprelu", "transcoder jumprelu"])
def test_a_wanted_l0_at_the_start_survives_any_start(label, b_dec, tied):
    coder = make(label, **({"settings": "start_l0=4"} if " " in label else {"start_l0": 4.0}))
    batch = toy_batch(coder, 4096)
    start.begin(coder, batch, b_dec, tied)
    assert coder.eval().encode(batch.x).latents.l0().mean().item() == pytest.approx(4.0, rel=0.05)


@pytest.mark.parametrize("label", [k for k in ALL if k != "matching_pursuit"])
def test_untied_encoder_is_independent_and_as_long(label):
    coder, same, other = make(label), make(label), make(label)
    before = {k: v.clone() for k, v in coder.state_dict().items()}
    start.untie(coder, 0)
    start.untie(same, 0)
    start.untie(other, 1)
    name = "W_enc" if "W_enc" in before else "inner.W_enc"
    for key, value in coder.state_dict().items():
        assert torch.equal(value, before[key]) == (key != name), key
        assert torch.equal(value, same.state_dict()[key])
    now, then = coder.state_dict()[name], before[name]
    assert not torch.equal(now, other.state_dict()[name])
    torch.testing.assert_close(now.norm(dim=0), then.norm(dim=0))
    if coder.d_in == coder.d_out:
        cosine = torch.nn.functional.cosine_similarity(now.T, coder.W_dec)
        assert cosine.abs().mean() < 0.4, "random directions in 16 dimensions: .2 on average"


def test_one_dictionary_cannot_be_untied():
    with pytest.raises(BadInput, match="no encoder apart from its decoder"):
        start.untie(make("matching_pursuit"), 0)


@EVERY
def test_weights_are_taken_over(label):
    old, new = trained(label), make(label, seed=1)
    start.from_coder(new, old)
    x = toy_batch(old).x
    assert torch.equal(new.eval()(x), old(x))
    new.train()
    with torch.no_grad():
        new.W_dec.mul_(2) if label == "relu" else None
    assert torch.equal(old(x), old.clone()(x)), "a copy, not the same tensors"


def test_weights_of_another_kind_are_refused():
    with pytest.raises(BadInput, match="A TopK cannot go on from the weights of a ReLU"):
        start.from_coder(make("topk"), make("relu"))
    with pytest.raises(WidthMismatch, match=r"\(16, 64, 16\), the trained one \(16, 32, 16\)"):
        start.from_coder(coders.new("topk", d_in=16, d_sae=64, k=4), make("topk"))
    with pytest.raises(BadInput, match="new coder has decoder=unit, the trained one decoder=free"):
        start.from_coder(make("topk"), make("topk free"))
    with pytest.raises(BadInput, match="new coder has centred=True, the trained one centred=False"):
        start.from_coder(make("relu"), make("relu", centred=False))
    with pytest.raises(BadInput, match="of=topk, the trained one of=jumprelu"):
        start.from_coder(make("transcoder"), make("transcoder jumprelu"))
    with pytest.raises(BadInput, match=r"Only one of the two coders has penalty\.factor"):
        start.from_coder(make("gated"), make("gated annealed"))
    start.from_coder(make("topk", k=7), make("topk"))


@EVERY
def test_adopted_coders_stay_the_same(label):
    """Brought into the trainer's scale and back, a coder reads the data as before, whatever the scales are now."""
    coder = trained(label)
    x = Toys(coder, 5.0, 20.0).at("fresh", 256).x
    before = coder(x)
    for scales in [(0.2, 0.05), (0.2, 0.5), (3.0, 0.01)]:
        if coder.d_in == coder.d_out:
            scales = (scales[0], scales[0])
        twin = coder.clone()
        start.adopt(twin, scales)
        kept = twin.clone()
        kept.constrain()
        torch.testing.assert_close(kept.W_dec, twin.W_dec)
        torch.testing.assert_close(
            twin(x * scales[0]) / scales[1], before, rtol=1e-4, atol=1e-4 * float(before.detach().abs().max())
        )
        l0 = [c.encode(v).latents.l0() for c, v in ((twin, x * scales[0]), (coder, x))]
        assert (l0[0] != l0[1]).float().mean() < 0.02, "bits may tip a latent over its threshold"
        twin.rescale(*scales)
        torch.testing.assert_close(twin(x), before, rtol=1e-4, atol=1e-4 * float(before.detach().abs().max()))


@EVERY
def test_fine_tuning_without_learning_changes_nothing(label):
    """The trainer's own steps, on data of another scale, with a learning rate next to 0: the coder stays."""
    coder = trained(label)
    source, scales = (
        Toys(coder, 6.0, 6.0 if coder.d_in == coder.d_out else 15.0),
        (1 / 6, 1 / 6 if coder.d_in == coder.d_out else 1 / 15),
    )
    tuned = coder.clone()
    trainee = Trainee("a", tuned, replace(CFG, lr=1e-12))
    start.adopt(tuned, scales)
    for number in range(2):
        raw = source.at(number)
        x = raw.x * scales[0]
        trainee.step(Batch.of(x) if raw.y is raw.x else Batch(x, raw.y * scales[1]), number, scales, log=False)
    trainee.finish(scales)
    found = tuned.state_dict()  # the inference threshold of batch_topk is measured anew: that is not the optimiser's doing
    tuned.load_state_dict(
        found | {k: v for k, v in coder.state_dict().items() if k.rpartition(".")[2] == "threshold"}
        if coder.d_in == coder.d_out
        else found
    )
    x = source.at("fresh", 256).x
    torch.testing.assert_close(tuned(x), coder(x), rtol=1e-3, atol=1e-3 * float(coder(x).detach().abs().max()))
