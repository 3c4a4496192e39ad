"""assay results import and export: published results on our tables, ours in SAEBench's schema, all scores as Parquet."""

from __future__ import annotations

import json

import pyarrow.parquet
import pytest

from assay import results
from assay.store import Store
from tests.formats import published
from tests.test_results import make_record

COLUMN = "all zeroed"


@pytest.fixture
def store(home) -> Store:
    """./assay-store with two results of ours."""
    store = Store(home / "assay-store")
    results.write(store, make_record("topk-16", "topk", 16, 0.2))
    results.write(store, make_record("pca-10", "pca", 10, 0.6, True))
    return store


@pytest.fixture
def files(home) -> str:
    """Published files of two coders, and one that is cut short."""
    wide = published.LENS | {"d_sae": 65536, "architecture": "matryoshka_batch_topk"}
    other = {"sae_lens_id": "other", "sae_cfg_dict": wide}
    published.write(
        home / "files", cut=json.dumps(published.core())[:400], core=published.core(), probing=published.sparse_probing()
    )
    published.write(
        home / "files/gemma", wide=published.core(l0=40.5, ce=0.95, **other), wide_tpp=published.erased("tpp", **other)
    )
    published.write(home / "files/2025", standard=published.core(legacy=True, lens=False, l0=80.0))
    return "files"


def test_published_results_stand_on_our_tables_marked(run, store, files):
    ran = run(f"results import saebench {files}")
    assert ran.code == 0
    assert [line.split() for line in ran.out.splitlines()] == [
        ["eval", "new", "known"], ["core", "3", "0"], ["tpp", "1", "0"], ["sparse_probing", "1", "0"],
    ]  # fmt: skip
    assert "left out: files/cut_eval_results.json is not valid JSON" in ran.err
    table = run("results table").out
    lines = {line.split()[0]: line for part in table.split("\n\n")[:1] for line in part.splitlines()[1:]}
    assert COLUMN in lines["coder"]
    assert {name.startswith("saebench:") for name in lines if name != "coder"} == {True, False}
    mine = next(line for name, line in lines.items() if name == "topk-16")
    assert "0.8" in mine
    standard = next(line for name, line in lines.items() if "pythia-160m" in name)
    assert ("0.998" in standard, "relu" in standard, "pca" in standard) == (True, True, False)
    assert "sparse_probing" in table
    assert "0.774" in table

    again = run(f"results import saebench {files} --json").json
    assert again["imported"][0] == {"eval": "core", "new": 0, "known": 3}
    assert list(again["left_out"]) == ["files/cut_eval_results.json"]
    assert len(results.load(store)) == 7


def test_imported_results_are_filtered_like_ours(run, store, files):
    run(f"results import saebench {files} --quiet")
    for flags, expected in (
        ("--model pythia-160m-deduped", {"resid_post_layer_8_trainer_0"}),
        ("--site resid_post.4", {"trainer_10", "other"}),
        ("--width 64k", {"other"}),
        ("--architecture matryoshka,relu", {"other", "resid_post_layer_8_trainer_0"}),
        ("--l0 50..100", {"resid_post_layer_8_trainer_0"}),
        ("--l0 ..60 --model pythia-70m-deduped", {"other"}),
    ):
        rows = run(f"results table --eval core {flags} --json").json
        found = {name for name in expected for row in rows if row["coder"].endswith(name)}
        assert found == expected, flags
        assert len(rows) == len(expected), flags
    tpp = run("results table --eval tpp --l0 ..60 --metrics tpp[n=10]")
    assert "0.147" in tpp.out, "L0 is that of the same coder's core file"


def test_show_compare_and_plot_keep_them_apart(run, store, files):
    run(f"results import saebench {files} --quiet")
    name = next(r.coder for r in results.load(store, "core") if r.about["architecture"] == "matryoshka")
    shown = run(f"results show {name} --eval core").out
    assert "mse@saebench" in shown
    assert "SAEBench wrote −1" in shown
    assert f"No coder with results named {name}x" in run(f"results show {name}x").err.replace("'", "")
    against = run("results table --against topk-16 --eval core").out
    assert "saebench:" not in against, "nothing to pair"
    assert run("results plot curves.svg").code == 1


def test_a_table_shows_wholes_and_every_meaning(run, store, home):
    published.write(home / "a", new=published.absorption(), old=published.absorption(legacy=True))
    run("results import saebench a --quiet")
    lines = run("results table --eval absorption").out.splitlines()
    names = lines[1].split()[3:]
    assert sorted(names) == ["absorption_fraction", "absorption_fraction_saebench_0_3"], "no letters, one column a formula"
    found = [dict(zip(names, line.split()[-2:], strict=True)) for line in lines[2:]]
    assert {(row["absorption_fraction"], row["absorption_fraction_saebench_0_3"]) for row in found} == {
        ("0.016", "–"),
        ("–", "0.155"),
    }


def test_nothing_to_import(run, home):
    assert "nowhere does not exist" in run("results import saebench nowhere").err
    (home / "empty").mkdir()
    assert "holds no .json files" in run("results import saebench empty").err
    published.write(home / "bad", one="[]", two="{")
    ran = run("results import saebench bad")
    assert ran.code == 1
    assert "No file could be imported." in ran.err
    assert "bad/one_eval_results.json: the file is []" in ran.err
    assert "bad/two_eval_results.json is not valid JSON" in ran.err
    assert run("results import neuronpedia bad").code == 2


def test_export_in_saebenchs_schema(run, store, files):
    run(f"results import saebench {files} --quiet")
    ran = run("results export --format saebench --output out --eval core")
    assert ran.code == 0
    assert "wrote 5 files below out" in ran.err
    found = sorted(p.name for p in (store.root.parent / "out/core").iterdir())
    assert "topk-16_custom_sae_eval_results.json" in found
    told = run("results export --format saebench --output out2 --json").json
    assert len(told["files"]) == 7
    assert told["left_out"] == {}
    assert "needs --output, a directory" in run("results export --format saebench").err
    assert "--metrics does not go with" in run("results export --format saebench --output out --metrics l0").err
    assert "--against adds columns" in run("results export --format saebench --output out --against topk-16").err


def test_export_as_parquet(run, store):
    assert "needs --output, a file" in run("results export --format parquet").err
    assert run("results export --format parquet --output all.parquet --against pca-10").code == 0
    table = pyarrow.parquet.read_table("all.parquet")
    lines = run("results export --against pca-10").out.splitlines()
    assert table.column_names == lines[0].split(",")
    assert table.num_rows == len(lines) - 1
    row = next(
        row for row in table.to_pylist() if row["coder"] == "topk-16" and row["metric"] == "loss_recovered[ablation=mean]"
    )
    assert (row["value"], row["n"], row["better"], row["baseline"]) == (0.8, 16, "higher", False)
    assert row["difference_value"] == pytest.approx(0.4)
    assert run("results export --format parquet --output none.parquet --metrics l0 --architecture topk").code == 0
    assert pyarrow.parquet.read_table("none.parquet").num_rows == 1
