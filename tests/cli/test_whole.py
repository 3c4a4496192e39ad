"""gather, train, eval, results: the whole way by the command line on the model that ships with Assay."""

from __future__ import annotations

import csv
import io

import pytest

from assay.cli import main
from assay.store import Store


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A directory with gathered activations and one coder trained on them, for reading only."""
    import json

    from assay.models.embedded import TINY

    home = tmp_path_factory.mktemp("whole")
    patch = pytest.MonkeyPatch()
    patch.chdir(home)
    paragraphs = (TINY / "austen.txt").read_text(encoding="utf-8").split("\n\n")
    (home / "text.jsonl").write_text("".join(json.dumps({"text": p}) + "\n" for p in paragraphs[:150]), encoding="utf-8")
    gather = "gather tiny --corpus text.jsonl --site resid_post.1 --site mlp_out.2 --context 32 --tokens 4k --quiet"
    assert main(gather.split()) == 0
    (key,) = [path.name for path in (home / "assay-store/activations").iterdir() if not path.name.startswith(".")]
    train = f"train topk --activations {key} --site resid_post.1 --d-sae 256 --k 8 --tokens 16k --batch 256 --lr 3e-3 --quiet"
    assert main(train.split()) == 0
    patch.undo()
    return home, key


@pytest.fixture
def run_there(trained, run, monkeypatch):
    monkeypatch.chdir(trained[0])
    return run


def test_gather_again_gives_what_is_there(trained, run_there):
    _, key = trained
    path = f"assay-store/activations/{key}"
    again = run_there(f"gather --config {path}/gather.toml --json")
    assert again.code == 0
    assert again.json["key"] == key
    assert again.json["path"] == path
    assert {row["site"] for row in again.json["sites"]} == {"resid_post.1", "mlp_out.2"}
    other = run_there(f"gather --config {path}/gather.toml --dtype float32 --json")
    assert other.json["key"] != key


def test_train_asks_which_site_and_names_wrong_ones(trained, run_there):
    assert "holds 2 sites" in run_there(f"train topk --activations {trained[1]} --d-sae 64").err
    assert "No site in" in run_there(f"train topk --activations {trained[1]} --site resid_post.2 --d-sae 64").err
    assert "Did you mean" in run_there(f"train topk --activations {trained[1][:-1]} --d-sae 64").err


def test_eval_results_plot_export(trained, run_there):
    ran = run_there("eval core topk --baselines pca,permuted_decoder --tokens 1k --corpus-tokens 2k --json")
    assert ran.code == 0
    names = [record["coder"] for record in ran.json]
    assert names == ["topk", "pca-k8", "permuted-topk"]
    recovered = {r["coder"]: next(s["value"] for s in r["scores"] if s["metric"] == "loss_recovered") for r in ran.json}
    assert recovered["topk"] > recovered["permuted-topk"]

    manifests = [Store("assay-store").manifest("coders", name)["about"] for name in ("topk", "pca-k8")]
    assert manifests[1]["source"]["corpus"] == manifests[0]["source"]["corpus"], "a baseline learns from the coder's own text"
    assert manifests[1]["site"] == "resid_post.1"

    table = run_there("results table")
    assert table.code == 0
    assert all(name in table.out for name in names)
    assert "(" in table.out.split("\n")[2], "no interval"
    rows = run_there("results table --json").json
    assert {row["coder"] for row in rows} == set(names)

    assert run_there("results show topk").out.count("loss_recovered") == 2
    assert "Did you mean 'topk'?" in run_there("results show topkk").err
    assert run_there("results table --metrics fvu,l0").out.split("\n")[1].split()[-2:] == ["fvu", "l0"]
    assert "Did you mean 'fvu'?" in run_there("results table --metrics fvuu").err

    assert run_there("results plot curves.svg").code == 0
    assert (trained[0] / "curves.svg").read_text().startswith("<?xml")
    assert run_there("results plot curves.bmp").code == 1

    lines = list(csv.DictReader(io.StringIO(run_there("results export").out)))
    assert {line["coder"] for line in lines} == set(names)
    assert run_there("results export --format markdown").out.startswith("| coder |")
    assert run_there("results export --output all.csv").out == ""
    assert (trained[0] / "all.csv").stat().st_size > 1000


def test_eval_again_finds_everything_and_its_resolved_form_does_the_same(trained, run_there):
    first = run_there("eval core topk --baselines pca --tokens 512 --corpus-tokens 1k --json")
    assert first.code == 0
    (setting,) = {path.stem for path in (trained[0] / "assay-store/results/core").glob("*.toml")} - settings_but(first.json)
    again = run_there(f"eval --config assay-store/results/core/{setting}.toml --json")
    assert again.json == first.json
    assert "holds [eval]" in run_there(f"gather --config assay-store/results/core/{setting}.toml").err


def settings_but(records: list) -> set[str]:
    """Settings of other results in the store."""
    from assay.results import load

    keys = {record["key"] for record in records}
    return {r.setting for r in load(Store("assay-store")) if r.key not in keys}


def test_eval_says_what_does_not_fit(trained, run_there):
    elsewhere = run_there("eval core topk --site resid_post.9").err
    assert "no resid_post.9" in elsewhere and "note: topk was trained at resid_post.1, not at resid_post.9." in elsewhere
    assert "No baseline named 'pcs'" in run_there("eval core topk --baselines pcs --tokens 512 --corpus-tokens 1k").err
    assert "Did you mean 'topk'?" in run_there("eval core topl").err
    assert "Two coders are called" in run_there("eval core topk assay-store/coders/topk").err


def test_text_that_a_coder_has_seen_is_not_held_out(trained, run_there):
    assert "is not held out" in run_there("eval core topk --held-out 0.9").err
    gathered = run_there("gather tiny --corpus text.jsonl --site resid_post.1 --context 32 --tokens 1k --split all --json").json
    leak = f"train topk --name leak --activations {gathered['key']} --d-sae 64 --k 4 --tokens 1k --batch 256"
    assert run_there(leak).code == 0
    assert "was trained on the 'all' part" in run_there("eval core leak").err


def test_eval_of_a_coder_that_knows_no_model_asks(run, vectors):
    assert run(f"train topk --data {vectors} --d-sae 32 --k 2 --tokens 2k --batch 256").code == 0
    assert "vectors of a file, 16 wide" in (err := run("eval core topk").err) and "Say --model, --site and --corpus." in err
    assert "Say --model and --site." in run("eval core topk --corpus austen").err
    assert "has width 128" in run("eval core topk --corpus austen --model tiny --site resid_post.1 --tokens 512").err
