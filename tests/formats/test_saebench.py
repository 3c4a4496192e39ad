"""SAEBench's files: numbers keep their meaning both ways, our files satisfy its schemas, and nothing it finds makes the reader fall."""

from __future__ import annotations

import json
import math

import jsonschema
import pytest

from assay import registry, results
from assay.errors import AssayError, DamagedFile, MissingFile
from assay.evals.base import Metric
from assay.formats.saebench import fields, reading
from tests.formats import published

ALL = published.every()
WRITTEN = ("core", "sparse_probing", "absorption_first_letter", "scr", "tpp", "meta_structure_decoder_variance")


def read(tmp_path, data, name="x"):
    return reading.read(published.write(tmp_path / "files", **{name: data}) / f"{name}_eval_results.json")


def specs(record):
    return {s.spec: s.value for s in record.scores}


# ---- schemas -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(ALL))
def test_the_files_of_these_tests_are_what_sae_bench_writes(name):
    data = ALL[name]
    schema = fields.schemas().get(data["eval_type_id"].lower())
    if schema is None or name.endswith(("2024", "2025")):
        assert name in ("sae_probes", "core_2025", "absorption_2024", "absorption_2025")
    else:
        jsonschema.validate(data, schema)


def test_schemas_refuse_what_they_should():
    for path, value in (
        (("eval_id",), 5),
        (("eval_result_metrics", "sparsity", "l0"), "many"),
        (("datetime_epoch_millis",), None),
    ):
        data = json.loads(json.dumps(ALL["core"]))
        place = data
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(data, fields.schemas()["core"])


# ---- reading -------------------------------------------------------------------------------------------------------------------


def test_core_comes_in_by_meaning(tmp_path):
    record = read(tmp_path, ALL["core"])
    found = specs(record)
    assert (record.eval, record.eval_version, record.coder) == (
        "core", 0, "saebench:sae_bench_pythia70m_sweep_topk_ctx128_0730/blocks.4.hook_resid_post__trainer_10",
    )  # fmt: skip
    assert (found["l0"], found["cosine_similarity"], found["ce_loss_clean"]) == (377.0, 0.9956, 3.7)
    assert found["explained_variance_saebench_0_6"] == 0.9921
    assert found["explained_variance_legacy"] == 0.9858
    assert found["loss_recovered[ablation=zero_everywhere]"] == 0.9976
    assert {"explained_variance", "mse", "l2_ratio", "loss_recovered[ablation=zero]"} & found.keys() == set(), (
        "not our quantities"
    )
    assert (found["mse@saebench"], found["l2_ratio@saebench"]) == (0.0001, 0.994)
    assert found["kl"] is None
    assert "−1" in record.score("kl").reason
    assert all(s.low is None and s.high is None for s in record.scores)
    assert record.about == {
        "architecture": "topk", "baseline": False, "d_in": 512, "d_out": 512, "d_sae": 16384, "model": "pythia-70m-deduped",
        "site": "resid_post.4", "origin": "SAEBench",
    }  # fmt: skip
    assert record.made.at == "2025-01-16T06:36:48+00:00"
    assert record.details["origin"]["sae_bench_commit_hash"] == "8042bb3828c6340da8d12062324e92b2077c571c"


def test_a_name_that_changed_its_meaning_is_told_apart(tmp_path):
    old, new = read(tmp_path, ALL["core_2025"]), read(tmp_path, published.core(lens=False))
    assert specs(old)["explained_variance_legacy"] == 0.9858
    assert "explained_variance_saebench_0_6" not in specs(old)
    assert "explained_variance of this file is the formula" in old.details["caveat"]
    assert old.coder_hash == new.coder_hash
    assert old.setting != new.setting, "never compared"

    old, new = read(tmp_path, ALL["absorption_2025"]), read(tmp_path, ALL["absorption"])
    assert (specs(old)["absorption_fraction_saebench_0_3"], specs(new)["absorption_fraction"]) == (0.155, 0.016)
    assert "absorption_fraction" not in specs(old)
    assert "full_absorption" not in specs(old)
    assert specs(old)["mean_full_absorption_score_legacy@saebench"] == 0.0075
    assert (specs(new)["full_absorption[letter=b]"], new.score("full_absorption[letter=b]").n) == (0.01, 400)
    assert old.setting != new.setting

    oldest = read(tmp_path, ALL["absorption_2024"])
    assert specs(oldest)["mean_absorption_score@saebench"] == 0.2
    assert (oldest.about["architecture"], oldest.about["site"], oldest.about["model"]) == (
        "unknown",
        "unknown",
        "pythia-70m-deduped",
    )
    assert oldest.made.at.startswith("2024-10-25")


