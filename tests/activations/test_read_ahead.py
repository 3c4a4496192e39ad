"""Reading ahead: the same batches, one block ahead and no more, errors as they are, and an end when nobody listens."""

from __future__ import annotations

import gc
import signal
import threading
import time
import weakref
from itertools import islice

import numpy as np
import pytest
import torch

from assay import coders
from assay.activations import Live, Stored
from assay.activations.forward import passes, read_rows
from assay.activations.read_ahead import ahead
from assay.activations.shards import Activations
from assay.corpora.pack import Tokens
from assay.errors import DamagedFile, NotFinite
from assay.models.base import Site
from assay.train import TrainConfig, train

CPU = torch.device("cpu")


def threads():
    return [t for t in threading.enumerate() if t.name == "assay reads ahead"]


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    yield
    gc.collect()
    assert threads() == []


class Block(torch.Tensor):
    pass


def test_one_is_ahead_and_two_are_alive():
    alive, most, begun = weakref.WeakSet(), 0, []

    def make(job, tell):
        nonlocal most
        begun.append((job, threading.current_thread() is threading.main_thread()))
        x = torch.full((4,), float(job)).as_subclass(Block)
        alive.add(x)
        most = max(most, len(alive))
        return [x]

    number = 0
    for job, made in ahead(range(6), make, CPU):
        assert job == number == made[0][0]
        deadline = time.monotonic() + 5
        while len(begun) < min(6, number + 2) and time.monotonic() < deadline:
            time.sleep(0.001)
        assert begun == [(i, False) for i in range(min(6, number + 2))]
        number += 1
        del made
    assert number == 6
    assert most == 2


@pytest.mark.parametrize("start", [0, 5])
def test_batches_are_those_of_one_after_the_other(model, tokens, gathered, start):
    for source in (Live(model, tokens, "resid_post.1", buffer_rows=5), Stored(gathered, "resid_post.1", buffer_rows=5)):
        found = []
        for on in (CPU, None):
            source.ahead_on = on
            found.append([b.x for b in islice(source.batches(17, 3, start), 20)])
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_an_error_surfaces_as_it_is_when_its_turn_comes(model, tokens):
    tokens.tokens[13, 7] = 5000
    model.poison = (5000, float("nan"))
    live = Live(model, tokens, "resid_post.1", buffer_rows=3)
    live.ahead_on = CPU
    given = 0
    with pytest.raises(NotFinite, match="row 13, position 7"):
        for _ in live.batches(4, 1):
            given += 1
    live.ahead_on, one_by_one = None, 0
    with pytest.raises(NotFinite, match="row 13, position 7"):
        for _ in live.batches(4, 1):
            one_by_one += 1
    assert given == one_by_one > 0


def test_a_trainer_hears_of_a_damaged_shard(gathered):
    source = Stored(gathered, "resid_post.1", buffer_rows=3)
    file = gathered / "00003.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 64]))
    coder = coders.new("topk", d_in=6, d_sae=8, k=2)
    with pytest.raises(DamagedFile, match=r"00003\.safetensors"):
        for _ in train({"topk": coder}, source, TrainConfig(tokens=4000, batch=16, held_out_vectors=0)):
            pass


@pytest.mark.parametrize("how", ["close", "drop", "raise"])
def test_work_that_nobody_waits_for_ends_soon(how):
    told = []

    def make(job, tell):
        for i in range(2000 if job else 1):  # ten seconds and more
            told.append(i)
            time.sleep(0.005)
            tell(1)
        return [torch.zeros(1)]

    stream = ahead(range(3), make, CPU)
    next(stream)
    assert len(threads()) == 1
    begun = time.monotonic()
    if how == "close":
        stream.close()
    elif how == "drop":
        del stream
    else:
        with pytest.raises(KeyboardInterrupt):
            stream.throw(KeyboardInterrupt)
    assert threads() == []
    assert time.monotonic() - begun < 2
    assert len(told) < 1000


def test_what_is_waited_for_can_be_interrupted():
    """Ctrl-C while the first block is being made."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are born deaf to it

    def make(job, tell):
        threading.Timer(0.1, lambda: signal_main()).start()
        for _ in range(2000):
            time.sleep(0.005)
            tell(1)
        return []

    def signal_main():
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    begun = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            next(ahead(range(2), make, CPU))
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - begun < 5


def test_a_shard_cut_short_while_it_is_read(gathered, monkeypatch):
    stored = Activations(gathered, "resid_post.1")
    stored.read(np.arange(23))
    file = gathered / "00003.safetensors"
    monkeypatch.setattr(stored, "_file", lambda name: gathered / name)  # after it was compared with its hash
    with file.open("r+b") as handle:
        handle.truncate(file.stat().st_size // 2)
    with pytest.raises(DamagedFile, match="cut short"):
        stored.read(np.arange(23))


def test_shards_are_compared_at_once_with_progress(gathered):
    told = []
    Stored(gathered, "resid_post.1").verify(lambda *what: told.append(what))
    assert [done for done, _, _ in told] == sorted({done for done, _, _ in told})
    assert told[-1][0] == told[-1][1] == sum(p.stat().st_size for p in gathered.glob("0*.safetensors"))
    file = gathered / "00005.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(DamagedFile, match=r"00005\.safetensors has \d+ bytes"):
        Stored(gathered, "resid_post.1").verify()


def test_rows_of_like_length_go_together():
    """Every row with a token is in one pass, no pass reads more than whole rows would, and little of it is padding."""
    random = np.random.default_rng(0)
    mask = np.arange(64) < random.integers(0, 65, (300, 1))
    seen, read = [], 0
    for rows, width in passes(mask, 8):
        assert len(rows) * width <= 8 * 64
        assert mask[rows].any(0)[:width].all()
        assert not mask[rows, width:].any()
        seen += rows.tolist()
        read += len(rows) * width
    assert sorted(seen) == np.flatnonzero(mask.any(1)).tolist()
    assert mask.sum() > 0.93 * read
    full = list(passes(np.ones((20, 64), bool), 8))
    assert [rows.tolist() for rows, _ in full] == [list(range(0, 8)), list(range(8, 16)), list(range(16, 20))]


def test_vectors_stand_in_the_order_of_the_rows_whatever_their_length(model, make_tokens):
    tokens: Tokens = make_tokens(rows=40)
    rows = np.random.default_rng(1).permutation(40)
    site = Site("resid_post", 0)
    together = read_rows(model, tokens, rows, [site], batch_rows=4)[0]
    alone = torch.cat([read_rows(model, tokens, rows[i : i + 1], [site], batch_rows=1)[0] for i in range(40)])
    assert torch.equal(together, alone)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_a_gpu_batches_are_the_same(hf_model, tokens, gathered):
    here = Stored(gathered, "resid_post.1", buffer_rows=5)
    there = Stored(gathered, "resid_post.1", buffer_rows=5, device="cuda")
    for a, b in islice(zip(here.batches(17, 3), there.batches(17, 3), strict=False), 20):
        assert b.x.is_cuda
        assert torch.equal(a.x, b.x.cpu())
