"""SAEBench's files, written: valid, each number SAEBench's own quantity, and the same when read again."""

from __future__ import annotations

import json
from dataclasses import replace

import jsonschema
import numpy as np
import pytest
import torch

from assay import coders, provenance, registry, results
from assay.coders.base import Batch
from assay.evals.core import Core, CoreConfig
from assay.evals.needs import Losses, PassesInput
from assay.formats.saebench import fields, reading, writing
from assay.randomness import generator, numpy_generator
from assay.results import Record, Score
from tests.formats.test_saebench import ALL, read, specs


def record_of(eval_name, scores, **other) -> Record:
    """A record of ours as `evaluate` makes it."""
    config, inputs = (
        other.pop("config", {"seed": 3}),
        {"model": "f00", "dtype": "float32", "text": "cafe", "site": "resid_post.1"},
    )
    about = {"architecture": "relu", "baseline": False, "d_in": 16, "d_out": 16, "d_sae": 64, "config": {}, "seed": 0}
    return Record(
        schema=1, key=results.key("hash", eval_name, 1, config, inputs), coder="mine", coder_hash="hash", eval=eval_name, eval_version=1,
        config=config, inputs=inputs, about=about | {"model": "tiny", "site": "resid_post.1"}, scores=scores, details=other.pop("details", {}),
        made=provenance.made(), **other,
    )  # fmt: skip


# ---- writing -------------------------------------------------------------------------------------------------------------------


def numbers(data) -> dict:
    """Metrics of a file, −1 and null alike."""
    return {c: {k: None if v == -1 else v for k, v in values.items()} for c, values in data["eval_result_metrics"].items()}


@pytest.mark.parametrize(
    "name",
    sorted(
        n for n, data in ALL.items() if data["eval_type_id"].lower() in fields.schemas() and not n.endswith(("2024", "2025"))
    ),
)
def test_what_came_in_goes_out_as_it_was(tmp_path, name):
    data = ALL[name]
    (path,), left = writing.write([read(tmp_path, data)], tmp_path / "out")
    assert left == {}
    assert path.name == f"{data['sae_lens_release_id']}_{data['sae_lens_id']}_eval_results.json".replace("/", "_")
    out = json.loads(path.read_text())
    jsonschema.validate(out, fields.schemas()[out["eval_type_id"]])
    same = data.keys() - {"eval_config", "eval_type_id", "eval_result_details", "eval_result_metrics", "datetime_epoch_millis"}
    assert {k: out[k] for k in same} == {k: data[k] for k in same}
    assert out["datetime_epoch_millis"] // 1000 == data["datetime_epoch_millis"] // 1000
    assert numbers(out) == numbers(data)
    if name in ("sparse_probing", "absorption", "scr", "tpp"):
        assert out["eval_result_details"] == [
            {k: None if v == -1 else v for k, v in row.items()} for row in data["eval_result_details"]
        ]


def probing(name="sparse_probing", dense=True) -> Record:
    random = numpy_generator("test_saebench", "probing")
    ks = ("1", "2", "5", "all") if dense else ("1",)
    wheres = [{"k": k, "on": on} for on in ("latents", "activations") for k in ks]
    scores = [
        Score(metric=metric, value=float(random.random()), where=d | w, n=9, low=0.1, high=0.9)
        for d in ({}, {"dataset": "film"}, {"dataset": "code"}, {"dataset": "film", "class": "bad"}) for w in wheres for metric in ("accuracy", "auc")
    ]  # fmt: skip
    return record_of(
        name, scores, config={"seed": 3, "datasets": "film,code", "train": 40, "test": 20, "context": 32, "k": "1,2,5"}
    )


