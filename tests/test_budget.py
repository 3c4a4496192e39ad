"""Budget: what is predicted comes true, and what will not fit is refused."""

from __future__ import annotations

import itertools
import time

import pytest
import torch

from assay import budget, coders
from assay.activations.planted import Planted
from assay.budget import estimate
from assay.errors import OutOfMemory, Unavailable, WidthMismatch
from assay.train import TrainConfig, train

CFG = TrainConfig(tokens=256 * 60, batch=256, log_every=20, held_out_vectors=256)


class Slow(Planted):
    """Each batch takes `wait` seconds, and the first, which loads `block` vectors, `load` seconds more."""

    wait, load, block = 0.01, 0.0, 10**9

    def batches(self, size, seed, start=0):
        for i in itertools.count(start):
            time.sleep(self.wait + (self.load if i == start else 0.0))
            yield from itertools.islice(super().batches(size, seed, i), 1)


def some(source, **widths):
    return {
        name: coders.new(name, d_in=source.d_in, d_sae=64, **({"k": 4} if name == "topk" else {})) for name in ("topk", "relu")
    }


def test_time_comes_true():
    """With a source that sleeps, so that the time is known. A neighbour of a moment makes one side longer: the best round counts."""
    source, off = Slow(d=32, latents=64), []
    for _ in range(3):
        found = estimate(some(source), source, CFG)
        begun = time.perf_counter()
        list(train(some(source), source, CFG))
        took = time.perf_counter() - begun
        off.append(max(abs(found.parts["data"] / 0.6 - 1) / 0.25, abs(found.seconds / took - 1) / 0.5))
    assert min(off) < 1
    assert set(found.parts) == {"data", "topk", "relu"}
    assert (found.steps, found.tokens) == (60, CFG.tokens)


def test_what_is_loaded_at_once_is_counted_once_a_block():
    source = Slow(d=32, latents=64)
    source.wait, source.load, source.block = 0.0, 0.3, 10 * 256
    assert estimate(some(source), source, CFG).parts["data"] == pytest.approx(0.3 * 6, rel=0.3)
    source.block = 10**9
    assert estimate(some(source), source, CFG).parts["data"] < 0.4


def test_nothing_is_changed():
    source = Planted(d=16, latents=32)
    coder = coders.new("topk", d_in=16, d_sae=32, k=4)
    before = {k: v.clone() for k, v in coder.state_dict().items()}
    estimate({"a": coder}, source, CFG)
    assert all(torch.equal(v, before[k]) for k, v in coder.state_dict().items())


def test_what_will_not_fit_is_refused(tmp_path, monkeypatch):
    source = Planted(d=16, latents=32)
    found = estimate(some(source), source, CFG)
    found.check(tmp_path)
    monkeypatch.setattr(budget, "_free", lambda device, mine: 10**6)
    with pytest.raises(OutOfMemory, match=r"needs about .* GB of memory; 0\.0 GB are to be had. Lower --batch or --d-sae"):
        estimate(some(source), source, CFG).check(tmp_path)
    monkeypatch.setattr(budget.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10}))
    with pytest.raises(Unavailable, match="GB of disk"):
        found.check(tmp_path)
    with pytest.raises(OutOfMemory, match="A coder of 100,000,000,000 latents needs at least"):
        budget.check_size(10**13, 2048, 10**11)
    with pytest.raises(WidthMismatch, match="reads 8"):
        estimate({"a": coders.new("relu", d_in=8, d_sae=16)}, source, CFG)
