"""assay surgery: operations on stored coders, what is kept, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from assay import coders
from assay.activations import Planted
from assay.coders.base import Batch
from assay.formats import native
from assay.splice import coder_hash
from assay.store import Store
from assay.sweep import save_baseline

QUICK = "--tokens 8k --batch 256 --threads 1"
DATA = "--data vectors.npy --tokens 2000"
STORE = "assay-store/coders"


@pytest.fixture
def topk(home, vectors):
    """A stored TopK coder, of whose 32 latents at least two never fire."""
    coder = coders.new("topk", d_in=16, d_sae=32, k=3).eval()
    coder.initialise(Batch.of(torch.from_numpy(np.load(vectors))))
    with torch.no_grad():
        coder.b_enc[[4, 20]] = -50.0
    about = {"kind": "trained", "run": "r", "train": {"tokens": 8000}, "source": {"kind": "tensors"}}
    save_baseline("old", coder, Store("assay-store"), about=about, inputs={"activations": "a"})
    return coder


def test_pruning_dead_latents(run, home, topk):
    x = torch.from_numpy(np.load("vectors.npy"))
    ran = run(f"surgery prune old --name small --dead {DATA}")
    assert ran.code == 0, ran.err
    assert ran.out.split("\n")[0].split() == ["coder", "latents", "l0", "fvu", "gamma"]
    assert [line.split()[0] for line in ran.out.strip().split("\n")[1:]] == ["old", "small"]
    small = native.read(home / STORE / "small")
    assert small.d_sae <= 30
    torch.testing.assert_close(small(x[:1024]), topk(x[:1024]), rtol=0, atol=1e-6)
    weights = [(home / STORE / name / "weights.safetensors").stat().st_size for name in ("small", "old")]
    assert weights[0] < weights[1]
    about = Store("assay-store").manifest("coders", "small")["about"]
    assert about["kind"] == "trained"
    assert about["train"]["tokens"] == 8000
    (done,) = about["surgery"]
    assert done["coder"] == coder_hash(topk)
    assert done["operation"] == "prune"
    assert done["data"]["settings"]["dead"] is True
    assert done["data"]["vectors"] == 2000
    assert done["before"]["latents"] - done["after"]["latents"] == 32 - small.d_sae
    kept = json.loads((home / STORE / "small/surgery.json").read_text())["kept"]
    assert len(kept) == small.d_sae
    assert not {4, 20} & set(kept)


def test_every_operation_and_json(run, home, topk):
    ran = run(f"surgery prune old --name sparser --dense 0.2 --below 1e-3 --no-fold {DATA} --json")
    assert ran.code == 0, ran.err
    assert ran.json["after"]["latents"] < 32
    assert ran.json["folded"] is False
    ran = run(f"surgery recalibrate old --name two --l0 2 {DATA} --json")
    assert (ran.json["name"], ran.json["rule"]) == ("two", "k")
    assert native.read(home / STORE / "two").config.k == 2
    ran = run(f"surgery convert old --name jump {DATA} --json")
    assert native.read(home / STORE / "jump").config.d_sae == 32
    assert ran.json["after"]["l0"] == pytest.approx(ran.json["before"]["l0"], rel=0.01)
    ran = run(f"surgery recalibrate jump --name jump-2 --l0 2.2 {DATA} --json")
    assert ran.json["after"]["l0"] == pytest.approx(2.2, rel=0.01)
    about = Store("assay-store").manifest("coders", "jump-2")["about"]
    assert about["architecture"] == "jumprelu"
    assert [done["operation"] for done in about["surgery"]] == ["convert", "recalibrate"]
    ran = run(f"surgery merge old --name merged --cosine 0.999 {DATA}")
    assert ran.code == 0
    assert "merged is a copy" in ran.err


def test_the_coder_s_own_activations_are_the_default(run, home, corpus):
    text = f"--corpus {corpus} --context 32"
    key = run(f"gather tiny {text} --site resid_post.1 --tokens 4k").out.strip().split("\n")[-1]
    assert run(f"train batch_topk --name old --activations {key} --d-sae 64 --k 4 {QUICK}").code == 0
    ran = run("surgery recalibrate old --name new --l0 3 --json")
    assert ran.code == 0, ran.err
    assert ran.json["data"]["source"]["activations"] == key
    manifest = Store("assay-store").manifest("coders", "new")
    assert manifest["about"]["site"] == "resid_post.1"
    assert manifest["about"]["model"]["name"] == "tiny"
    assert manifest["inputs"]["activations"] == Store("assay-store").manifest("coders", "old")["inputs"]["activations"]
    assert run("surgery convert new --name newer").code == 0


def test_done_work_is_not_done_again_and_names_are_not_taken(run, home, topk):
    line = f"surgery prune old --name small {DATA}"
    assert run(f"{line} --dead").code == 0
    first = (home / STORE / "small/weights.safetensors").stat().st_mtime_ns
    assert run(f"{line} --dead").code == 0
    assert (home / STORE / "small/weights.safetensors").stat().st_mtime_ns == first
    for other in (f"{line} --below 0.05", f"{line} --dead --seed 3", f"surgery convert old --name small {DATA}"):
        ran = run(other)
        assert ran.code == 1
        assert "--again always" in ran.err
    assert (home / STORE / "small/weights.safetensors").stat().st_mtime_ns == first
    assert run(f"{line} --below 0.05 --again never").code == 0
    assert (home / STORE / "small/weights.safetensors").stat().st_mtime_ns == first
    assert run(f"{line} --below 0.05 --again always").code == 0
    assert (home / STORE / "small/weights.safetensors").stat().st_mtime_ns != first


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (f"prune old --name x {DATA}", "Say which latents are to go"),
        (f"prune old --name x --below 0.999 {DATA}", "Nothing would be left"),
        (f"prune old --name x --dense 7 {DATA}", "between 0 and 1"),
        (f"prune old --name old --dead {DATA}", "needs a name of its own"),
        (f"prune odl --name x --dead {DATA}", "Did you mean 'old'?"),
        (f"merge old --name x --cosine 2 {DATA}", "cosine"),
        (f"recalibrate old --name x --l0 31 {DATA}", "cannot be had"),
        (f"recalibrate old --name x --l0 -1 {DATA}", "A mean L0 lies between"),
        (f"recalibrate old --name x --l0 2.5 {DATA}", "whole number"),
        ("convert old --name x", "Name vectors to measure on"),
        ("convert old --name x --data wide.npy", "trained on"),
        ("convert old --name x --data bad.npy", "row 3"),
        ("convert old --name ../x --data vectors.npy", "cannot name a directory"),
    ],
)
def test_mistakes_are_named_and_nothing_is_kept(run, home, topk, words, message):
    x = Planted(d=17, latents=32, seed=0).codes(256, 0)[0].numpy()
    np.save(home / "wide.npy", x)
    x[3, 1] = np.nan
    np.save(home / "bad.npy", x[:, :16])
    ran = run(f"surgery {words}")
    assert ran.code == 1
    assert message in ran.err
    assert Store("assay-store").names("coders") == ["old"]
