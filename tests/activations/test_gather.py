"""Gathering: what is written, going on after any interruption, and what is refused."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from assay import store as store_module
from assay.activations import Activations, GatherConfig, gather
from assay.errors import BadInput, Busy, NotFinite, SiteMissing, Unavailable
from assay.models.base import Site
from assay.store import Store, verify

SITES = ["resid_post.0", "mlp_out.1", "resid_post.1"]
CONFIG = GatherConfig(dtype="float32", batch_rows=3, shard_rows=4)


class Killed(BaseException):
    """Not an Exception: nothing may catch it."""


def contents(path: Path) -> dict[str, str]:
    """sha256 of every file; the manifest without who made it when."""
    found = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in path.iterdir() if p.name != "manifest.json"}
    manifest = json.loads((path / "manifest.json").read_text())
    return found | {"manifest": {k: v for k, v in manifest.items() if k != "made"}}


def test_shards_hold_what_the_model_computes_where_the_mask_is_true(gathered, tokens, truth):
    shards = [load_file(p) for p in sorted(gathered.glob("0*.safetensors"))]
    assert [len(s["row"]) for s in shards] == [int(tokens.mask[i : i + 4].sum()) for i in range(0, 23, 4)]
    row, position = (torch.cat([s[name] for s in shards]) for name in ("row", "position"))
    assert row.dtype == position.dtype == torch.int32
    assert np.array_equal(np.stack([row, position]), np.stack(tokens.mask.nonzero()))
    for site, x in truth.items():
        assert torch.equal(torch.cat([s[str(site)] for s in shards]), x)


def test_manifest_and_statistics(gathered, model, tokens, truth):
    verify(gathered)
    manifest = store_module.read_manifest(gathered)
    about = manifest["about"]
    assert about["tokens"] == tokens.n_tokens
    assert about["rows"] == 23
    assert manifest["inputs"]["model"] == {"name": "toy", "fingerprint": model.fingerprint, "dtype": "float32"}
    assert manifest["inputs"]["tokens"] == tokens.fingerprint
    assert "transformers" in manifest["made"]["versions"]
    stats = load_file(gathered / "stats.safetensors")
    assert stats["counts"].tolist() == tokens.mask.sum(1).tolist()
    for site, x in truth.items():
        x = x.double()
        torch.testing.assert_close(stats[f"mean.{site}"], x.mean(0))
        assert about["sites"][str(site)]["d"] == x.shape[1]
        assert about["sites"][str(site)]["mean_norm"] == pytest.approx(x.norm(dim=1).mean().item())
        assert about["sites"][str(site)]["mean_square_norm"] == pytest.approx(x.square().sum(1).mean().item())


def test_one_pass_reads_all_sites_and_stops_after_the_deepest(gathered, model, store, tokens):
    assert all(read == tuple(Site.parse(s) for s in SITES) and str(stop) == "resid_post.1" for _, read, stop in model.passes)
    assert sum(shape[0] for shape, _, _ in model.passes) <= 23
    assert {shape[1] for shape, _, _ in model.passes} <= set(range(2, 13))
    before = len(model.passes)
    assert gather(model, tokens, list(reversed(SITES)), CONFIG, store) == gathered  # the order of sites is no new job
    assert len(model.passes) == before


def test_bfloat16_is_rounded_from_what_the_model_computes(model, tokens, store, truth):
    path = gather(model, tokens, "resid_post.1", GatherConfig(shard_rows=10), store)
    x = torch.cat([load_file(p)["resid_post.1"] for p in sorted(path.glob("0*.safetensors"))])
    assert x.dtype == torch.bfloat16
    assert torch.equal(x, truth[Site("resid_post", 1)].bfloat16())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_real_model(dtype, hf_model, tokens, store):
    sites = ["blocks.1.hook_resid_post", "mlp_out.0", "attn_z.1"]
    path = gather(hf_model, tokens, sites, GatherConfig(dtype=dtype, batch_rows=5, shard_rows=7), store)
    keep = torch.from_numpy(tokens.mask)
    run = hf_model.run(torch.from_numpy(tokens.tokens).long(), read=[Site.parse(s) for s in sites])
    close = {"float32": {"rtol": 1e-5, "atol": 1e-6}, "bfloat16": {"rtol": 2**-8, "atol": 1e-6}}[dtype]
    for site, x in run.read.items():
        got = torch.cat([one for one, _, _ in Activations(path, site)])
        torch.testing.assert_close(got, x[keep], **close)
    with pytest.raises(SiteMissing):
        gather(hf_model, tokens, ["resid_post.2"], CONFIG, store)


def test_progress_counts_tokens(model, tokens, store):
    told = []
    gather(model, tokens, SITES, CONFIG, store, lambda *what: told.append(what))
    assert told[-1] == (tokens.n_tokens, tokens.n_tokens, "tokens")
    assert [t[0] for t in told] == sorted({t[0] for t in told})


@pytest.mark.parametrize("where", ["pass", "fsync", "replace"])
def test_interrupted_anywhere_it_goes_on_and_ends_in_the_same_bytes(where, model, make_tokens, tmp_path, monkeypatch):
    """Interrupts every pass, every fsync and every rename of a gather, one after another."""
    job = (model, make_tokens(rows=15), SITES[:2], CONFIG)
    whole = contents(gather(*job, Store(tmp_path / "whole")))
    for moment in range(100):
        store = Store(tmp_path / str(moment))
        left = iter(range(moment))

        def strike(left=left):
            if next(left, None) is None:
                raise Killed

        with monkeypatch.context() as patch:
            if where == "pass":
                patch.setattr(model, "before", lambda number: strike())
            else:
                real = getattr(os, where)
                patch.setattr(store_module.os, where, lambda *a, real=real: strike() or real(*a))
            try:
                gather(*job, store)
                break
            except Killed:
                for name in store.names("activations"):  # what is visible is whole
                    verify(store.path("activations", name))
        path = gather(*job, store)
        assert contents(path) == whole
        assert not list(path.parent.glob(".*"))
    assert moment >= 5


def test_only_missing_shards_are_computed_again(gathered, model, tokens, tmp_path):
    store = Store(tmp_path / "other")
    model.passes.clear()

    def strike(number):
        if number == 4:
            raise Killed

    model.before = strike
    with pytest.raises(Killed):
        gather(model, tokens, SITES, CONFIG, store)
    draft = next((tmp_path / "other" / "activations").glob(".*.part"))
    kept = sorted(p.name for p in draft.glob("0*.safetensors"))
    assert kept == ["00000.safetensors", "00001.safetensors"]
    model.passes.clear()
    model.before = None
    gather(model, tokens, SITES, CONFIG, store)
    assert sum(shape[0] for shape, _, _ in model.passes) <= 23 - 8


@pytest.mark.parametrize("harm", ["truncate", "alter", "unseal", "stray"])
def test_what_an_earlier_attempt_left_is_not_trusted(harm, gathered, model, tokens, tmp_path):
    store = Store(tmp_path / "other")

    def strike(number):
        if number == 7:
            raise Killed

    model.passes.clear()
    model.before = strike
    with pytest.raises(Killed):
        gather(model, tokens, SITES, CONFIG, store)
    model.before = None
    shard = next((tmp_path / "other" / "activations").glob(".*.part")) / "00001.safetensors"
    data = shard.read_bytes()
    if harm == "truncate":
        shard.write_bytes(data[:-10])
    elif harm == "alter":
        shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif harm == "unseal":
        shard.with_name(".00001.safetensors.sha256").unlink()
    else:
        shard.with_name(".00004.safetensors.123.part").write_bytes(b"half a file")
    assert contents(gather(model, tokens, SITES, CONFIG, store)) == contents(gathered)


def test_a_draft_of_another_layout_is_dropped(gathered, model, tokens, tmp_path):
    store = Store(tmp_path / "other")
    model.passes.clear()

    def strike(number):
        if number == 15:
            raise Killed

    model.before = strike
    with pytest.raises(Killed):
        gather(model, tokens, SITES, GatherConfig(dtype="float32", batch_rows=1, shard_rows=1), store)
    model.before = None
    assert contents(gather(model, tokens, SITES, CONFIG, store)) == contents(gathered)


@pytest.mark.parametrize(("value", "word"), [(float("nan"), "nan"), (float("inf"), "inf"), (float("-inf"), "-inf")])
def test_the_first_bad_number_is_located(value, word, model, tokens, store):
    row, position = 13, 7
    tokens.tokens[row, position] = 5000
    model.poison = (5000, value)
    told = rf"{word} at site resid_post\.1, row 13, position 7 \(document {tokens.document[row, position]}\), channel 3"
    with pytest.raises(NotFinite, match=told):
        gather(model, tokens, SITES, CONFIG, store)
    assert store.names("activations") == []


def test_bad_numbers_under_the_mask_do_not_count(model, tokens, store):
    model.poison = (1, float("nan"))  # BOS, as attention sinks of some float16 models
    gather(model, tokens, SITES, CONFIG, store)


def test_a_disk_too_small_is_refused_before_the_first_pass(model, tokens, store, monkeypatch):
    need = tokens.n_tokens * (16 * 4 + 8)
    monkeypatch.setattr(store_module.shutil, "disk_usage", lambda place: types.SimpleNamespace(free=need))
    with pytest.raises(Unavailable, match=r"GB are free.*fewer tokens"):
        gather(model, tokens, SITES, CONFIG, store)
    assert model.passes == []
    monkeypatch.setattr(store_module.shutil, "disk_usage", lambda place: types.SimpleNamespace(free=need + 20_000))
    path = gather(model, tokens, SITES, CONFIG, store)
    assert sum(p.stat().st_size for p in path.glob("*.safetensors")) <= need + 20_000


def test_a_site_the_model_lacks_and_a_mask_without_tokens(model, tokens, store):
    with pytest.raises(SiteMissing):
        gather(model, tokens, ["resid_post.0", "resid_post.7"], CONFIG, store)
    with pytest.raises(BadInput, match="each once"):
        gather(model, tokens, [], CONFIG, store)
    with pytest.raises(BadInput, match="each once"):
        gather(model, tokens, ["resid_post.0", "blocks.0.hook_resid_post"], CONFIG, store)
    tokens.mask[:] = False
    with pytest.raises(BadInput, match="no tokens"):
        gather(model, tokens, SITES, CONFIG, store)
    with pytest.raises(BadInput, match="batch_rows"):
        GatherConfig(batch_rows=0)


def test_two_gathers_of_one_thing_in_one_store(model, tokens, store):
    reached, go_on = threading.Event(), threading.Event()
    model.before = lambda number: (reached.set(), go_on.wait(20))
    first = threading.Thread(target=gather, args=(model, tokens, SITES, CONFIG, store))
    first.start()
    try:
        assert reached.wait(20)
        with pytest.raises(Busy, match="Another process"):
            gather(types.SimpleNamespace(**vars(model), d=model.d), tokens, SITES, CONFIG, store)
    finally:
        go_on.set()
        first.join()
    assert len(store.names("activations")) == 1


CHILD = """
import runpy, sys, time, torch
torch.set_num_threads(1)
toy = runpy.run_path(sys.argv[1])
from assay.activations import GatherConfig, gather
from assay.store import Store
model, tokens = toy["make_hf_model"](), toy["make_tokens"](rows=60, context=16)
run = model.run
def slow(*a, **k):
    time.sleep(0.02)
    return run(*a, **k)
