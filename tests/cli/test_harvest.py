"""assay harvest: text, model and site out of manifests; again; from its own configuration."""

from __future__ import annotations

import pytest

from assay import features
from assay.store import Store

LEARN = (
    "--model tiny --corpus text.jsonl --d-sae 32 --tokens 1k --batch 256 --context 32 --corpus-tokens 1500 --threads 1 --quiet"
)


@pytest.fixture
def trained(run, corpus):
    """Two coders of two sites."""
    assert run(f"train topk --k 4 --name a --site resid_post.1 {LEARN}").code == 0
    assert run(f"train topk --k 4 --name b --site resid_post.2 {LEARN}").code == 0
    return Store("assay-store")


def test_coders_of_several_sites(run, trained):
    ran = run("harvest a b --json --threads 1")
    assert ran.code == 0, ran.err
    assert [(row["coder"], row["site"], row["latents"]) for row in ran.json] == [
        ("a", "resid_post.1", 32),
        ("b", "resid_post.2", 32),
    ]
    one = features.open(trained, "a")
    said = trained.manifest("coders", "a")["about"]
    assert one.about["text"]["split"] == "train" and one.about["text"]["max_tokens"] == said["text"]["max_tokens"] == 1500
    assert one.about["model"]["fingerprint"] == said["model"]["fingerprint"], "the number type of the training"
    made = one.manifest["made"]
    assert run("harvest a --threads 1 --quiet").code == 0
    assert features.open(trained, "a").manifest["made"] == made, "what is there is not made again"
    assert run("harvest a --threads 1 --quiet --again always").code == 0
    assert features.open(trained, "a").manifest["made"]["seconds"] is not None


def test_other_text_and_a_configuration(run, trained, home):
    ran = run("harvest a --split held_out --held-out 0.3 --tokens 300 --threads 1")
    assert ran.code == 0 and "assay serve" in ran.err, ran.err
    one = features.open(trained, "a")
    assert one.about["text"]["split"] == "held_out" and one.n_tokens <= 300
    file = one.path / "harvest.toml"
    assert 'split = "held_out"' in file.read_text(encoding="utf-8")
    trained.remove("features", one.path.name)
    (home / "again.toml").write_text(
        '[harvest]\ncoders = ["a"]\nsplit = "held_out"\nheld-out = 0.3\ntokens = 300\nmodel = "tiny"\n'
    )
    assert run("harvest --config again.toml --threads 1 --quiet").code == 0
    assert features.names(trained) == [one.path.name]


def test_planted_coders_have_no_text(run):
    assert run("train topk --planted tree --name a --d-sae 20 --k 2 --tokens 4k --batch 256 --quiet").code == 0
    ran = run("harvest a")
    assert ran.code == 1 and "planted vectors" in ran.err
    ran = run("harvest b")
    assert ran.code == 1 and "No coders entry" in ran.err
