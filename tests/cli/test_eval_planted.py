"""assay eval of coders whose truth is planted: no model, the coder's own source, an oracle beside."""

from __future__ import annotations

from pathlib import Path


def test_a_planted_coder_is_measured_on_its_own_source(run):
    learn = "train topk --planted tree --seed 4 --name a --d-sae 20 --k 2 --tokens 40k --batch 256 --lr 8e-3 --quiet"
    assert run(learn).code == 0
    ran = run("eval synthetic a --baselines oracle,random,permuted_decoder --synthetic.vectors 2048 --json")
    assert ran.code == 0, ran.err
    found = {r["coder"]: {s["metric"]: s["value"] for s in r["scores"]} for r in ran.json}
    assert list(found) == ["a", "random-k2", "oracle", "permuted-a"]
    assert found["oracle"]["f1"] > 0.9
    for metric in ("mcc", "f1"):
        assert found["oracle"][metric] > found["a"][metric] > found["random-k2"][metric]
    assert found["a"]["f1"] > found["permuted-a"]["f1"] + 0.2
    source = ran.json[0]["details"]["source"]
    assert source["kind"] == "planted tree" and source["seed"] == 4
    assert "oracle" in run("results table").out
    again = run("eval synthetic a oracle --synthetic.vectors 2048 --json")
    assert [r["key"] for r in again.json] == [r["key"] for r in (ran.json[0], ran.json[2])], "what is there is not scored again"


def test_frozen_decoders_are_trained_where_they_are_asked_for(run):
    learn = "train topk --planted tree --name a --d-sae 20 --k 2 --tokens 4k --batch 256 --lr 8e-3 --quiet"
    assert run(learn).code == 0
    ran = run("eval synthetic a --baselines all --frozen-tokens 2k --synthetic.vectors 512 --json")
    assert ran.code == 0, ran.err
    found = {r["coder"]: r for r in ran.json}
    assert found["frozen_decoder-k2"]["about"]["baseline"] and not found["a"]["about"]["baseline"]
    other = run("eval synthetic a --baselines frozen_decoder --synthetic.vectors 512 --json")
    (name,) = {r["coder"] for r in other.json} - {"a"}
    assert name.startswith("frozen_decoder-k2-"), "trained for longer: as long as the coder"
    plain = run("eval synthetic a --baselines all --synthetic.vectors 512 --json")
    assert not [r for r in plain.json if "frozen" in r["coder"]]


def test_all_evals_are_those_that_a_planted_coder_can_take(run):
    assert run("train topk --planted tree --name a --d-sae 20 --k 2 --tokens 2k --batch 256 --quiet").code == 0
    ran = run("eval all a --preset fast --synthetic.vectors 512 --meta_structure.steps 5 --json")
    assert ran.code == 0, ran.err
    found = {r["eval"]: r for r in ran.json}
    assert "synthetic" in found and "core" not in found and "sparse_probing" not in found
    assert found["synthetic"]["config"]["vectors"] == 512
    assert all(r["about"]["model"] == "planted tree" and r["about"]["site"] == "seed 0" for r in ran.json)


def test_a_preset_gives_way_to_flags_and_both_are_replayed(run, monkeypatch):
    from assay import registry

    presets = {"fast": {"vectors": 600}, "paper": {"vectors": 700}}
    monkeypatch.setattr(registry.EVALS, "presets", lambda key: presets if key == "synthetic" else {})
    assert run("train topk --planted tree --name a --d-sae 20 --k 2 --tokens 2k --batch 256 --quiet").code == 0
    for words, vectors in {"--preset fast": 600, "--preset paper": 700, "--preset fast --synthetic.vectors 512": 512}.items():
        (record,) = run(f"eval synthetic a {words} --json").json
        assert record["config"]["vectors"] == vectors, words
    kept = {p.read_text(): p for p in Path("assay-store/results/synthetic").glob("*.toml")}
    path = next(p for text, p in kept.items() if 'preset = "fast"' in text and 'vectors" = 600' in text)
    monkeypatch.setattr(registry.EVALS, "presets", lambda key: {})
    ran = run(f"eval synthetic a --config {path} --json")
    assert ran.code == 0, ran.err
    assert ran.json[0]["config"]["vectors"] == 600, "the preset's values are kept, not only its name"


def test_an_eval_of_a_model_says_that_planted_vectors_have_none(run):
    assert run("train topk --planted tree --name a --d-sae 20 --k 2 --tokens 2k --batch 256 --quiet").code == 0
    ran = run("eval core a")
    assert ran.code == 1
    assert "core: a learnt from planted vectors" in ran.err and "Evaluate synthetic instead" in ran.err


def test_what_was_trained_on_something_else_is_refused(run, vectors):
    for name, source in {"mine": f"--data {vectors}", "s0": "--planted tree", "s1": "--planted tree --seed 1"}.items():
        assert run(f"train topk {source} --d-sae 32 --k 2 --tokens 1k --batch 256 --name {name} --quiet").code == 0
    for ref in ("mine", "assay-store/coders/mine"):
        ran = run("eval synthetic s0", ref)
        assert ran.code == 1
        assert "mine was trained on 'tensors' data" in ran.err and "--planted superposition" in ran.err
    ran = run("eval synthetic s0 s1")
    assert ran.code == 1
    assert "s1 on planted tree (d 32, 20 features, seed 1)" in ran.err and "one source at a time" in ran.err
