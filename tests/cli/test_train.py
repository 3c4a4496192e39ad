"""assay train: flags, run files, the same coders from either."""

from __future__ import annotations

import numpy as np
import pytest

from assay.formats import native
from assay.store import Store

QUICK = "--tokens 8k --batch 256 --threads 1"
SWEEP = """
[source]
data = "vectors.npy"
[train]
tokens = "8k"
batch = 256
[coder.a]
architecture = "topk"
d_sae = "1k"
k = 2
[coder.b]
architecture = "relu"
d_sae = 64
seed = 3
"""


def weights(home, name: str, store: str = "assay-store") -> bytes:
    return (home / store / "coders" / name / "weights.safetensors").read_bytes()


def test_flags_make_a_coder(run, home, vectors):
    ran = run(f"train topk --name mine --data {vectors} --d-sae 1k --k 3 --aux-weight 0 --seed 5 {QUICK} --json")
    assert ran.code == 0
    (row,) = ran.json
    assert (row["coder"], row["architecture"], row["d_sae"], row["l0"]) == ("mine", "topk", 1024, 3.0)
    coder = native.read(home / "assay-store/coders/mine")
    assert (coder.d_in, coder.config.k, coder.config.aux_weight, coder.seed) == (16, 3, 0.0, 5)
    about = Store("assay-store").manifest("coders", "mine")["about"]
    assert about["train"]["seed"] == 5
    assert about["train"]["tokens"] == 8000


def test_a_finished_run_is_not_done_again_and_names_are_not_taken(run, home, vectors):
    line = f"train topk --data {vectors} --d-sae 32 {QUICK} --k"
    assert run(f"{line} 2").code == 0
    first = weights(home, "topk")
    written = (home / "assay-store/coders/topk/weights.safetensors").stat().st_mtime_ns
    assert run(f"{line} 2").code == 0
    assert (home / "assay-store/coders/topk/weights.safetensors").stat().st_mtime_ns == written
    ran = run(f"{line} 3")
    assert ran.code == 1
    assert "--again always" in ran.err
    assert weights(home, "topk") == first
    assert run(f"{line} 3 --again always").code == 0
    assert weights(home, "topk") != first
    assert run(f"{line} 9 --again never").code == 0
    assert native.read(home / "assay-store/coders/topk").config.k == 3


def test_a_run_file_trains_a_sweep_and_its_resolved_form_does_the_same(run, home, vectors):
    (home / "sweep.toml").write_text(SWEEP)
    ran = run("train --config sweep.toml --json")
    assert ran.code == 0
    assert [row["coder"] for row in ran.json] == ["a", "b"]
    assert native.read(home / "assay-store/coders/a").d_sae == 1024
    assert native.read(home / "assay-store/coders/b").seed == 3
    assert run("train --config assay-store/coders/b/run.toml --store other").code == 0
    for name in "ab":
        assert weights(home, name) == weights(home, name, "other")
        assert (home / f"assay-store/coders/{name}/run.toml").read_text() == (
            home / f"other/coders/{name}/run.toml"
        ).read_text()


def test_flags_and_their_resolved_form_do_the_same(run, home, vectors):
    assert run(f"train batch_topk --data {vectors} --d-sae 32 --k 2 --lr 3e-4 --normalise none {QUICK}").code == 0
    assert run("train --config assay-store/coders/batch_topk/run.toml --store other").code == 0
    assert weights(home, "batch_topk") == weights(home, "batch_topk", "other")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[train]", "[trian]", "No table in bad.toml named 'trian'. Did you mean 'train'?"),
        ("batch = 256", "batsch = 256", "batsch"),
        ("k = 2", "kk = 2", "No setting of topk in run: [coder.a] named 'kk'. Did you mean 'k'?"),
        ("k = 2", 'k = "two"', "k: "),
        ('"topk"', '"topkk"', "Did you mean 'topk'?"),
        ("seed = 3", 'seed = "x"', "seed must be a whole number"),
        ("d_sae = 64", "", "d_sae"),
        ('architecture = "relu"', "", "[coder.b] needs an architecture"),
        ("[train]", "train = 1\n[x]", "No table in bad.toml"),
        ('"8k"', '"8x"', "'8x' is no whole number"),
        ("[train]", "[train", "not valid TOML"),
    ],
)
def test_mistakes_in_run_files_are_named(run, home, vectors, old, new, message):
    (home / "bad.toml").write_text(SWEEP.replace(old, new, 1))
    ran = run("train --config bad.toml")
    assert ran.code == 1
    assert message in ran.err
    assert not (home / "assay-store/coders").exists()


def test_a_run_file_without_coders_or_that_is_not_there(run, home):
    (home / "empty.toml").write_text("[train]\n")
    assert "names no coder" in run("train --config empty.toml").err
    assert "missing.toml does not exist" in run("train --config missing.toml").err


def test_activations_that_are_not_finite_are_refused(run, home):
    x = np.zeros((512, 4), dtype=np.float32)
    x[300, 2] = np.nan
    np.save(home / "bad.npy", x)
    ran = run(f"train topk --data bad.npy --d-sae 8 --k 2 {QUICK}")
    assert ran.code == 1
    assert "row 300, column 2" in ran.err


def test_a_live_model_as_source(run, home, corpus):
    line = (
        f"train topk --model tiny --corpus {corpus} --site resid_post.1 --context 32 --d-sae 64 --k 4 --tokens 2k --batch 128"
    )
    assert run(line).code == 0
    about = Store("assay-store").manifest("coders", "topk")["about"]
    assert about["model"]["name"] == "tiny"
    assert about["site"] == "resid_post.1"
    assert about["text"]["corpus"] == corpus
    assert about["text"]["split"] == "train"
    assert about["starts_with_bos"] is True  # what bos=auto was
    assert run("train --config assay-store/coders/topk/run.toml --store other").code == 0
    assert weights(home, "topk") == weights(home, "topk", "other")


def test_a_wrong_device_is_named(run, vectors):
    ran = run(f"train topk --data {vectors} --d-sae 64 --device warp9 {QUICK}")
    assert ran.code == 1
    assert "--device warp9 cannot be used here" in ran.err
