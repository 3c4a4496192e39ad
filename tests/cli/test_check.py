"""assay check: verdicts and exit codes, for coders of the store, of files, of mirrors."""

from __future__ import annotations

import json
import shutil

import pytest

from assay import formats
from assay.store import Store

TRAIN = "train topk --k 16 --d-sae 128 --model tiny --corpus text.jsonl --site resid_post.1 --tokens 12k --batch 256 --lr 2e-3 --context 64"


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """Where what was trained once is kept for the other tests."""
    return tmp_path_factory.mktemp("shelf")


@pytest.fixture
def learnt(run, home, corpus, shelf):
    """A coder of the tiny model in the store, and its files in another library's format in a mirror."""
    if (shelf / "store").exists():
        shutil.copytree(shelf / "store", home / "assay-store")
    else:
        ran = run(TRAIN, "--name mine --quiet")
        assert ran.code == 0, ran.err
        shutil.copytree(home / "assay-store", shelf / "store")
    coder, about = formats.read(Store("assay-store").find("coders", "mine"))
    there = home / "mirror/EleutherAI/sae-pythia-70m-32k/layers.1"
    formats.write(coder, there, "sparsify", about)
    return about


def test_a_coder_is_checked_against_its_k_and_wrong_uses_are_named(run, learnt):
    ran = run("check mine --tokens 500")
    assert ran.code == 0, ran.err
    assert ran.out.splitlines()[0].split() == ["use", "otherwise", "l0", "fvu", "bias", "tokens"]
    assert ran.out.splitlines()[1].startswith("its k")
    assert "passes" in ran.err
    wrong = run("check mine --tokens 500 --site mlp_out.1 --json")
    assert wrong.code == 1
    assert wrong.json["verdict"] == "fails"
    assert wrong.json["cause"]["use"] == "at resid_post.1"
    assert "Likely cause: site. at resid_post.1" in wrong.err
    assert "say --site resid_post.1" in wrong.err
    said = run("check mine --tokens 500 --l0 90")
    assert said.code == 1
    assert "said here: L0 90" in said.err


def test_a_release_is_checked_before_it_is_imported(run, learnt):
    """The catalogue says the model; here it is another, of the same text."""
    ref = "sae-pythia-70m-32k/layers.1 --mirror mirror --model tiny --corpus text.jsonl --context 64 --tokens 500"
    ran = run(f"check {ref} --json")
    assert ran.code == 0, ran.err
    assert (ran.json["verdict"], ran.json["said"]["source"]) == ("passes", "its k")
    assert Store("assay-store").names("coders") == ["mine"], "nothing is kept"
    bare = run(f"check {ref} --bos never --json")
    assert bare.json["first_token"][0] > bare.json["first_token"][1]


def test_a_release_and_files_are_evaluated_as_they_are(run, learnt):
    """As the coder itself: the same weights have the same record."""
    how = "--model tiny --corpus text.jsonl --context 64 --tokens 400 --corpus-tokens 800 --json"
    mine = run(f"eval core mine {how}").json
    ran = run(
        f"eval core sae-pythia-70m-32k/layers.1 mirror/EleutherAI/sae-pythia-70m-32k/layers.1/sae.safetensors --mirror mirror --site resid_post.1 {how}"
    )
    assert ran.code == 0, ran.err
    assert [one["coder"] for one in ran.json] == ["sae-pythia-70m-32k-layers.1", "layers.1-sae"]
    l0 = [next(s["value"] for s in one["scores"] if s["metric"] == "l0") for one in (*mine, *ran.json)]
    assert l0 == pytest.approx([l0[0]] * 3, abs=1e-6)
    assert Store("assay-store").names("coders") == ["mine"], "nothing is kept"


def test_files_are_checked_with_what_they_leave_open(run, learnt, home):
    """Weights that expect activations twice as large, in files that say so but not by how much."""
    coder, about = formats.read(Store("assay-store").find("coders", "mine"))
    formats.write(coder, home / "theirs", "saelens", about)
    cfg = json.loads((home / "theirs/cfg.json").read_text())
    (home / "theirs/cfg.json").write_text(json.dumps(cfg | {"normalize_activations": "expected_average_only_in"}))
    how = "--model tiny --corpus text.jsonl --context 64 --tokens 500"
    ran = run(f"check theirs/cfg.json {how}")
    assert ran.code == 1
    assert "--scale" in ran.err
    assert run(f"check theirs/cfg.json --scale 1 {how}").code == 0
    asked = run("eval core theirs/cfg.json --model tiny --corpus text.jsonl").err
    assert "Here: assay import theirs/cfg.json --name NAME --scale NUMBER, then that name." in asked
