"""Pruning: dead latents go without a trace, and what dense ones said on average stays."""

from __future__ import annotations

import pytest
import torch

from assay import surgery
from assay.coders.base import Batch
from assay.formats import native
from assay.randomness import generator
from assay.surgery.patient import look
from tests.surgery.planted import DEAD, LATENTS, LINEAR, SETTINGS


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
