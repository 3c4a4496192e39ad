"""Thresholds: the L0 that was asked for, and conversions that are the same function."""

from __future__ import annotations

import pytest
import torch

from assay import coders, surgery
from assay.activations import Planted
from assay.coders.base import Batch
from assay.surgery.patient import look
from assay.surgery.thresholds import _recalibrated
from tests.surgery.planted import COUNTED, LATENTS, SETTINGS, lands, nearly


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
