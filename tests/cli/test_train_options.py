"""assay train: a wanted L0, recipes, fine-tuning, budgets, settings of one coder, coders that diverge."""

from __future__ import annotations

import json

import pytest

from assay import coders, registry
from assay.errors import BadInput
from assay.formats import native
from assay.store import Store

QUICK = "--planted superposition --tokens 8k --batch 256 --threads 1"
TRAINED = [name for name in registry.CODERS if name not in registry.CODERS.names(tag="baseline")]


def about(name: str):
    return Store("assay-store").manifest("coders", name)["about"]


def rows(home, name: str):
    return [json.loads(line) for line in (home / "assay-store/coders" / name / "train.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", TRAINED)
def test_every_architecture_takes_a_wanted_l0(name):
    settings = coders.with_l0(name, {"d_in": 16, "d_sae": 64, **({"widths": (8, 8)} if name == "crosscoder" else {})}, 6)
    coder = coders.new(name, **settings)
    assert coder.penalised or coder.wanted_l0 == 6


def test_a_wanted_l0_of_composed_coders():
    kept = coders.with_l0("transcoder", {"d_in": 16, "d_sae": 64, "of": "matryoshka", "settings": "fractions=1/4,1"}, 5)
    assert coders.new("transcoder", **kept).wanted_l0 == 5
    assert coders.new("transcoder", **coders.with_l0("transcoder", {"d_in": 16, "d_sae": 64, "of": "relu"}, 5)).penalised
    said = coders.with_l0("transcoder", {"d_in": 16, "d_sae": 64, "settings": "k=7"}, 5)
    assert coders.new("transcoder", **said).wanted_l0 == 7, "what is said stays, and the trainer refuses it"
    with pytest.raises(BadInput, match="whole number"):
        coders.with_l0("topk", {}, 2.5)


def test_l0_decides_k(run, home):
    assert run(f"train topk --d-sae 64 --l0 5 {QUICK}").code == 0
    assert native.read(home / "assay-store/coders/topk").config.k == 5
    ran = run(f"train topk --d-sae 64 --l0 5 --k 6 --name other {QUICK}")
    assert ran.code == 1
    assert "made for an L0 of 6, the training asks for 5" in ran.err


def test_missing_the_wanted_l0_is_said(run, home):
    ran = run(f"train relu --d-sae 64 --l0 2 {QUICK}")
    assert ran.code == 0
    assert "note: relu ended at an L0 of" in ran.err
    assert "2 was asked for" in ran.err
    assert run("train relu --d-sae 64 --l0 64 --name b " + QUICK).code == 1


def test_recipes(run, home):
    ran = run(f"train topk --recipe saelens-6 --d-sae 64 --l0 4 --lr 0.002 --name a {QUICK}")
    assert ran.code == 0
    train = about("a")["train"]
    assert train["normalise"] == "none", "the recipe's"
    assert train["lr"] == 0.002, "what is said wins"
    assert about("a")["config"]["k"] == 4
    assert 'recipe = "saelens-6"' in (home / "assay-store/coders/a/run.toml").read_text()
    weights = (home / "assay-store/coders/a/weights.safetensors").read_bytes()
    assert run("train --config assay-store/coders/a/run.toml --store other").code == 0
    assert (home / "other/coders/a/weights.safetensors").read_bytes() == weights
    assert "it needs more than that" in run(f"train jumprelu --recipe gemma-scope --d-sae 64 {QUICK}").err
    assert "No recipe named 'openay'. Did you mean 'openai'?" in run(f"train topk --recipe openay --d-sae 64 {QUICK}").err
    ran = run(f"train topk --recipe saelens-6 --d-sae 64 --name b {QUICK}")
    assert "(recipe saelens-6): k must lie between 1 and d_sae = 64" in ran.err


def test_fine_tuning(run, home):
    assert run(f"train topk --d-sae 64 --k 4 --name a {QUICK}").code == 0
    ran = run(f"train --init a {QUICK} --lr 1e-12")
    assert ran.code == 0, ran.err
    first, tuned = rows(home, "a")[-1], rows(home, "a-tuned")
    assert tuned[0]["held_out_fvu"] == pytest.approx(first["held_out_fvu"], rel=1e-3), "it goes on where the other ended"
    assert about("a-tuned")["train"]["fine_tune"] is True
    assert run("train --init a --data missing.npy").code == 1
    assert run(f"train --init nobody {QUICK}").code == 1


def test_budget_only_says(run, home):
    ran = run(f"train topk --d-sae 64 --k 4 --budget --json {QUICK}")
    assert ran.code == 0
    assert [row["part"] for row in ran.json] == ["data", "topk", "all"]
    assert ran.json[-1]["memory_bytes"] > 0
    assert not (home / "assay-store/coders").exists() or not list((home / "assay-store/coders").iterdir())
    ran = run("train topk --d-sae 900000000000 --k 4 " + QUICK)
    assert ran.code == 1
    assert "Lower --d-sae or --batch" in ran.err


RUN = """
[source]
planted = "superposition"
[train]
tokens = "8k"
batch = 256
[coder.good]
architecture = "topk"
d_sae = 64
k = 4
[coder.good.train]
lr = 0.002
ema = 0.9
[coder.wild]
architecture = "relu"
d_sae = 64
[coder.wild.train]
lr = 1e18
clip = 0.0
warm_up = 0.0
"""


def test_settings_of_one_coder_and_one_that_diverges(run, home):
    (home / "run.toml").write_text(RUN)
    ran = run("train --config run.toml")
    assert ran.code == 1
    assert "wild" in ran.err
    assert "Saved: good." in ran.err
    assert about("good")["train"]["lr"] == 0.002
    assert (home / "assay-store/coders/good/report.html").exists()
    again = (home / "assay-store/coders/good/run.toml").read_text()
    assert "[coder.good.train]" in again
    assert not (home / "assay-store/coders/wild").exists()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("lr = 0.002", "lrr = 0.002", "No training setting"), ("lr = 0.002", "batch = 64", "asks for batch=64, the run for 256"),
        ("k = 4", 'k = 4\nrecipe = 5', "recipe must be a name, got 5"), ("k = 4", 'k = 4\ninit = "nobody"', "nobody"),
    ],
)  # fmt: skip
def test_run_files_say_what_is_wrong(run, home, old, new, said):
    (home / "bad.toml").write_text(RUN.replace(old, new, 1))
    ran = run("train --config bad.toml")
    assert ran.code == 1
    assert said in ran.err
