"""assay steer: rows by strength, from a coder of the store, on the tiny model."""

from __future__ import annotations

import pytest

import assay
from assay.store import Store
from tests.features.made import entry

TEXT = "It is a truth universally acknowledged"


@pytest.fixture
def coder(home) -> str:
    entry(Store(home / "assay-store"))
    return "mine"


def steer(run, *words: str):
    return run(f"steer {' '.join(words)} --new-tokens 6 --json", TEXT.replace(" ", "_"))


def test_a_row_for_each_strength(run, coder):
    rows = steer(run, coder, "--latent 3 --by 40 --strength 0 --strength 0.5 --strength 2").json
    assert [row["strength"] for row in rows] == [0, 0.5, 2]
    assert rows[0]["KL"] == 0 < rows[1]["KL"] < rows[2]["KL"]
    model = assay.model("tiny")
    ids = model.tokenizer(TEXT.replace(" ", "_"), return_tensors="pt").input_ids
    assert rows[0]["text"] == model.tokenizer.decode(model.generate(ids, new_tokens=6)[0])


def test_several_latents(run, coder):
    one = steer(run, coder, "--latent 3 --latent 5 --by 40 --by 40 --strength 1").json
    assert one == steer(run, coder, "--latent 3 --latent 5 --by 40 --strength 1").json
    assert one != steer(run, coder, "--latent 3 --latent 5 --by 40 --by 4 --strength 1").json


def test_what_is_missing_is_said(run, coder):
    found = steer(run, coder, "--latent 3 --latent 5 --latent 7 --by 1 --by 2")
    assert found.code == 1 and "--by for each --latent" in found.err
    assert steer(run, coder, "--latent 300 --operation ablate").code == 1
    assert steer(run, coder, "--latent 3 --operation ablate").code == 0


def test_another_site_than_the_coders_own_is_noted(run, coder):
    def said(flags: str) -> str:
        ran = run(f"steer mine --latent 3 --operation ablate --strength 1 --new-tokens 2 {flags}", "Here")
        assert ran.code == 0, ran.err
        return ran.err

    assert "note: mine was trained at resid_post.2, not at resid_post.1.\n" in said("--site resid_post.1")
    assert "trained" not in said("") + said("--site resid_post.2") + said("--site blocks.2.hook_resid_post")


def test_a_coder_of_vectors_of_a_file_is_told_all_at_once(run, vectors):
    assert run(f"train topk --data {vectors} --d-sae 32 --k 2 --tokens 2k --batch 256").code == 0
    said = "topk learnt from vectors of a file, 16 wide: no manifest says which model and site to use. Say --model and --site."
    assert run("steer topk --latent 3 --by 1 Here").err == f"error: {said}\n"
    assert run("steer topk --latent 3 --by 1 --model tiny Here").err.endswith("which site to use. Say --site.\n")