model.run = slow
print("ready", flush=True)
gather(model, tokens, ["resid_post.0", "mlp_out.1"], GatherConfig(batch_rows=2, shard_rows=4), Store(sys.argv[2]))
"""


def child(where: Path) -> subprocess.Popen:
    command = [sys.executable, "-c", CHILD, str(Path(__file__).with_name("conftest.py")), str(where)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_killed_processes_leave_nothing_wrong(hf_model, make_tokens, tmp_path):
    """kill -9 at ten moments; the last process ends in the bytes of an uninterrupted one. Meanwhile the store is busy."""
    job = (hf_model, make_tokens(rows=60, context=16), ["resid_post.0", "mlp_out.1"], GatherConfig(batch_rows=2, shard_rows=4))
    broken, kept = Store(tmp_path / "broken").root, 0
    for shards in (0, 1, 2, 4, 5, 7, 9, 11, 13, 14):
        with child(broken) as victim:
            assert victim.stdout.readline() == "ready\n"
            while victim.poll() is None and len(list(broken.glob("activations/.*.part/0*.safetensors"))) < shards:
                time.sleep(0.002)
            time.sleep(0.013 * (shards % 3))
            if shards == 5:
                victim.send_signal(signal.SIGSTOP)
                with pytest.raises(Busy, match="Another process"):
                    gather(*job, Store(broken))
            victim.kill()
        assert victim.returncode == -signal.SIGKILL
        assert not list(broken.glob("activations/[0-9a-f]*"))
        assert len(list(broken.glob("activations/.*.part/0*.safetensors"))) >= max(kept, shards)
        kept = shards
    with child(broken) as last:
        last.communicate()
    assert last.returncode == 0
    ends = [next((broken / "activations").glob("[0-9a-f]*")), gather(*job, Store(tmp_path / "whole"))]
    assert len(list(ends[0].glob("0*.safetensors"))) == 15
    assert contents(ends[0]) == contents(ends[1])
    assert len(list(Activations(ends[0], "mlp_out.1"))) == 15