def test_our_probing_goes_out_and_comes_back(tmp_path):
    record = probing()
    (path,), _ = writing.write([record], tmp_path)
    assert path == tmp_path / "sparse_probing" / "mine_custom_sae_eval_results.json"
    data = json.loads(path.read_text())
    jsonschema.validate(data, fields.schemas()["sparse_probing"])
    assert data["eval_result_metrics"]["sae"]["sae_top_2_test_accuracy"] == record.value("accuracy[k=2,on=latents]")
    assert data["eval_result_metrics"]["llm"]["llm_test_accuracy"] == record.value("accuracy[k=all,on=activations]")
    assert data["eval_result_metrics"]["sae"]["sae_top_10_test_accuracy"] is None
    assert [row["dataset_name"] for row in data["eval_result_details"]] == ["film_results", "code_results"]
    assert data["eval_result_details"][1]["llm_top_5_test_accuracy"] == record.value(
        "accuracy[dataset=code,k=5,on=activations]"
    )
    assert data["eval_config"]["k_values"] == [1, 2, 5]
    assert data["eval_config"]["dataset_names"] == ["film", "code"]
    assert data["sae_cfg_dict"]["hook_name"] == "blocks.1.hook_resid_post"
    assert data["eval_result_unstructured"]["assay"]["intervals"]["sae_top_1_test_accuracy"] == [0.1, 0.9, 9]
    assert "best on the test" in data["eval_result_unstructured"]["assay"]["differs"]["llm_test_accuracy"]

    back = reading.read(path)
    assert (back.coder, back.about["origin"]) == ("saebench:mine", "SAEBench")
    ours = {s.spec: s.value for s in record.scores if s.metric == "accuracy" and "class" not in s.where}
    assert specs(back) == ours
    assert writing.write([record], tmp_path) == ([path], {})
    assert json.loads(path.read_text()) == data, "the same again"


def test_what_cannot_be_written_says_so(tmp_path):
    none = record_of("absorption", [Score(metric="full_absorption", value=None, reason="3 of 26 letters can be used")])
    dense = record_of("density", [Score(metric="l0", value=3.0)])
    files, left = writing.write([none, dense, probing(dense=False)], tmp_path)
    assert left == {
        "absorption of mine": "3 of 26 letters can be used",
        "density of mine": "SAEBench has no eval like density.",
    }
    (path,) = files
    assert json.loads(path.read_text())["eval_result_metrics"]["llm"]["llm_test_accuracy"] == -1, "the schema asks for a number"


def test_of_two_settings_the_later_goes_out(tmp_path):
    old, new = probing(), replace(probing(), inputs={"text": "other"})
    new = replace(new, made=replace(new.made, at="2999-01-01T00:00:00+00:00"))
    for order in ([old, new], [new, old]):
        (path,), left = writing.write(order, tmp_path)
        assert json.loads(path.read_text())["eval_config"]["assay"]["inputs"] == {"text": "other"}
        assert left == {f"sparse_probing of mine ({old.setting})": left[f"sparse_probing of mine ({old.setting})"]}
        assert f"the later setting {new.setting}. Choose one with --setting" in next(iter(left.values()))


