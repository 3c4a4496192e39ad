"""Which SAEBench metric is which score of ours. A number never changes its meaning on the way.

Where SAEBench's definition is ours, a published value comes in under our metric, and ours goes out under its name. Where it is not,
a published value keeps a metric of its own, `NAME@saebench`, and ours does not go out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

OWN = "@saebench"
"""Ends the metric of a published value that no score of ours equals."""


@dataclass(frozen=True)
class Field:
    """A metric of SAEBench. `{k}` and the like stand for numbers, in its name and in our score's."""

    ours: str | None
    """Full name of the score of ours that goes out here, e.g. `accuracy[k={k},on=latents]`; None: we have no such quantity."""
    note: str = ""
    """What differs, or why there is none."""
    same: bool = True
    """Whether a published value is that score of ours too. False: it comes in under a name of its own."""


@dataclass(frozen=True)
class Sheet:
    """An eval of SAEBench."""

    eval: str
    """Ours."""
    fields: Mapping[str, Field]
    """By name, the foremost first; those not listed have no equal here."""
    rows: Mapping[str, str] = field(default_factory=dict)
    """Names in its details, where these are others, and the metric that each is a part of."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Its settings that one of ours equals, and that."""
    minus_one: bool = True
    """Whether −1 can only be SAEBench's mark for a number that it does not have."""


BATCHES = "SAEBench averages batches, Assay pools all tokens."
EVERYWHERE = "Zeros stand at all positions, BOS and padding too: `--core.special`."
ZEROED = "[ablation=zero_everywhere]"
ON_TEST = "SAEBench keeps the epoch that is best on the test examples; Assay looks at these once."
PROBE = "SAEBench's C is 1 and features are as they are; Assay chooses C on validation examples and standardises."

