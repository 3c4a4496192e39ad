from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from assay import coders
from assay.coders.base import Batch
from assay.errors import BadFile, BadInput, DamagedFile, NotFinite, WidthMismatch
from assay.randomness import generator
from assay.store import Store, weights_hash
from assay.sweep import sweep
from assay.train import TrainConfig, train
from assay.training.optim import lr_factor


class Stream:
    """Endless vectors with a mean and a scale far from 1, from 24 planted directions."""

    tokens = None
    fingerprint = "stream"

    def __init__(self, d: int = 16, scale: float = 40.0, poison: int | None = None):
        self.d_in = self.d_out = d
        self.scale, self.poison = scale, poison
        self.directions = torch.nn.functional.normalize(torch.randn(24, d, generator=generator("stream", d)), dim=1)

    def batches(self, size, seed, start=0):
        for i in itertools.count(start):
            random = generator("stream", seed, i)
            on = torch.rand(size, 24, generator=random) < 0.1
            x = self.scale * ((on * (torch.rand(size, 24, generator=random) + 0.5)) @ self.directions + 0.1)
            if i == self.poison:
                x[3, 5] = float("nan")
            yield Batch.of(x)

    def held_out(self, size):
        return None

    def describe(self):
        return {"kind": "stream"}


CFG = TrainConfig(tokens=64 * 40, batch=64, lr=3e-3, log_every=10, dead_after=1000)


def make(names=("topk", "relu", "batch_topk")):
    extra = {"topk": {"k": 3}, "batch_topk": {"k": 3}}
    return {n: coders.new(n, d_in=16, d_sae=32, **extra.get(n, {})) for n in names}


def test_rows_and_folding():
    some, source = make(), Stream()
    rows = list(train(some, source, CFG))
    assert [(r.step, r.coder) for r in rows] == [(s, n) for s in (0, 10, 20, 30, 39) for n in some]
    assert rows[-1].tokens == CFG.tokens
    x = next(source.batches(2048, 99)).x
    for name, coder in some.items():
        assert not coder.training
        last = [r for r in rows if r.coder == name][-1]
        fvu = ((x - coder(x)).square().sum() / (x - x.mean(0)).square().sum()).item()
        assert fvu == pytest.approx(last.metrics["fvu"], rel=0.25), "unscaled inference must reproduce what training logged"
        assert last.metrics["fvu"] < rows[0].metrics["fvu"]


def test_many_coders_equal_one_by_one():
    together, alone = make(), make()
    list(train(together, Stream(), CFG))
    for name in alone:
        list(train({name: alone[name]}, Stream(), CFG))
        for key, value in alone[name].state_dict().items():
            assert torch.equal(value, together[name].state_dict()[key]), (name, key)


def test_baselines_only_look():
    base = {"pca": coders.new("pca", d_in=16, d_sae=32, k=4), "topk": coders.new("topk", d_in=16, d_sae=32, k=4)}
    rows = [r for r in train(base, Stream(), CFG) if r.coder == "pca"]
    assert rows[0].metrics["fvu"] == pytest.approx(rows[-1].metrics["fvu"], rel=0.4)
    assert "lr" not in rows[-1].metrics


def test_closing_early_still_folds():
    some, source = make(("topk",)), Stream()
    rows = train(some, source, CFG)
    next(rows)
    rows.close()
    x = next(source.batches(512, 5)).x
    assert not some["topk"].training
    assert (x - some["topk"](x)).square().sum() < x.square().sum()


def test_schedule():
    factors = [lr_factor(i, 100, 0.1, 0.2) for i in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9:80] == [1.0] * 71
    assert factors[90] == pytest.approx(0.5)
    assert all(f > 0 for f in factors)


def test_bad_input():
    with pytest.raises(WidthMismatch, match=r"reads 8 .* activations have 16"):
        next(train({"a": coders.new("topk", d_in=8, d_sae=16, k=2)}, Stream(), CFG))
    with pytest.raises(BadInput, match="no coder"):
        next(train({}, Stream(), CFG))
    with pytest.raises(BadInput, match="at least one batch"):
        TrainConfig(tokens=10, batch=64)
    with pytest.raises(NotFinite, match=r"'topk'.*no longer finite"):
        list(train(make(("topk",)), Stream(poison=270), TrainConfig(tokens=64 * 300, batch=64, log_every=10)))
    with pytest.raises(NotFinite, match="mean squared norm of the activations is nan"):
        list(train(make(("topk",)), Stream(poison=0), CFG))


@pytest.mark.parametrize(
    "setting",
    [{"lr": float("nan")}, {"lr": float("inf")}, {"beta1": 2}, {"clip": -3}, {"checkpoint_seconds": -1}, {"seed": -1}],
    ids=str,
)
def test_impossible_settings_say_what_was_got(setting):
    with pytest.raises(BadInput, match=rf"{next(iter(setting))} must be .*, got {next(iter(setting.values()))}"):
        TrainConfig(**setting)


