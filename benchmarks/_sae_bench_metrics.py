"""Which metric of sae-bench 0.6 is which of ours, and where its definition is known to be another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks._sae_bench_job import Job


def _one(job: Job) -> float:
    return 1.0


@dataclass(frozen=True)
class Metric:
    """One number on both sides."""

    theirs: str
    ours: str
    """Full name of a score."""
    about: str = ""
    """How sae-bench defines it, where that is not as we do."""
    right: bool = True
    """Whether agreement is to be expected."""
    factor: Callable[[Job], float] = _one
    """What its value has to be multiplied by."""


LAST = "its mean includes each row's last position, which predicts nothing"
CORE = (
    Metric("ce_loss_without_sae", "ce_loss_clean"),
    Metric("ce_loss_with_sae", "ce_loss_spliced"),
    Metric("ce_loss_with_ablation", "ce_loss_ablated[ablation=zero]"),
    Metric("ce_loss_score", "loss_recovered[ablation=zero]"),
    Metric("kl_div_with_sae", "kl", LAST),
    Metric("kl_div_with_ablation", "kl_ablated[ablation=zero]", LAST),
    Metric("kl_div_score", "kl_div_score[ablation=zero]", LAST),
    Metric("explained_variance", "explained_variance", "wrong: not centred, and changes with the scale of the activations", right=False),
    Metric("explained_variance", "explained_variance_saebench_0_6", "the same formula"),
    Metric("explained_variance_legacy", "explained_variance_legacy", "a mean of ratios, each with its batch's mean"),
    Metric("mse", "mse", "wrong: an error summed over entries and divided by the tokens of a batch", right=False),
    Metric(
        "mse", "mse", "the same, times tokens of a batch and over d",
        factor=lambda job: job.batch_rows * job.context / job.width,
    ),
    Metric("cossim", "cosine_similarity"),
    Metric("l2_norm_in", "l2_norm_in"),
    Metric("l2_norm_out", "l2_norm_out"),
    Metric("l2_ratio", "l2_ratio", "a mean of ratios"),
    Metric("relative_reconstruction_bias", "relative_reconstruction_bias", "a mean over batches of ratios"),
    Metric("l0", "l0"),
    Metric("l1", "l1"),
    Metric("frac_alive", "frac_alive"),
    Metric("freq_over_1_percent", "freq_over_1_percent"),
    Metric("freq_over_10_percent", "freq_over_10_percent"),
    Metric("normalized_freq_over_1_percent", "normalized_freq_over_1_percent"),
    Metric("normalized_freq_over_10_percent", "normalized_freq_over_10_percent"),
    Metric("average_max_encoder_cosine_sim", "average_max_encoder_cosine_sim"),
    Metric("average_max_decoder_cosine_sim", "average_max_decoder_cosine_sim"),
)  # fmt: skip
DRAWN = "negatives are drawn anew for each k; features as they are, C = 1"
BEST = "wrong: the epoch is the one with the best accuracy on the test"
SPARSE_PROBING = (
    *(Metric(f"sae_top_{k}_test_accuracy", f"accuracy[k={k},on=latents]", DRAWN) for k in (1, 2, 5)),
    Metric("sae_test_accuracy", "accuracy[k=all,on=latents]", BEST, right=False),
    *(Metric(f"llm_top_{k}_test_accuracy", f"accuracy[k={k},on=activations]", DRAWN) for k in (1, 2, 5)),
    Metric("llm_test_accuracy", "accuracy[k=all,on=activations]", BEST, right=False),
)
NS = (2, 10, 20, 100)  # of those that are measured
ABLATED = "wrong: ablates padding too; epochs chosen on the test; "
TPP_ABOUT = ABLATED + "other negatives for clean and ablated"
TPP = tuple(
    Metric(f"tpp_threshold_{n}_{theirs}", f"{ours}[n={n}]", TPP_ABOUT)
    for n in NS for theirs, ours in (("total_metric", "tpp"), ("intended_diff_only", "intended"), ("unintended_diff_only", "unintended"))
)  # fmt: skip
SCR_ABOUT = ABLATED + "examples drawn anew"
SCR = tuple(Metric(f"scr_{part}_threshold_{n}", f"{ours}[n={n}]", SCR_ABOUT) for n in NS for part, ours in (
    ("metric", "scr"), ("dir1", "scr_dir1"), ("dir2", "scr_dir2"),
))  # fmt: skip
CHOSEN = "main latents by another probe, not converged; all forms of a word, on both sides; no seed"
ABSORPTION = (
    Metric("mean_absorption_fraction_score", "absorption_fraction", CHOSEN),
    Metric("mean_full_absorption_score", "full_absorption", CHOSEN),
    Metric("mean_num_split_features", "main_latents", CHOSEN),
)
META_STRUCTURE = (
    Metric(
        "decoder_fraction_variance_explained",
        "decoder_fraction_variance_explained[of=decoder,rows=fitted]",
        "SAELens' training",
    ),
)
SAE_PROBES = tuple(
    Metric(f"{side}_test_{name}", f"{name}[regime=standard,method={method}]")
    for side, method in (("sae_top_1", "latents-1"), ("sae_top_2", "latents-2"), ("sae_top_5", "latents-5"), ("llm", "logreg"))
    for name in ("accuracy", "auc")
)
METRICS: dict[str, tuple[Metric, ...]] = {
    "core": CORE, "sparse_probing": SPARSE_PROBING, "tpp": TPP, "scr": SCR, "absorption": ABSORPTION, "meta_structure": META_STRUCTURE,
    "sparse_probing_sae_probes": SAE_PROBES,
}  # fmt: skip
