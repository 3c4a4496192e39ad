"""assay check: verdicts and exit codes, for coders of the store, of files, of mirrors."""

from __future__ import annotations

import pytest

from assay import formats
from assay.store import Store

TRAIN = "train topk --k 16 --d-sae 128 --model tiny --corpus text.jsonl --site resid_post.1 --tokens 12k --batch 256 --lr 2e-3 --context 64"


@pytest.fixture
def learnt(run, home, corpus):
    """A coder of the tiny model in the store, and its files in another library's format in a mirror."""
    ran = run(TRAIN, "--name mine --quiet")
    assert ran.code == 0, ran.err
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
