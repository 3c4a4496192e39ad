"""Result files as versions of SAEBench write them: the fields, their order and values of its own acceptance tests where these are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

NS = (2, 5, 10, 20, 50, 100, 500)
SUITE = "saebench_pythia-160m-deduped_width-2pow12_date-0108_Standard_pythia-160m-deduped__0108_resid_post_layer_8_trainer_0"
CUSTOM = {
    "model_name": "pythia-160m-deduped", "d_in": 768, "d_sae": 4096, "hook_layer": 8, "hook_name": "blocks.8.hook_resid_post",
    "context_size": None, "hook_head_index": None, "architecture": "standard_april_update", "apply_b_dec_to_input": None,
    "activation_fn_str": "", "prepend_bos": True, "normalize_activations": "none", "dtype": "float32", "device": "",
    "dataset_path": "", "seqpos_slice": [None], "training_tokens": 499998720, "neuronpedia_id": None,
}  # fmt: skip
"""`sae_cfg_dict` of a coder that is not from SAELens."""
LENS = {
    "d_in": 512, "d_sae": 16384, "dtype": "float32", "device": "cuda", "apply_b_dec_to_input": True, "normalize_activations": "none",
    "metadata": {
        "sae_lens_version": "6.44.4", "model_name": "pythia-70m-deduped", "hook_name": "blocks.4.hook_resid_post", "hook_layer": 4,
        "prepend_bos": True, "dataset_path": "monology/pile-uncopyrighted", "context_size": 128, "model_from_pretrained_kwargs": {},
    },
    "k": 80, "architecture": "topk",
}  # fmt: skip
"""The same of one from SAELens 6, which puts most under `metadata`."""


def file(eval_id: str, config: dict, metrics: dict, details: Any = (), *, lens: bool = True, **other: Any) -> dict[str, Any]:
    """A whole file."""
    release, id_ = (
        ("sae_bench_pythia70m_sweep_topk_ctx128_0730", "blocks.4.hook_resid_post__trainer_10")
        if lens
        else (SUITE, "custom_sae")
    )
    return {
        "eval_type_id": eval_id, "eval_config": config, "eval_id": "9b853a36-4822-4632-b220-0beafe91faab",
        "datetime_epoch_millis": 1737009408554, "eval_result_metrics": metrics, "eval_result_details": list(details),
        "sae_bench_commit_hash": "8042bb3828c6340da8d12062324e92b2077c571c", "sae_lens_id": id_, "sae_lens_release_id": release,
        "sae_lens_version": "6.44.4", "sae_cfg_dict": LENS if lens else CUSTOM, "eval_result_unstructured": None,
    } | other  # fmt: skip


def core(*, legacy: bool = False, l0: float = 377.0, ce: float = 0.9976, **other: Any) -> dict[str, Any]:
    """core; `legacy`: as published in January 2025, with the older explained variance under its only name."""
    quality = {"explained_variance": 0.9858, "mse": 0.0001, "cossim": 0.9956}
    if not legacy:
        quality = {"explained_variance": 0.9921, "explained_variance_legacy": 0.9858, "mse": 0.0001, "cossim": 0.9956}
    metrics = {
        "model_behavior_preservation": {"kl_div_score": -1.0, "kl_div_with_ablation": -1.0, "kl_div_with_sae": -1.0},
        "model_performance_preservation": {
            "ce_loss_score": ce, "ce_loss_with_ablation": 12.4, "ce_loss_with_sae": 3.72, "ce_loss_without_sae": 3.7,
        },
        "reconstruction_quality": quality,
        "shrinkage": {"l2_norm_in": 41.25, "l2_norm_out": 41.0, "l2_ratio": 0.994, "relative_reconstruction_bias": 0.9969},
        "sparsity": {"l0": l0, "l1": 121.5},
        "token_stats": {"total_tokens_eval_reconstruction": 409600, "total_tokens_eval_sparsity_variance": 4096000},
        "misc_metrics": {
            "freq_over_1_percent": 0.25, "freq_over_10_percent": 0.04, "normalized_freq_over_1_percent": 0.9,
            "normalized_freq_over_10_percent": 0.5, "average_max_encoder_cosine_sim": 0.31, "average_max_decoder_cosine_sim": 0.29,
            "frac_alive": 0.998,
        },
    }  # fmt: skip
    config = {
        "model_name": "", "llm_dtype": "float32", "batch_size_prompts": 16, "n_eval_reconstruction_batches": 200,
        "n_eval_sparsity_variance_batches": 2000, "dataset": "Skylion007/openwebtext", "context_size": 128, "compute_kl": True,
        "compute_ce_loss": True, "exclude_special_tokens_from_reconstruction": True, "verbose": True,
    }  # fmt: skip
    return file("core", config, metrics, **other)


def sparse_probing(**other: Any) -> dict[str, Any]:
    """sparse_probing of one set of classes, without the dense probe on latents."""
    values = {"llm_test_accuracy": 0.9516, "llm_top_1_test_accuracy": 0.7604, "llm_top_2_test_accuracy": 0.8026}
    values |= {"llm_top_5_test_accuracy": 0.8532} | {f"llm_top_{k}_test_accuracy": None for k in (10, 20, 50, 100)}
    ours = {
        "sae_test_accuracy": -1.0,
        "sae_top_1_test_accuracy": 0.7744,
        "sae_top_2_test_accuracy": 0.82,
        "sae_top_5_test_accuracy": 0.8794,
    }
    ours |= {f"sae_top_{k}_test_accuracy": None for k in (10, 20, 50, 100)}
    row = {"dataset_name": "LabHC/bias_in_bios_class_set1_results", **values, **ours}
    config = {
        "random_seed": 44, "dataset_names": ["LabHC/bias_in_bios_class_set1"], "probe_train_set_size": 4000, "probe_test_set_size": 1000,
        "context_length": 128, "sae_batch_size": 125, "llm_batch_size": 512, "llm_dtype": "float32", "model_name": "pythia-70m-deduped",
        "k_values": [1, 2, 5], "lower_vram_usage": True,
    }  # fmt: skip
    return file("sparse_probing", config, {"llm": values, "sae": ours}, [row], **other)


def absorption(*, legacy: bool = False, **other: Any) -> dict[str, Any]:
    """absorption of two letters; `legacy`: before the thresholds of 0.4.1."""
    fraction = 0.155 if legacy else 0.016
    means = {"mean_absorption_fraction_score": fraction, "mean_full_absorption_score": 0.0075, "mean_num_split_features": 1.5}
    means |= {"std_dev_absorption_fraction_score": 0.0, "std_dev_full_absorption_score": 0.0035355339059327377}
    means["std_dev_num_split_features"] = 0.7071067811865476
    rows = [
        {
            "first_letter": letter, "mean_absorption_fraction": fraction, "full_absorption_rate": full / 400,
            "num_full_absorption": full, "num_probe_true_positives": 400, "num_split_features": split,
        } for letter, full, split in (("a", 2, 1), ("b", 4, 2))
    ]  # fmt: skip
    config = {
        "model_name": "pythia-160m-deduped",
        "random_seed": 42,
        "f1_jump_threshold": 0.03,
        "max_k_value": 10,
        "llm_batch_size": 32,
    }
    config |= {} if legacy else {"min_GT_probe_f1": 0.6, "min_feats_for_eval": 20}
    return file("absorption_first_letter", config, {"mean": means}, rows, lens=False, **other)


def absorption_2024() -> dict[str, Any]:
    """absorption as its first version wrote it: other names, no configuration of the coder, the time as text."""
    data = file(
        "absorption_first_letter", {"model_name": "pythia-70m-deduped"}, {"mean": {"mean_absorption_score": 0.2, "mean_num_split_features": 3.5}},
        [{"first_letter": "a", "num_absorption": 177, "absorption_rate": 0.29, "num_probe_true_positives": 615.0, "num_split_features": 1}],
        datetime_epoch_millis="1729834113150",
    )  # fmt: skip
    return {k: v for k, v in data.items() if k not in ("sae_cfg_dict", "eval_result_unstructured")}


def erased(eval_id: str, **other: Any) -> dict[str, Any]:
    """scr or tpp, at n = 10 alone; the other thresholds are null."""
    kinds = ("scr_dir1_threshold_{}", "scr_metric_threshold_{}", "scr_dir2_threshold_{}")
    at_10, category, suffix = (0.757, 0.757, 0.344), "scr_metrics", "scr_professor_nurse"
    if eval_id == "tpp":
        kinds = tuple(f"tpp_threshold_{{}}_{kind}" for kind in ("total_metric", "intended_diff_only", "unintended_diff_only"))
        at_10, category, suffix = (0.147, 0.16, 0.013), "tpp_metrics", "tpp"
    values = {kind.format(n): value if n == 10 else None for n in NS for kind, value in zip(kinds, at_10, strict=True)}
    config = {
        "random_seed": 42,
        "dataset_names": ["LabHC/bias_in_bios_class_set1"],
        "perform_scr": eval_id == "scr",
        "n_values": [10],
    }
    config |= {
        "model_name": "pythia-70m-deduped",
        "sae_batch_size": 250,
        "column1_vals_lookup": {"LabHC/bias_in_bios_class_set1": [["professor", "nurse"]]},
    }
    return file(
        eval_id,
        config,
        {category: values},
        [{"dataset_name": f"LabHC/bias_in_bios_class_set1_{suffix}_results", **values}],
        **other,
    )


def others() -> dict[str, dict[str, Any]]:
    """The evals that have no dimension."""
    gemma = {"model_name": "gemma-2-2b", "random_seed": 42}
    return {
        "meta": file(
            "meta_structure_decoder_variance", {"random_seed": 42, "width_ratio": 0.25, "k": 4, "train_steps": 1500},
            {"meta_structure": {"decoder_fraction_variance_explained": 0.243, "train_time_seconds": 5.1, "final_reconstruction_mse": 0.0014}},
        ),
        "ravel": file(
            "RAVEL", gemma | {"entity_attribute_selection": {"city": ["Country", "Continent", "Language"]}},
            {"ravel": {"disentanglement_score": 0.512, "cause_score": 0.59, "isolation_score": 0.433}},
        ),
        "unlearning": file("unlearning", gemma, {"unlearning": {"unlearning_score": 0.0976}}),
        "autointerp": file("autointerp", gemma | {"n_latents": 100, "override_latents": None}, {"autointerp": {"autointerp_score": 0.844, "autointerp_std_dev": 0.118}}),
        "sae_probes": file(
            "sparse_probing_sae_probes", gemma | {"reg_type": "l1", "ks": [1, 2, 5]},
            {"llm": {"llm_test_auc": 0.94}, "sae": {"sae_top_1_test_auc": 0.76, "sae_top_2_test_auc": None}},
            [{"dataset_name": "5_hist_fig_ismale", "llm_test_auc": 0.97, "sae_top_1_test_auc": 0.81, "sae_metrics_by_k": {"1": {"test_auc": 0.81}}}],
        ),
    }  # fmt: skip


def every() -> dict[str, dict[str, Any]]:
    """A file of each kind, by a name."""
    return {
        "core": core(), "core_2025": core(legacy=True, lens=False), "sparse_probing": sparse_probing(), "absorption": absorption(),
        "absorption_2025": absorption(legacy=True), "absorption_2024": absorption_2024(), "scr": erased("scr"), "tpp": erased("tpp"), **others(),
    }  # fmt: skip


def write(directory: Path, **files: dict[str, Any] | str) -> Path:
    """Files NAME_eval_results.json in a directory; text is written as it is."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        text = data if isinstance(data, str) else json.dumps(data, indent=2)
        (directory / f"{name}_eval_results.json").write_text(text, encoding="utf-8")
    return directory
