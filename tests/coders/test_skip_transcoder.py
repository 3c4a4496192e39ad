"""The skip path: what it carries, what it learns from, and that it is scaled and folded rightly."""

from __future__ import annotations

import pytest
import torch

from assay import coders
from assay.coders.base import Step
from assay.coders.skip_transcoder import SkipTranscoder
from assay.testing import ready, toy_batch
from tests.coders.test_transcoder import KINDS, PlantedMap, fvu, trained


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_better_than_without_where_the_map_has_a_dense_part(seed):
    source = PlantedMap(seed, dense=1.0)
    plain, skip = (trained(name, source, seed, 400, of="topk", settings="k=2") for name in ("transcoder", "skip_transcoder"))
    test = source.batch(2048, "new")
    assert fvu(skip, test) < 0.5 * fvu(plain, test)


@pytest.mark.parametrize("of", KINDS)
@pytest.mark.parametrize("d_out", [16, 12])
def test_folded_and_rescaled(of, d_out):
    coder = ready(
        lambda seed: coders.new("skip_transcoder", seed=seed, d_in=16, d_sae=32, d_out=d_out, of=of, settings=KINDS[of])
    )
    coder.eval()
    x = toy_batch(coder).x
    before = coder(x)
    coder.rescale(2.0, 3.0)
    torch.testing.assert_close(coder(x / 2) * 3, before, rtol=1e-4, atol=1e-5)
    form = coder.folded()
    assert isinstance(form, SkipTranscoder)
    assert not form.b_in.any()
    torch.testing.assert_close(form(x / 2) * 3, before, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(form.clone()(x / 2) * 3, before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("of", KINDS)
def test_the_loss_is_that_of_the_whole_prediction(of):
    """Value and gradient of the error term, also with respect to W_skip, are those of ‖y − x̂‖²."""
    coder = ready(lambda seed: coders.new("skip_transcoder", seed=seed, d_in=16, d_sae=32, d_out=12, of=of, settings=KINDS[of]))
    batch = toy_batch(coder)
    code = coder.encode(batch.x)
    got = coder.loss(batch, code, Step())["mse"]
    want = (batch.y - coder.decode(code)).square().sum(-1).mean()
    if of != "matryoshka":  # which averages nested errors
        torch.testing.assert_close(got, want)
        one, other = (torch.autograd.grad(t, coder.W_skip, retain_graph=True)[0] for t in (got, want))
        torch.testing.assert_close(one, other)
    assert torch.autograd.grad(got, coder.W_skip)[0].abs().sum() > 0


def test_the_gates_auxiliary_loss_cannot_move_the_skip_path():
    coder = ready(lambda seed: coders.new("skip_transcoder", seed=seed, d_in=16, d_sae=32, of="gated"))
    batch = toy_batch(coder)
    gate = coder.loss(batch, coder.encode(batch.x), Step())["gate"]
    assert torch.autograd.grad(gate, coder.W_skip, allow_unused=True)[0] is None


def test_the_skip_path_reads_the_centred_input():
    source = PlantedMap(0)
    batch = source.batch(2048, "linear")
    coder = coders.new("skip_transcoder", d_in=24, d_out=16, d_sae=64, settings="k=2")
    coder.initialise(batch)
    code = coder.encode(batch.x)
    with torch.no_grad():
        coder.W_skip.normal_()
        shift = coder.encode(batch.x).base - code.base
    torch.testing.assert_close(shift, (batch.x - batch.x.mean(0)) @ coder.W_skip, rtol=1e-4, atol=1e-5)
