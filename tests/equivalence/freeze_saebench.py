"""Write tests/equivalence/saebench.json: what sae-bench's own functions make of small random tensors. Run where it is installed:

make .venv-saebench/.done && .venv-saebench/bin/python tests/equivalence/freeze_saebench.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from sae_bench.custom_saes.topk_sae import TopKSAE
from sae_bench.evals.absorption import feature_absorption as thresholds
from sae_bench.evals.absorption.feature_absorption_calculator import FeatureAbsorptionCalculator
from sae_bench.evals.core import main as core
from sae_bench.evals.scr_and_tpp import main as tpp
from sae_bench.evals.sparse_probing import probe_training as probing
from sae_bench.sae_bench_utils import activation_collection as pooling
from transformer_lens.utils import lm_cross_entropy_loss

D, D_SAE, K, VOCAB, ROWS, CONTEXT, HOOK = 6, 16, 3, 11, 12, 8, "blocks.0.hook_resid_post"
Case = dict[str, Any]


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def weights(d: int = D, d_sae: int = D_SAE, seed: int = 0) -> dict[str, torch.Tensor]:
    W_dec = torch.nn.functional.normalize(normal(d_sae, d, seed=seed), dim=1)
    W_enc = W_dec.T + 0.2 * normal(d, d_sae, seed=seed + 1)
    return {
        "W_enc": W_enc,
        "b_enc": 0.1 * normal(d_sae, seed=seed + 2),
        "W_dec": W_dec,
        "b_dec": 0.2 * normal(d, seed=seed + 3),
    }


def sae(made: dict[str, torch.Tensor], k: int = K) -> TopKSAE:
    d, d_sae = made["W_enc"].shape
    found = TopKSAE(d, d_sae, k, "stub", 0, torch.device("cpu"), torch.float64)
    found.load_state_dict({**made, "k": found.k})
    found.cfg.architecture_str = "topk"
    return found.requires_grad_(False)


class Stub:
    """A model of one layer, x = E[token] + P[position] and logits = tanh(x) @ U; and the store that its rows come from."""

    def __init__(self, tokens: torch.Tensor, scale: float = 1.0):
        self.tokens, self.at = tokens, 0
        self.E, self.P, self.U = normal(VOCAB, D, seed=10) + 0.5, normal(CONTEXT, D, seed=11), 2 * normal(D, VOCAB, seed=12)
        self.scale, self.context_size = scale, CONTEXT

    def get_batch_tokens(self, count: int) -> torch.Tensor:
        self.at += count
        return self.tokens[self.at - count : self.at]

    def site(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.scale * (self.E[tokens] + self.P)

    def after(self, x: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = torch.tanh(x) @ self.U
        return logits, lm_cross_entropy_loss(logits, tokens, per_token=True)

    def __call__(self, tokens: torch.Tensor, **_: Any) -> Any:
        return self.after(self.site(tokens), tokens)

    def run_with_hooks(self, tokens: torch.Tensor, fwd_hooks: Any, **_: Any) -> Any:
        return self.after(fwd_hooks[0][1](self.site(tokens), hook=None), tokens)

    def run_with_cache(self, tokens: torch.Tensor, **_: Any) -> Any:
        return None, {HOOK: self.site(tokens)}


def core_case() -> Case:
    tokens = torch.randint(VOCAB, (ROWS, CONTEXT), generator=torch.Generator().manual_seed(9))
    made, stub = weights(), Stub(tokens)
    found: Case = {"k": K, "weights": made, "x": stub.site(tokens), "tokens": tokens, "U": stub.U}
    sums: Any = {"compute_l2_norms": True, "compute_sparsity_metrics": True, "compute_variance_metrics": True}
    sums |= {"compute_featurewise_density_statistics": True, "model_kwargs": {}}
    for name, batches, scale in (("one_batch", 1, 1.0), ("three_batches", 3, 1.0), ("ten_times", 1, 10.0)):
        own = {n: v * scale if n == "b_dec" or n == "b_enc" else v for n, v in made.items()}
        here = sae(own), Stub(tokens, scale), Stub(tokens, scale)
        one, latents = core.get_sparsity_and_variance_metrics(*here, batches, eval_batch_size_prompts=ROWS // batches, **sums)
        found[name] = one | core.calculate_misc_metrics(latents | core.get_featurewise_weight_based_metrics(here[0]))
    lost = core.get_downstream_reconstruction_metrics(
        sae(made), stub, stub, compute_kl=True, compute_ce_loss=True, n_batches=1, eval_batch_size_prompts=ROWS
    )  # type: ignore[arg-type]
    each = core.get_recons_loss(sae(made), stub, tokens, stub, compute_kl=True, compute_ce_loss=True)  # type: ignore[arg-type]
    return found | {"losses": lost, "each": each}


def probing_case() -> Case:
    x, noise = torch.relu(normal(120, 20, seed=20) - 0.5), normal(120, seed=21)
    y = (x[:, 3] + 0.7 * x[:, 11] - 0.5 * x[:, 5] + 0.4 * noise > 0.3).int()
    train, found = torch.arange(120) < 80, {}
    for k in (1, 2, 5):
        mask = probing.get_top_k_mean_diff_mask(x[train], y[train], k)
        _, accuracy = probing.train_sklearn_probe(x[train][:, ~mask], y[train], x[~train][:, ~mask], y[~train])
        found[str(k)] = {"chosen": (~mask).nonzero()[:, 0], "accuracy": accuracy}
    return {"x": x, "y": y, "train": train, "k": found}


def texts(rows: int, seed: int) -> torch.Tensor:
    """Activations [rows, CONTEXT, D] whose padding is zeros, as sae-bench marks it."""
    lengths = torch.arange(rows) % (CONTEXT - 2) + 2
    return (normal(rows, CONTEXT, D, seed=seed) + 0.3) * (torch.arange(CONTEXT) < lengths[:, None])[..., None]


def pooling_case() -> Case:
    x = texts(9, 30)
    pooled = {"latents": pooling.get_sae_meaned_activations({"a": x}, sae(weights()), 4)["a"]}
    return {
        "k": K,
        "weights": weights(),
        "x": x,
        "activations": pooling.create_meaned_model_activations({"a": x})["a"],
    } | pooled


def ablation_case() -> Case:
    """TPP and SCR: what latents do to a probe, which are ablated, what is left. With two classes negatives are all of the other one."""
    acts = {"a": texts(10, 40) + 0.4 * (texts(10, 40) != 0), "b": texts(10, 41)}
    probe = probing.Probe(D, torch.float64)
    with torch.no_grad():
        probe.net.weight.copy_(normal(1, D, seed=42))
        probe.net.bias.fill_(0.1)
    coder, found = sae(weights()), {}
    for name, scr in (("tpp", False), ("scr", True)):
        if scr:
            pair = {"male / female": acts["a"], "female_data_only": acts["b"]}
            effects = tpp.get_effects_per_class_precomputed_acts(coder, probe, "male / female", pair, True, 7)
        else:
            effects = tpp.get_effects_per_class_precomputed_acts(coder, probe, "a", acts, False, 7)
        top = tpp.select_top_n_features(effects, 3, "a")
        found[name] = {
            "effects": effects,
            "top": top.nonzero()[:, 0],
            "pooled": tpp.ablated_precomputed_activations(acts["b"], coder, top, 4),
        }
    classes = ["a", "b", "c"]
    accuracy = {
        c: {5: {o: 0.9 - 0.1 * (c == o) * (i + 1) - 0.01 * j for j, o in enumerate(classes)}} for i, c in enumerate(classes)
    }
    clean = {c: 0.95 - 0.02 * i for i, c in enumerate(classes)}
    found["score"] = {
        "after": {c: v[5] for c, v in accuracy.items()},
        "before": clean,
        "total": tpp.create_tpp_plotting_dict(accuracy, clean)[0],
    }
    return {"k": K, "weights": weights(), "acts": acts, "probe": probe.net.weight[0].detach()} | found


def scr_case() -> Case:
    """SCR's score of two pairs of accuracies: the direction counts whose accuracy was lower before."""
    biased, found = "male_professor / female_nurse", []
    for base1, base2, after1, after2 in ((0.6, 0.7, 0.8, 0.65), (0.8, 0.55, 0.78, 0.9), (0.949, 0.7, 0.5, 0.71)):
        one, two = f"{biased} probe on professor / nurse data", f"{biased} probe on male / female data"
        clean = {"professor / nurse": 0.95, "male / female": 0.93, one: base1, two: base2}
        after = {"male / female": {5: {one: after1}}, "professor / nurse": {5: {two: after2}}}
        found.append(
            {
                "clean": [0.95, 0.93],
                "base": [base1, base2],
                "after": [after1, after2],
                "score": tpp.get_scr_plotting_dict(after, clean),
            }
        )
    return {"cases": found}


