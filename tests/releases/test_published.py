"""Figures that were published with a coder: marked records beside ours, never paired or confused with them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from assay import codec, provenance, results
from assay.errors import BadInput
from assay.releases import published
from assay.releases.references import Located
from assay.results import Record, Score
from tests.formats import published as files

ABOUT = {"architecture": "jumprelu", "baseline": False, "d_in": 6, "d_sae": 16, "model": "org/m", "site": "resid_post.3"}
EVALUATED = {
    "l2_loss": 3.1, "l1_loss": 20.5, "l0": 79.6, "frac_variance_explained": 0.81, "cossim": 0.9, "l2_ratio": 0.89,
    "relative_reconstruction_bias": 0.99, "loss_original": 3.2, "loss_reconstructed": 3.3, "loss_zero": 12.4, "frac_recovered": 0.985,
    "frac_alive": 0.97, "hyperparameters": {"n_inputs": 1000, "context_length": 1024},
}  # fmt: skip
"""What dictionary_learning's demo writes beside a coder."""


def ours(**changes) -> Record:
    made = provenance.Made(package="0.1", git=None, at="2026-01-01T00:00:00+00:00", device="cpu", python="3", versions={})
    return Record(
        schema=1, key="k", coder="mine", coder_hash="h" * 64, eval="core", eval_version=2, config={"seed": 0}, inputs={"model": "m"},
        about=ABOUT, scores=[Score(metric="l0", value=40.0), Score(metric="fvu", value=0.3)], details={"blocks": {}}, made=made,
    ) if not changes else replace(ours(), **changes)  # fmt: skip


def test_an_l0_of_the_release_is_a_record_of_core(tmp_path):
    found, left = published.records("gs", "h" * 64, ABOUT, Located(path=tmp_path, l0=82.0, origin={"reference": "rel/id"}))
    (record,) = found
    assert left == []
    assert (record.coder, record.eval, record.value("l0")) == ("published:gs", "core", 82.0)
    assert record.about["origin"] == "release"
    assert record.details["reference"] == "rel/id"
    assert record.details["of"] == {"coder": "gs", "hash": "h" * 64}
    assert (record.about["model"], record.about["site"]) == ("org/m", "resid_post.3")


def test_what_dictionary_learning_measured_comes_under_the_names_that_mean_the_same(tmp_path):
    path = tmp_path / "eval_results.json"
    path.write_text(json.dumps(EVALUATED | {"l1_loss": None}))
    (record,), _ = published.records("sb", "h" * 64, ABOUT, Located(path=tmp_path, beside=(path,)))
    assert record.about["origin"] == "dictionary_learning"
    assert (record.value("l0"), record.value("ce_loss_spliced"), record.value("l1")) == (79.6, 3.3, None)
    assert record.value("loss_recovered[ablation=zero_everywhere]") == 0.985
    assert record.value("frac_variance_explained@dictionary_learning") == 0.81, "its errors are centred, ours are not"
    assert record.value("explained_variance") is None


def test_saebench_files_beside_a_coder_are_its(tmp_path):
    path = tmp_path / "x_eval_results.json"
    path.write_text(json.dumps(files.core()))
    (record,), left = published.records("sb", "h" * 64, ABOUT, Located(path=tmp_path, beside=(path,)))
    assert left == []
    assert (record.coder, record.about["origin"], record.value("l0")) == ("published:sb", "SAEBench", 377.0)
    assert record.details["origin"]["eval_type_id"] == "core"


def test_records_that_assay_pushed_come_back(tmp_path):
    path = tmp_path / "results.json"
    path.write_text(codec.to_json({"records": [codec.to_data(ours())]}))
    (record,), _ = published.records("theirs", "i" * 64, ABOUT, Located(path=tmp_path, beside=(path,)))
    assert (record.coder, record.about["origin"], record.value("fvu"), record.eval_version) == (
        "published:theirs",
        "Assay",
        0.3,
        2,
    )
    assert record.setting != ours().setting, "it is compared with nothing of ours"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("eval_results.json", "{}"), ("eval_results.json", "[1]"), ("eval_results.json", '{"l0": "many"}'), ("eval_results.json", "{"),
        ("results.json", "{}"), ("results.json", '{"records": [{"schema": 1}]}'), ("results.json", '{"records": 3}'),
        ("results.json", '{"records": [{"schema": 99}]}'), ("x_eval_results.json", "{}"),
    ],
)  # fmt: skip
def test_files_that_hold_none_are_named_and_left(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    found, left = published.records("c", "h" * 64, ABOUT, Located(path=tmp_path, l0=5.0, beside=(path,)))
    assert [r.about["origin"] for r in found] == ["release"], "the rest stays"
    assert len(left) == 1
    assert name in left[0]


def test_an_eval_with_a_hostile_name_goes_nowhere(tmp_path, store):
    path = tmp_path / "results.json"
    path.write_text(codec.to_json({"records": [codec.to_data(ours(eval="../../evil"))]}))
    found, left = published.records("c", "h" * 64, ABOUT, Located(path=tmp_path, beside=(path,)))
    assert found == []
    assert "no eval's name" in left[0]


def test_they_stand_beside_ours_and_are_never_taken_for_them(store):
    found, _ = published.records("mine", "h" * 64, ABOUT, Located(path=store.root, l0=82.0))
    results.write(store, ours(key="a" * 16))
    published.keep(store, found)
    published.keep(store, [replace(found[0], scores=[Score(metric="l0", value=1.0)])])
    everything = results.load(store, "core")
    assert [(r.coder, r.value("l0")) for r in everything] == [("mine", 40.0), ("published:mine", 82.0)], "what is there stays"
    assert {p.record.coder: p.advantage for p in results.leaderboard(everything)} == {"published:mine": None}
    assert {r.coder_hash == "h" * 64 for r in everything if r.coder == "published:mine"} == {False}, (
        "else `--again never` would take it"
    )
    assert results.sparsities(everything)["h" * 64] == 40.0
    assert results.latest(everything) == everything, "versions of different makers do not replace each other"
    with pytest.raises(BadInput, match="one setting"):
        results.combination(everything, lambda v: v[..., 0])


def test_the_same_files_give_the_same_records(tmp_path):
    located = Located(path=tmp_path, l0=82.0)
    assert published.records("gs", "h", ABOUT, located) == published.records("gs", "h", ABOUT, located)
