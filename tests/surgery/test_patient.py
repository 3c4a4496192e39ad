"""Patient: what every operation takes, leaves alone and refuses."""

from __future__ import annotations

import pytest
import torch

from assay import coders, surgery
from assay.coders.base import Batch
from assay.errors import BadInput, NotFinite, WidthMismatch
from tests.surgery.planted import LATENTS, D, duplicated


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


def test_a_coder_that_says_nothing_but_the_mean_has_no_gamma(made, x):
    coder = made["relu"].clone()
    with torch.no_grad():
        coder.b_enc.fill_(-50.0)
        coder.b_dec.zero_()
    around_zero = torch.stack([x, -x], 1).reshape(-1, D)
    _, report = surgery.prune(coder, torch.arange(LATENTS) < 9, around_zero)
    assert report["after"] == {"latents": 9, "l0": 0.0, "fvu": 1.0, "gamma": None}


def test_coders_without_a_linear_encoder_are_refused(x):
    for name in ("matching_pursuit", "random"):
        coder = coders.new(name, d_in=D, d_sae=32, k=3)
        coder.initialise(Batch.of(x))
        assert surgery.firing(coder, x).sum() > 0
        with pytest.raises(BadInput, match="no linear encoder"):
            surgery.merge(coder, x)