def test_probing_and_erasing_come_in_by_k_n_and_dataset(tmp_path):
    found = specs(read(tmp_path, ALL["sparse_probing"]))
    assert (found["accuracy[k=1,on=latents]"], found["accuracy[k=5,on=activations]"]) == (0.7744, 0.8532)
    assert found["accuracy[dataset=LabHC/bias_in_bios_class_set1,k=2,on=latents]"] == 0.82
    assert "accuracy[k=all,on=activations]" not in found, "SAEBench's dense probe is chosen on the test examples"
    assert found["llm_test_accuracy@saebench"] == 0.9516
    assert found["sae_test_accuracy@saebench"] is None
    found = specs(read(tmp_path, ALL["scr"]))
    assert (found["scr[n=10]"], found["scr_dir2[n=10]"]) == (0.757, 0.344)
    assert found["scr[dataset=LabHC/bias_in_bios_class_set1_scr_professor_nurse,n=10]"] == 0.757
    assert not [s for s in found if "n=20" in s], "null is not asked for"
    assert specs(read(tmp_path, ALL["tpp"]))["tpp[n=10]"] == 0.147


def test_evals_without_a_twin_come_in_whole(tmp_path):
    for name, eval_name, metric, value in (
        ("ravel", "ravel", "disentanglement_score@saebench", 0.512), ("unlearning", "unlearning", "unlearning_score@saebench", 0.0976),
        ("autointerp", "autointerp", "autointerp_std_dev@saebench", 0.118), ("sae_probes", "sparse_probing_sae_probes", "sae_top_1_test_auc@saebench", 0.76),
    ):  # fmt: skip
        record = read(tmp_path, ALL[name])
        assert (record.eval, specs(record)[metric]) == (eval_name, value)
    assert specs(record)["llm_test_auc@saebench[dataset=5_hist_fig_ismale]"] == 0.97
    assert specs(read(tmp_path, ALL["meta"]))["decoder_fraction_variance_explained[rows=fitted,of=decoder]"] == 0.243


def test_no_metric_of_ours_is_taken_by_mistake():
    """Every score of ours that a sheet names is declared by that eval; and what comes in otherwise never is."""
    for sheet in fields.SHEETS.values():
        declared = registry.EVALS.load(sheet.eval).metrics if sheet.eval in registry.EVALS else {}
        for name, field in sheet.fields.items():
            assert field.note or field.ours, f"{name} has no equal and does not say why"
            if field.ours is not None and declared:
                assert isinstance(declared.get(fields.parsed(field.ours)[0]), Metric), (sheet.eval, field.ours)
        assert not [m for m in declared if m.endswith(fields.OWN)]


def test_every_field_of_a_schema_is_accounted_for():
    for eval_id in WRITTEN:
        sheet = fields.SHEETS[eval_id]
        for names in fields.metrics_of(eval_id).values():
            for name in names:
                assert fields.field_of(sheet, name).note != "Assay has no such score.", f"{eval_id}: {name}"


def test_pca_and_neurons_are_baselines(tmp_path):
    cfg = published.CUSTOM | {"architecture": ""}
    for release, architecture, baseline in (
        ("gemma-2-2b_layer_12_pca", "pca", True),
        ("pythia_identity_sae", "identity", True),
        ("x", "unknown", False),
    ):
        record = read(tmp_path, published.core(lens=False, sae_cfg_dict=cfg, sae_lens_release_id=release))
        assert (record.about["architecture"], record.about["baseline"]) == (architecture, baseline)


# ---- what is not what it should be ---------------------------------------------------------------------------------------------


def deep(levels: int) -> str:
    return "[" * levels + "]" * levels