CORE = {
    "kl_div_score": Field(f"kl_div_score{ZEROED}", EVERYWHERE),
    "kl_div_with_ablation": Field(f"kl_ablated{ZEROED}", EVERYWHERE),
    "kl_div_with_sae": Field("kl"),
    "ce_loss_score": Field(f"loss_recovered{ZEROED}", EVERYWHERE),
    "ce_loss_with_ablation": Field(f"ce_loss_ablated{ZEROED}", EVERYWHERE),
    "ce_loss_with_sae": Field("ce_loss_spliced"),
    "ce_loss_without_sae": Field("ce_loss_clean"),
    "explained_variance": Field("explained_variance_saebench_0_6", BATCHES),
    "explained_variance_legacy": Field(
        "explained_variance_legacy", "SAEBench's mean is that of a batch. Files before 0.6 call this `explained_variance`."
    ),
    "mse": Field(None, "SAEBench divides each token's squared error by the number of tokens in the batch."),
    "cossim": Field("cosine_similarity"),
    "l2_norm_in": Field("l2_norm_in"),
    "l2_norm_out": Field("l2_norm_out"),
    "l2_ratio": Field(None, "SAEBench's is the mean of each token's ratio, Assay's `l2_ratio` the ratio of the means."),
    "relative_reconstruction_bias": Field("relative_reconstruction_bias", BATCHES),
    "l0": Field("l0"),
    "l1": Field("l1", "SAEBench sums without absolute values, which is the same: latents here are never negative."),
    "freq_over_1_percent": Field("freq_over_1_percent"),
    "freq_over_10_percent": Field("freq_over_10_percent"),
    "normalized_freq_over_1_percent": Field("normalized_freq_over_1_percent"),
    "normalized_freq_over_10_percent": Field("normalized_freq_over_10_percent"),
    "average_max_encoder_cosine_sim": Field("average_max_encoder_cosine_sim"),
    "average_max_decoder_cosine_sim": Field("average_max_decoder_cosine_sim"),
    "frac_alive": Field("frac_alive", "Depends on how many tokens are read."),
    "total_tokens_eval_reconstruction": Field(None, "Goes out from the record's details: `predicted`."),
    "total_tokens_eval_sparsity_variance": Field(None, "Goes out from the record's details: `tokens`."),
}
PROBING = {
    "sae_top_{k}_test_accuracy": Field("accuracy[k={k},on=latents]", PROBE),
    "llm_top_{k}_test_accuracy": Field("accuracy[k={k},on=activations]", PROBE),
    "sae_test_accuracy": Field("accuracy[k=all,on=latents]", ON_TEST, same=False),
    "llm_test_accuracy": Field("accuracy[k=all,on=activations]", ON_TEST, same=False),
}
WORDS = "Assay finds probes and main latents otherwise: see docs/evals/absorption.md."
SPREAD = "Over the scores by letter."
ABSORPTION = {
    "mean_absorption_fraction_score": Field("absorption_fraction", WORDS),
    "mean_absorption_fraction_score_legacy": Field(
        "absorption_fraction_saebench_0_3", "`mean_absorption_fraction_score` of files before 0.4.1, whose formula is another."
    ),
    "mean_full_absorption_score": Field("full_absorption", WORDS),
    "mean_full_absorption_score_legacy": Field(None, "`mean_full_absorption_score` of files before 0.4.1, over all letters."),
    "mean_num_split_features": Field("main_latents", WORDS),
    "std_dev_absorption_fraction_score": Field("absorption_fraction[std=letter]", SPREAD, same=False),
    "std_dev_full_absorption_score": Field("full_absorption[std=letter]", SPREAD, same=False),
    "std_dev_num_split_features": Field("main_latents[std=letter]", SPREAD, same=False),
}
BY_LETTER = {
    "mean_absorption_fraction": "mean_absorption_fraction_score", "full_absorption_rate": "mean_full_absorption_score",
    "num_split_features": "mean_num_split_features",
}  # fmt: skip
ERASED = "SAEBench draws negatives anew for each accuracy, and keeps the probes' epoch that is best on the test examples."
SCR = {
    "scr_metric_threshold_{n}": Field("scr[n={n}]", ERASED),
    "scr_dir1_threshold_{n}": Field("scr_dir1[n={n}]", ERASED),
    "scr_dir2_threshold_{n}": Field("scr_dir2[n={n}]", ERASED),
}
TPP = {
    "tpp_threshold_{n}_total_metric": Field("tpp[n={n}]", ERASED),
    "tpp_threshold_{n}_intended_diff_only": Field("intended[n={n}]", ERASED),
    "tpp_threshold_{n}_unintended_diff_only": Field("unintended[n={n}]", ERASED),
}
META = {
    "decoder_fraction_variance_explained": Field(
        "decoder_fraction_variance_explained[rows=fitted,of=decoder]",
        "SAEBench learns from all rows, Assay so with its preset `paper`.",
    ),
    "final_reconstruction_mse": Field("mse[rows=fitted]", "Likewise."),
    "train_time_seconds": Field(None, "Assay times the whole eval: see `made`."),
}
PROBING_SETTINGS = {
    "random_seed": "seed", "dataset_names": "datasets", "probe_train_set_size": "train", "probe_test_set_size": "test",
    "context_length": "context", "k_values": "k",
}  # fmt: skip
ABSORPTION_SETTINGS = {
    "random_seed": "seed", "f1_jump_threshold": "jump", "max_k_value": "max_latents", "prompt_template": "template",
    "k_sparse_probe_l1_decay": "l1", "min_GT_probe_f1": "min_probe_f1", "min_feats_for_eval": "min_letters",
}  # fmt: skip
ERASED_SETTINGS = {
    "random_seed": "seed", "dataset_names": "datasets", "context_length": "context", "n_values": "n",
    "probe_train_batch_size": "batch", "probe_epochs": "epochs", "probe_lr": "lr", "probe_l1_penalty": "l1",
}  # fmt: skip
META_SETTINGS = {
    "random_seed": "seed", "width_ratio": "width_ratio", "k": "k", "train_steps": "steps", "train_batch_size": "batch", "learning_rate": "lr",
}  # fmt: skip
SHEETS = {
    "core": Sheet("core", CORE),
    "sparse_probing": Sheet("sparse_probing", PROBING, settings=PROBING_SETTINGS),
    "sparse_probing_sae_probes": Sheet("sparse_probing_sae_probes", {}),
    "absorption_first_letter": Sheet("absorption", ABSORPTION, BY_LETTER, ABSORPTION_SETTINGS),
    "scr": Sheet("scr", SCR, settings=ERASED_SETTINGS, minus_one=False),
    "tpp": Sheet("tpp", TPP, settings=ERASED_SETTINGS, minus_one=False),
    "meta_structure_decoder_variance": Sheet("meta_structure", META, settings=META_SETTINGS),
    "ravel": Sheet("ravel", {}),
    "unlearning": Sheet("unlearning", {}),
    "autointerp": Sheet("autointerp", {}),
}
"""By `eval_type_id`."""
RENAMED = {"meta_sae_decoder_variance": "meta_structure_decoder_variance"}
"""Evals that once had another `eval_type_id`."""
ARCHITECTURES = {
    "standard": "relu", "standard_april_update": "relu", "p_anneal": "p_anneal", "gated": "gated", "topk": "topk",
    "batch_topk": "batch_topk", "batchtopk": "batch_topk", "matryoshka_batch_topk": "matryoshka", "matryoshka_batchtopk": "matryoshka",
    "jumprelu": "jumprelu", "transcoder": "transcoder", "skip_transcoder": "skip_transcoder",
}  # fmt: skip
"""SAEBench's and SAELens' names of architectures, and ours."""


