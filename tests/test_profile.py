"""Where the time goes: parts that add up, and coders that are left alone."""

from __future__ import annotations

import time

import pytest
import torch

from assay import coders
from assay.activations.planted import Planted
from assay.errors import BadInput
from assay.profile import PARTS, profile
from assay.timeline import part, watch
from assay.train import TrainConfig


def test_a_part_within_a_part_counts_once():
    with watch(torch.device("cpu")) as line:
        with part("outer"):
            time.sleep(0.05)
            with part("inner"):
                time.sleep(0.1)
            time.sleep(0.05)
        time.sleep(0.05)
    found = line.seconds()
    assert found["inner"] >= 0.1 and found["outer"] >= 0.1
    assert found["inner"] + found["outer"] < 0.35, "the inner part is not in the outer one as well"
    with part("unwatched"):
        pass
    assert "unwatched" not in line.seconds()


def test_parts_add_up_to_the_steps():
    some = {"a": coders.new("topk", d_in=16, d_sae=512, k=4), "b": coders.new("jumprelu", d_in=16, d_sae=512)}
    before = {name: coder.W_dec.clone() for name, coder in some.items()}
    cfg = TrainConfig(tokens=40 * 256, batch=256, log_every=10, held_out_vectors=64)
    found = profile(some, Planted(d=16, latents=32, seed=0), cfg)
    assert found.steps == 10 and set(found.parts) == set(PARTS) and found.syncs is None
    assert sum(found.parts.values()) == pytest.approx(found.step, rel=0.1)
    assert sum(found.shares().values()) == pytest.approx(1)
    for name in ("read", "encoder", "selection", "decode", "backward", "optimiser", "logging"):
        assert found.parts[name] > 0, name
    assert all(torch.equal(coder.W_dec, before[name]) and coder.W_dec.grad is None for name, coder in some.items())


def test_one_step_has_no_profile():
    with pytest.raises(BadInput, match="two steps; this run has 1"):
        profile(
            {"a": coders.new("topk", d_in=16, d_sae=32, k=4)},
            Planted(d=16, latents=32, seed=0),
            TrainConfig(tokens=64, batch=64),
        )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("name", ["topk", "batch_topk"])
def test_the_host_never_waits_outside_logging(name):
    coder = coders.new(name, d_in=64, d_sae=1024, k=8).to("cuda")
    found = profile({"it": coder}, Planted(d=64, latents=128, seed=0), TrainConfig(tokens=60 * 512, batch=512, log_every=20))
    assert found.syncs == 0