HOSTILE = {
    "truncated": (json.dumps(ALL["core"])[:700], "not valid JSON"),
    "no text": ("\udcff", "not valid JSON"),
    "a list": ("[]", r"the file is \[\]"),
    "no id": (json.dumps({k: v for k, v in ALL["core"].items() if k != "eval_type_id"}), "eval_type_id is None"),
    "another id": (json.dumps(ALL["core"] | {"eval_type_id": "mmlu"}), "eval_type_id is 'mmlu'; expected one of core"),
    "no metrics": (json.dumps(ALL["core"] | {"eval_result_metrics": {}}), "eval_result_metrics is {}"),
    "flat metrics": (json.dumps(ALL["core"] | {"eval_result_metrics": {"l0": 3}}), "eval_result_metrics.l0 is 3"),
    "text for a number": (json.dumps(published.core(l0="many")), "eval_result_metrics.sparsity.l0 is 'many'"),
    "NaN": (json.dumps(published.core(l0=math.nan)), "eval_result_metrics.sparsity.l0 is nan; expected a finite number"),
    "1e999": (json.dumps(published.core(l0=7.125)).replace("7.125", "1e999"), "sparsity.l0 is inf"),
    "a huge number": (json.dumps(published.core(l0=7.125)).replace("7.125", "9" * 400), "sparsity.l0 is 99"),
    "more digits than that": (json.dumps(published.core(l0=7.125)).replace("7.125", "9" * 5000), "not valid JSON|sparsity.l0"),
    "NaN in a setting": (json.dumps(ALL["core"] | {"eval_config": {"lr": math.nan}}), "eval_config.lr is nan"),
    "deep": (deep(100_000), "nested too deeply"),
    "deep in a setting": (json.dumps(ALL["core"]).replace('"verbose": true', f'"verbose": {deep(200)}'), r"eval_config.verbose\[0\].*12 levels"),
    "deep in a metric": (json.dumps(published.core(l0=7.125)).replace("7.125", deep(200)), "sparsity.l0 is"),
    "an escape in a name": (json.dumps(ALL["core"] | {"sae_lens_release_id": "\x1b[2J"}), "sae_lens_release_id is '.x1b"),
    "a long name": (json.dumps(ALL["core"] | {"sae_lens_id": "x" * 10_000}), "sae_lens_id is 'xxx"),
    "time": (json.dumps(ALL["core"] | {"datetime_epoch_millis": -5}), "datetime_epoch_millis is -5"),
    "time as what": (json.dumps(ALL["core"] | {"datetime_epoch_millis": [1]}), "datetime_epoch_millis is"),
    "details": (json.dumps(ALL["scr"] | {"eval_result_details": [{"dataset_name": 5}]}), r"eval_result_details\[0\].dataset_name is 5"),
    "details of what": (json.dumps(ALL["scr"] | {"eval_result_details": 5}), "eval_result_details is 5"),
    "coder": (json.dumps(ALL["core"] | {"sae_cfg_dict": {"d_sae": "wide"}}), "sae_cfg_dict.d_sae is 'wide'"),
    "width": (json.dumps(ALL["core"] | {"sae_cfg_dict": {"d_sae": math.inf}}), "sae_cfg_dict.d_sae is inf"),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_a_bad_file_is_named_with_its_field(tmp_path, name):
    text, expected = HOSTILE[name]
    path = tmp_path / "bad_eval_results.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(AssayError, match=expected) as error:
        reading.read(path)
    assert str(path) in str(error.value)
    assert len(str(error.value)) < 400


def test_a_file_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "LARGEST", 100)
    with pytest.raises(DamagedFile, match="no result of SAEBench is larger than 100"):
        read(tmp_path, ALL["core"])


def test_the_rest_of_a_directory_is_read(tmp_path):
    later = ALL["core"] | {"datetime_epoch_millis": 1737009409554, "eval_id": "later"}
    directory = published.write(tmp_path / "files", good=ALL["core"], twin=later, cut=json.dumps(ALL["tpp"])[:300])
    published.write(directory / "ravel", ravel=ALL["ravel"], a_list="[]")
    found, left = reading.read_all(directory)
    assert sorted(r.eval for r in found) == ["core", "ravel"]
    assert [r.details["origin"]["eval_id"] for r in found if r.eval == "core"] == ["later"]
    assert {name.rsplit("/", 1)[-1].split("_eval")[0] for name in left} == {"good", "cut", "a_list"}
    assert "is later" in next(reason for name, reason in left.items() if "good" in name)
    assert all(name in reason for name, reason in left.items())
    assert reading.read_all(directory / "good_eval_results.json")[1] == {}
    for nothing in (tmp_path / "nowhere", published.write(tmp_path / "empty")):
        with pytest.raises(MissingFile):
            reading.read_all(nothing)


def test_the_same_file_gives_the_same_record(tmp_path, store):
    first, again = read(tmp_path, ALL["core"]), read(tmp_path, ALL["core"])
    assert first == again
    results.write(store, first)
    assert results.find(store, "core", first.key) == first
    faster = read(tmp_path, published.core() | {"eval_config": ALL["core"]["eval_config"] | {"verbose": False}})
    assert faster.setting == first.setting
    more = read(tmp_path, published.core() | {"eval_config": ALL["core"]["eval_config"] | {"context_size": 1024}})
    assert more.setting != first.setting