def field_of(sheet: Sheet, name: str) -> Field:
    """What a metric's name means; one that is not listed has no equal."""
    for pattern, meant in sheet.fields.items():
        if found := _compiled(pattern).fullmatch(name):
            numbers = found.groupdict()
            return Field(meant.ours and meant.ours.format(**numbers), meant.note, meant.same) if numbers else meant
    return Field(None, "Assay has no such score.")


def rank(sheet: Sheet, metric: str) -> int:
    """Where a metric of ours stands in a sheet; what is SAEBench's alone comes last."""
    order = list(dict.fromkeys(parsed(f.ours)[0] for f in sheet.fields.values() if f.ours))
    return order.index(metric) if metric in order else len(order)


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>\\d+)", re.escape(pattern)))


def parsed(spec: str) -> tuple[str, dict[str, str]]:
    """(metric, where) of a score's full name."""
    metric, _, inner = spec.removesuffix("]").partition("[")
    return metric, dict(part.split("=", 1) for part in inner.split(",")) if inner else {}


@cache
def schemas() -> dict[str, dict[str, Any]]:
    """SAEBench's JSON Schemas by `eval_type_id`."""
    return json.loads(Path(__file__).with_name("schemas.json").read_text(encoding="utf-8"))


def metrics_of(eval_id: str) -> dict[str, dict[str, tuple[bool, str]]]:
    """{category: {metric: (whether it must be a number, its JSON type)}} of a schema."""
    defs = schemas()[eval_id]["$defs"]

    def node(part: Mapping[str, Any]) -> Mapping[str, Any]:
        return defs[part["$ref"].rsplit("/", 1)[-1]]

    categories = node(schemas()[eval_id]["properties"]["eval_result_metrics"])
    found: dict[str, dict[str, tuple[bool, str]]] = {}
    for category, part in categories["properties"].items():
        inner = node(part)
        kinds = {name: kind.get("type") or kind["anyOf"][0]["type"] for name, kind in inner["properties"].items()}
        found[category] = {name: (name in inner.get("required", ()), kind) for name, kind in kinds.items()}
    return found