def test_activations_that_do_not_vary():
    class Still(Stream):
        def batches(self, size, seed, start=0):
            while True:
                yield Batch.of(torch.ones(size, 16))

    with pytest.raises(BadInput, match="do not vary"):
        next(train(make(("topk",)), Still(), CFG))


def test_a_name_taken_meanwhile_is_not_overwritten(store):
    """Two processes train different coders of one name: the second to finish says so, and keeps its checkpoint."""
    slow = {"topk": coders.new("topk", d_in=16, d_sae=32, k=5)}

    def while_training(row):
        if row.step == 10:
            sweep(make(("topk",)), Stream(), CFG, store)

    with pytest.raises(BadInput, match="already has a coder named 'topk'"):
        sweep(slow, Stream(), CFG, store, listen=while_training)
    assert store.manifest("coders", "topk")["about"]["config"]["k"] == 3
    assert list((store.root / "runs").glob("*/checkpoint.safetensors"))


def test_never_keeps_whatever_has_the_name(store):
    sweep(make(("topk",)), Stream(), CFG, store)
    before = weights_hash(store.find("coders", "topk"))
    other = {"topk": coders.new("topk", d_in=16, d_sae=32, k=5)} | make(("relu",))
    sweep(other, Stream(), CFG, store, again="never")
    assert weights_hash(store.find("coders", "topk")) == before
    assert store.has("coders", "relu")


def test_checkpoints_refuse_other_settings_and_damage(tmp_path):
    path = tmp_path / "c.safetensors"
    list(train(make(("topk",)), Stream(), CFG, resume=path))
    with pytest.raises(BadInput, match="other coders or settings"):
        next(train({"topk": coders.new("topk", d_in=16, d_sae=32, k=4)}, Stream(), CFG, resume=path))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DamagedFile, match="no readable checkpoint"):
        next(train(make(("topk",)), Stream(), CFG, resume=path))


def test_sweep_saves_and_is_idempotent(store):
    paths = sweep(make(), Stream(), CFG, store, about={"site": "resid_post.3"})
    before = {n: weights_hash(store.find("coders", n)) for n in paths}
    manifest = store.manifest("coders", "topk")
    assert manifest["about"]["site"] == "resid_post.3"
    assert manifest["about"]["kind"] == "trained"
    assert len((paths["relu"] / "train.jsonl").read_text().splitlines()) == 5
    assert not (store.root / "runs").exists() or not list((store.root / "runs").iterdir())
    sweep(make(), Stream(), CFG, store)
    assert before == {n: weights_hash(store.find("coders", n)) for n in paths}
    other = {"topk": coders.new("topk", d_in=16, d_sae=32, k=5)}
    with pytest.raises(BadInput, match="already has a coder named 'topk'"):
        sweep(other, Stream(), CFG, store)
    sweep(other, Stream(), CFG, store, again="always")
    assert weights_hash(store.find("coders", "topk")) != before["topk"]
    assert issubclass(BadInput, ValueError)
    assert issubclass(DamagedFile, BadFile)


JOB = """
import sys, torch; torch.set_num_threads(1)
sys.path.insert(0, {here!r})
from test_train import *
cfg = TrainConfig(tokens=64 * 300, batch=64, lr=3e-3, log_every=7, dead_after=1000, checkpoint_seconds=0.02)
print("ready", flush=True)
sweep(make(), Stream(), cfg, Store({store!r}))
print("done", flush=True)
"""


def payload(root):
    return {
        p.relative_to(root).as_posix(): p.read_bytes()
        for p in sorted((root / "coders").rglob("*"))
        if p.name not in ("manifest.json", "speed.jsonl") and p.is_file()
    }


@pytest.mark.slow
def test_kill_nine_ten_times(tmp_path):
    """Killed at ten random moments, a sweep ends in the same bytes as one that was left alone."""
    here = os.path.dirname(__file__)

    def start(root):
        code = JOB.format(here=here, store=str(root))
        job = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert job.stdout is not None
        assert job.stdout.readline() == "ready\n"
        return job

    Store(tmp_path / "calm")
    begin = time.monotonic()
    assert start(tmp_path / "calm").communicate()[0] == "done\n"
    whole = time.monotonic() - begin
    Store(tmp_path / "stormy")
    dice, kills = random.Random(0), 0
    while kills < 10:
        job = start(tmp_path / "stormy")
        time.sleep(dice.uniform(0, whole / 3))
        job.send_signal(signal.SIGKILL)
        job.communicate()
        kills += 1
    assert start(tmp_path / "stormy").communicate()[0] == "done\n"
    assert payload(tmp_path / "calm") == payload(tmp_path / "stormy")
    rows = [json.loads(line) for line in (tmp_path / "stormy/coders/relu/train.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == sorted({r["step"] for r in rows})
