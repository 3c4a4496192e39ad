"""Two models on one text, token by token."""

from __future__ import annotations

import json
from itertools import islice

import pytest
import torch

from assay import coders
from assay.activations import ActivationSource, GatherConfig, Live, Planted, Stored, gather
from assay.activations.side_by_side import SideBySide
from assay.errors import BadInput
from assay.train import TrainConfig, train


@pytest.fixture
def pair(gathered, hf_model, tokens):
    """The toy's activations on disk, and a GPT-2 at work on the same tokens: widths 6 and 16."""
    share = {"buffer_rows": 6, "held_out_share": 0.2}
    return Stored(gathered, "resid_post.1", **share), Live(hf_model, tokens, "resid_post.0", batch_rows=4, **share)


def test_every_vector_stands_beside_the_other_models_at_its_token(pair, truth, hf_model, tokens):
    source = SideBySide(pair)
    assert isinstance(source, ActivationSource)
    assert source.widths == (6, 16)
    assert source.d_in == source.d_out == 22
    mask = torch.from_numpy(tokens.mask)
    run = hf_model.run(torch.from_numpy(tokens.tokens).long(), read=[pair[1].read[0]], mask=mask)
    first, second = truth[pair[0].read[0]], run.read[pair[1].read[0]][mask]
    batch = next(source.batches(source.tokens, seed=3))
    batch = torch.cat([batch.x, source.held_out(1000).x])
    assert len(batch) == len(first), "what is learnt from and what is held out make the whole"
    place = torch.cdist(batch[:, :6].double(), first.double()).argmin(1)
    assert len(set(place.tolist())) == len(first)
    torch.testing.assert_close(batch[:, :6], first[place])
    torch.testing.assert_close(batch[:, 6:], second[place], rtol=1e-4, atol=1e-5)


def test_batch_i_is_a_pure_function(pair):
    source = SideBySide(pair)
    straight = list(islice(source.batches(40, seed=1), 6))
    assert torch.equal(next(source.batches(40, seed=1, start=4)).x, straight[4].x)
    assert straight[0].y is straight[0].x
    assert not torch.equal(next(source.batches(40, seed=2)).x, straight[0].x)


def test_it_says_what_it_is(pair):
    source = SideBySide(pair)
    about = source.describe()
    json.dumps(about)
    assert about["tokens"] == source.tokens == pair[0].tokens
    assert about["read"] == ["0:resid_post.1", "1:resid_post.0"]
    assert len({source.fingerprint, SideBySide(pair[::-1]).fingerprint, pair[0].fingerprint}) == 3


def test_what_does_not_correspond_is_refused(pair, gathered, model, make_tokens, store):
    with pytest.raises(BadInput, match="two sources or more, got 1"):
        SideBySide(pair[:1])
    other = gather(model, make_tokens(seed=1), "resid_post.0", GatherConfig(dtype="float32"), store)
    with pytest.raises(BadInput, match=r"Source 1 cannot lie beside source 0: .*'corpus'.*Gather with both models"):
        SideBySide([pair[0], Stored(other, buffer_rows=6, held_out_share=0.2)])
    with pytest.raises(BadInput, match="'buffer_rows': 7"):
        SideBySide([pair[0], Stored(gathered, "resid_post.0", buffer_rows=7, held_out_share=0.2)])
    with pytest.raises(BadInput, match="'held_out'"):
        SideBySide([pair[0], Stored(gathered, "resid_post.0", buffer_rows=6, held_out_share=0.0)])
    with pytest.raises(BadInput, match="Stored or Live"):
        SideBySide([Planted(6, 9), Planted(6, 9, seed=1)])
    predicting = Stored(gathered, "resid_post.0", "mlp_out.1", buffer_rows=6, held_out_share=0.2)
    with pytest.raises(BadInput, match=r"Source 1 predicts mlp_out\.1"):
        SideBySide([pair[0], predicting])


def test_a_crosscoder_learns_from_it(pair):
    source = SideBySide(pair)
    coder = coders.new("crosscoder", d_in=22, d_sae=40, widths=source.widths, settings="k=4")
    rows = list(train({"c": coder}, source, TrainConfig(tokens=64 * 60, batch=64, lr=1e-2, log_every=59)))
    assert rows[-1].metrics["fvu"] < 0.5 * rows[0].metrics["fvu"]
    assert rows[-1].metrics["held_out_fvu"] < 1
