"""evaluate: passes are shared, kept and verified; what was killed goes on and scores the same."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from assay import coders, results
from assay.errors import DamagedFile
from assay.evals.core import Core
from assay.evaluate import evaluate
from tests.evaluate.tiny import SITE, WIDTH, Counted, core, scored


def test_passes_are_shared_and_kept(model, text, some, store):
    chunks = 3  # 40 rows in chunks of 16
    first = Counted(model)
    evaluate(some, [core()], model=first, site=SITE, text=text, store=store)
    assert (first.stopped, first.full) == (chunks, chunks * (3 + len(some)))
    assert first.blocks == chunks * (2 + (3 + len(some)) * 1)  # two blocks up to the site, once; one behind it, for every pass
    again = Counted(model)
    evaluate(some, [core()], model=again, site=SITE, text=text, store=store)
    assert (again.stopped, again.full) == (0, 0)
    more = Counted(model)
    new = coders.new("pca", d_in=WIDTH, d_sae=8, k=4)
    evaluate(some | {"pca": new}, [core()], model=more, site=SITE, text=text, store=store)
    assert (more.stopped, more.full) == (0, chunks * 2)  # the clean logits and its own
    assert more.blocks == chunks  # its own alone: the clean pass goes on behind the last block


@pytest.mark.parametrize("die_at", [0, 2, 3, 8, 14, 20])
def test_killed_and_resumed_gives_the_same(model, text, some, store, tmp_path, die_at):
    fresh = evaluate(some, [core()], model=model, site=SITE, text=text, store=type(store)(tmp_path / "fresh"))
    with pytest.raises(KeyboardInterrupt):
        evaluate(some, [core()], model=Counted(model, die_at), site=SITE, text=text, store=store)
    assert results.load(store) == []
    resumed = evaluate(some, [core()], model=model, site=SITE, text=text, store=store)
    assert scored(resumed) == scored(fresh)


def test_killed_between_scores_keeps_the_finished(model, text, some, store, monkeypatch):
    seen = []

    def stop_at_second(done, total, unit):
        if unit == "scores" and done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(some, [core()], model=model, site=SITE, text=text, store=store, progress=stop_at_second)
    kept = results.load(store)
    assert [r.coder for r in kept] == ["identity"]
    monkeypatch.setattr(Core, "run", lambda self, coder, given, real=Core.run: seen.append(coder) or real(self, coder, given))
    evaluate(some, [core()], model=model, site=SITE, text=text, store=store)
    assert len(seen) == 2


def test_again(model, text, some, store):
    one = {"topk": some["topk"]}

    def run(again, tokens=10_000):
        return evaluate(one, [core(tokens)], model=model, site=SITE, text=text, store=store, again=again)[0]

    first = run("missing")
    assert run("missing").made == first.made
    assert run("always").scores == first.scores
    assert run("never", tokens=100).details["tokens"] == first.details["tokens"]  # any record of this eval will do
    assert run("missing", tokens=100).details["tokens"] < first.details["tokens"]
    renamed = evaluate({"b": some["topk"]}, [core()], model=model, site=SITE, text=text, store=store)[0]
    assert (renamed.coder, renamed.key) == ("b", first.key)


def test_damaged_chunk_is_named(model, text, some, store):
    evaluate(some, [core()], model=model, site=SITE, text=text, store=store)
    for file in (store.root / "passes").rglob("00001.safetensors"):
        file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(DamagedFile, match=r"00001\.safetensors is truncated"):
        evaluate(some, [core()], model=model, site=SITE, text=text, store=store, again="always")


def test_altered_chunk_is_refused(model, text, some, store):
    """A flipped bit that leaves a readable file would give wrong numbers without the seal."""
    evaluate(some, [core()], model=model, site=SITE, text=text, store=store)
    for path in sorted((store.root / "passes").glob("*/00001.safetensors")):
        data = bytearray(path.read_bytes())
        data[-2] ^= 1
        path.write_bytes(bytes(data))
    with pytest.raises(DamagedFile, match=r"does not match the sha256 it carries.*Delete"):
        evaluate(some, [core()], model=model, site=SITE, text=text, store=store, again="always")


SCRIPT = """
import sys
import torch
from assay.evaluate import evaluate
from assay.store import Store
from tests.evaluate.tiny import SITE, core, make_coders, make_model, make_text
torch.set_num_threads(1)
model = make_model()
text = make_text(model)
print("ready", flush=True)
evaluate(make_coders(model, text), [core()], model=model, site=SITE, text=text, store=Store(sys.argv[1]))
"""


@pytest.mark.slow
def test_killed_ten_times_and_resumed(model, text, some, store, tmp_path):
    """kill -9 at ten random moments of one evaluation; what is resumed scores the same as what was left alone."""
    fresh = evaluate(some, [core()], model=model, site=SITE, text=text, store=type(store)(tmp_path / "fresh"))
    dice = random.Random(0)
    for _ in range(10):
        command, here = [sys.executable, "-c", SCRIPT, str(store.root)], Path(__file__).parents[2]
        process = subprocess.Popen(command, cwd=here, stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline().strip() == "ready"
        time.sleep(dice.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    resumed = evaluate(some, [core()], model=model, site=SITE, text=text, store=store)
    assert scored(resumed) == scored(fresh)
    # read, clean and what left its last block, two ablations, three coders: all processes agree on keys
    assert len(list((store.root / "passes").iterdir())) == 8