def test_absorption_scr_tpp_and_meta_go_out(tmp_path):
    letters = [Score(metric=m, value=v, where={"letter": a}, n=40) for m, a, v in (
        ("absorption_fraction", "a", 0.1), ("absorption_fraction", "b", 0.3), ("full_absorption", "a", 0.05), ("full_absorption", "b", 0.2),
        ("main_latents", "a", 1.0), ("main_latents", "b", 2.0), ("absorption_fraction_saebench_0_3", "a", 0.7),
    )]  # fmt: skip
    means = [
        Score(metric=m, value=v) for m, v in (("absorption_fraction", 0.2), ("full_absorption", 0.125), ("main_latents", 1.5))
    ]
    erased = [
        Score(metric=m, value=i / 10, where={"n": "10"} | d)
        for d in ({}, {"dataset": "film"})
        for i, m in enumerate(("scr", "scr_dir1", "scr_dir2"))
    ]
    perturbed = [Score(metric=m, value=i / 10, where={"n": "20"}) for i, m in enumerate(("tpp", "intended", "unintended"))]
    meta = [
        Score(metric="decoder_fraction_variance_explained", value=0.4, where={"rows": "fitted", "of": of})
        for of in ("decoder", "random")
    ]
    records = [
        record_of(name, scores)
        for name, scores in (("absorption", means + letters), ("scr", erased), ("tpp", perturbed), ("meta_structure", meta))
    ]
    files, left = writing.write(records, tmp_path)
    assert left == {}
    found = {path.parent.name: json.loads(path.read_text()) for path in files}
    for eval_id, data in found.items():
        jsonschema.validate(data, fields.schemas()[eval_id])
    mean = found["absorption_first_letter"]["eval_result_metrics"]["mean"]
    assert mean["mean_absorption_fraction_score"] == 0.2
    assert mean["std_dev_absorption_fraction_score"] == pytest.approx(np.std([0.1, 0.3], ddof=1))
    assert found["absorption_first_letter"]["eval_result_details"] == [
        {"first_letter": a, "mean_absorption_fraction": f, "full_absorption_rate": r, "num_full_absorption": full, "num_probe_true_positives": 40,
         "num_split_features": s} for a, f, r, full, s in (("a", 0.1, 0.05, 2, 1), ("b", 0.3, 0.2, 8, 2))
    ]  # fmt: skip
    assert found["scr"]["eval_result_metrics"]["scr_metrics"]["scr_dir2_threshold_10"] == 0.2
    assert found["scr"]["eval_result_details"][0]["dataset_name"] == "film_results"
    assert found["tpp"]["eval_result_metrics"]["tpp_metrics"]["tpp_threshold_20_intended_diff_only"] == 0.1
    assert found["tpp"]["eval_result_metrics"]["tpp_metrics"]["tpp_threshold_2_total_metric"] is None
    assert found["meta_structure_decoder_variance"]["eval_result_metrics"]["meta_structure"] == {
        "decoder_fraction_variance_explained": 0.4, "train_time_seconds": -1, "final_reconstruction_mse": -1,
    }  # fmt: skip


# ---- SAEBench's own formulas ---------------------------------------------------------------------------------------------------

N, D = 240, 6


def passes(x, document) -> PassesInput:
    random = numpy_generator("test_saebench", "losses")
    ce = {
        name: np.float32(random.random(N) + add)
        for name, add in (("clean", 2), ("spliced", 2.2), ("mean", 3), ("zero", 4), ("all", 5))
    }
    kl = {name: np.float32(random.random(N)) for name in ce}
    return PassesInput(
        documents=6, vectors=lambda: iter([(x, document)]), mean=x.mean(0), document=document, clean=Losses(ce["clean"], 0 * ce["clean"]),
        mean_ablated=Losses(ce["mean"], kl["mean"]), zero_ablated=Losses(ce["zero"], kl["zero"]), spliced=Losses(ce["spliced"], kl["spliced"]),
        zero_everywhere=Losses(ce["all"], kl["all"]),
    )  # fmt: skip