def absorption_case(bias: float) -> Case:
    """Words of one letter, each a sum of its main latent (or not), three others that point the same way, p itself, and noise."""
    made, words = weights(8, 24, seed=50), 80
    p = torch.nn.functional.normalize(normal(8, seed=60), dim=0)
    for i, seed in ((3, 61), (7, 62), (9, 63), (12, 66)):  # all of about the same cosine with p, in different directions
        made["W_dec"][i] = torch.nn.functional.normalize(0.6 * p + 0.35 * normal(8, seed=seed), dim=0)
    made["W_enc"] = made["W_dec"].T.clone()
    made["b_enc"][3] = bias  # below 0 it is silent on some
    parts = torch.rand(words, 4, generator=torch.Generator().manual_seed(65)) * torch.tensor([1.0, 0.8, 0.8, 0.8])
    parts[::3, 0] = 0.0  # the main latent is silent
    acts = (
        parts @ made["W_dec"][[3, 7, 9, 12]]
        + 0.1 * normal(words, 8, seed=64)
        + 0.8 * torch.rand(words, 1, generator=torch.Generator().manual_seed(67)) * p
    )

    class Model:
        def run_with_cache(self, prompts: list[str], **_: Any) -> Any:
            return None, {HOOK: acts[[int(p.split()[-1][:-1]) for p in prompts]][:, None]}

        def to_tokens(self, _: str) -> Any:
            return [[0]]

    calculator = FeatureAbsorptionCalculator(
        model=Model(), icl_word_list=["x", "y"], max_icl_examples=0, base_template="w {word}:", answer_formatter=lambda _: "",
        word_token_pos=0, batch_size=7, topk_feats=10,
        full_absorption_probe_cos_sim_threshold=thresholds.FULL_ABSORPTION_PROBE_COS_THRESHOLD,
        absorption_fraction_probe_cos_sim_threshold=thresholds.ABSORPTION_FRACTION_PROBE_COS_THRESHOLD,
        probe_projection_proportion_threshold=thresholds.ABSORPTION_PROBE_PROJECTION_PROPORTION_THRESHOLD,
        absorption_fraction_max_absorbing_latents=thresholds.ABSORPTION_FRACTION_MAX_ABSORBING_LATENTS,
    )  # type: ignore[arg-type]  # fmt: skip
    found = calculator.calculate_absorption(sae(made, 4), [str(i) for i in range(words)], p, [3], layer=0, show_progress=False)
    return {
        "k": 4, "weights": made, "x": acts, "probe": p, "main": [3],
        "fraction": [float(r.absorption_fraction) for r in found.word_results],
        "full": [bool(r.is_full_absorption) for r in found.word_results],
    }  # fmt: skip


def plain(value: Any) -> Any:
    """Lists and numbers, ten digits of each."""
    if isinstance(value, torch.Tensor):
        return plain(value.tolist())
    if isinstance(value, float):
        return float(f"{value:.10g}")
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value


def main() -> None:
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    cases = {
        "core": core_case(), "probing": probing_case(), "pooling": pooling_case(), "ablation": ablation_case(), "scr": scr_case(),
        "absorption": [absorption_case(0.0), absorption_case(-0.6)],
    }  # fmt: skip
    Path(__file__).with_name("saebench.json").write_text(json.dumps(plain(cases)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