def theirs(x, y, z, given) -> dict[str, float]:
    """core of sae-bench 0.6.0 on one batch of text, from its formulas; `all` stands for its ablation."""
    error = ((x - y) ** 2).sum(-1)
    density = (z > 0).mean(0)
    ce, kl = (lambda part: part.ce.astype(np.float64).mean()), (lambda part: part.kl.astype(np.float64).mean())
    clean, spliced, ablated = given.clean, given.spliced, given.zero_everywhere
    return {
        "kl_div_score": (kl(ablated) - kl(spliced)) / kl(ablated), "kl_div_with_ablation": kl(ablated), "kl_div_with_sae": kl(spliced),
        "ce_loss_score": (ce(ablated) - ce(spliced)) / (ce(ablated) - ce(clean)),
        "ce_loss_with_ablation": ce(ablated), "ce_loss_with_sae": ce(spliced), "ce_loss_without_sae": ce(clean),
        "explained_variance": 1 - error.mean() / ((x**2).sum(-1).mean() - (x**2).mean(0).mean() ** 2),
        "explained_variance_legacy": (1 - error / ((x - x.mean(0)) ** 2).sum(-1)).mean(),
        "mse": (error / len(x)).mean(),
        "cossim": ((x * y).sum(-1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)).mean(),
        "l2_norm_in": np.linalg.norm(x, axis=1).mean(), "l2_norm_out": np.linalg.norm(y, axis=1).mean(),
        "l2_ratio": (np.linalg.norm(y, axis=1) / np.linalg.norm(x, axis=1)).mean(),
        "relative_reconstruction_bias": (y**2).sum(-1).mean() / (x * y).sum(-1).mean(),
        "l0": (z != 0).sum(-1).mean(), "l1": z.sum(-1).mean(), "frac_alive": (density > 0).mean(),
        "freq_over_1_percent": (density > 0.01).mean(), "freq_over_10_percent": (density > 0.1).mean(),
        "normalized_freq_over_1_percent": density[density > 0.01].sum() / density.sum(),
        "normalized_freq_over_10_percent": density[density > 0.1].sum() / density.sum(),
    }  # fmt: skip


@pytest.mark.parametrize("special", [True, False])
def test_each_field_of_core_is_sae_benchs_own_quantity_or_left_out(tmp_path, special):
    x = torch.randn(N, D, generator=generator("test_saebench", "x")) * torch.arange(1, D + 1) + 2.0
    given = passes(x, np.arange(N) % 6)
    coder = coders.new("topk", d_in=D, d_sae=24, k=3)
    coder.initialise(Batch.of(x))
    with torch.no_grad():
        scores, details = Core(CoreConfig(special=special)).run(
            coder.eval(), {"text": given if special else replace(given, zero_everywhere=None)}
        )
        code = coder.encode(x)
        y, z = coder.decode(code).double().numpy(), code.z.double().numpy()
    (path,), _ = writing.write([record_of("core", scores, config={"seed": 0, "special": special}, details=details)], tmp_path)
    data = json.loads(path.read_text())
    jsonschema.validate(data, fields.schemas()["core"])
    out = {k: v for values in data["eval_result_metrics"].values() for k, v in values.items()}
    expected = theirs(x.double().numpy(), y, z, given)
    left = set(data["eval_result_unstructured"]["assay"]["left_out"])
    assert left == {"mse", "l2_ratio"} | (
        set() if special else {"ce_loss_score", "ce_loss_with_ablation", "kl_div_score", "kl_div_with_ablation"}
    )
    assert all(out[name] == -1 for name in left)
    for name in expected.keys() - left:
        assert out[name] == pytest.approx(expected[name], rel=2e-5), name
    found = {s.spec: s.value for s in scores}
    for name in ("mse", "l2_ratio"):
        assert found[name] != pytest.approx(expected[name], rel=1e-3), "then it could go out"
    assert out["total_tokens_eval_reconstruction"] == N
    weights = coder.W_dec.detach().double().numpy()
    unit = weights / np.linalg.norm(weights, axis=1, keepdims=True)
    assert out["average_max_decoder_cosine_sim"] == pytest.approx((unit @ unit.T - 2 * np.eye(24)).max(1).mean(), rel=1e-5)


@pytest.mark.parametrize("name", registry.CODERS.names())
def test_latents_are_never_negative(name):
    """Why l1 and the frequencies are SAEBench's, which sums latents as they are and counts those above 0."""
    coder, x = coders.new(name, d_in=16, d_sae=32), torch.randn(64, 16, generator=generator("test_saebench", name))
    coder.initialise(Batch.of(x))
    with torch.no_grad():
        assert coder.eval().encode(x).z.min() >= 0
