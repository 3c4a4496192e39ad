"""One training step of each peer, with given weights: loss terms and gradients under our names. Needs the peers installed.

A case names our recipe and architecture, `settings` that both sides share, the input and the weights; a peer fills in `terms`.
"""

from __future__ import annotations

import sys
import types
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

Case = dict[str, Any]
Terms = dict[str, Tensor]

sys.modules.setdefault(
    "nnsight", types.ModuleType("nnsight")
)  # dictionary_learning imports a model class that no trainer needs
sys.modules["nnsight"].LanguageModel = object  # type: ignore[attr-defined]


def derive(terms: Terms, parameters: dict[str, Tensor]) -> dict[str, Any]:
    """Value of each term and its gradients; those it does not reach are 0."""
    found = {}
    for name, term in terms.items():
        grads = torch.autograd.grad(term, list(parameters.values()), retain_graph=True, allow_unused=True)
        each = {k: (torch.zeros_like(p) if g is None else g).tolist() for (k, p), g in zip(parameters.items(), grads)}
        found[name] = {"value": term.item(), "gradients": each}
    return found


def put(parameters: dict[str, Tensor], case: Case) -> None:
    """The case's weights into a peer's parameters."""
    with torch.no_grad():
        for name, p in parameters.items():
            p.copy_(torch.tensor(case["weights"][name]))


def transposed(pairs: dict[str, Tensor], case: Case) -> Case:
    """The case with weights as a peer stores them, where it stores W_enc and W_dec the other way round."""
    turned = {k: torch.tensor(v).T.tolist() if k in pairs else v for k, v in case["weights"].items()}
    return case | {"weights": turned}


def dead_mask(case: Case) -> Tensor:
    mask = torch.zeros(case["d_sae"], dtype=torch.bool)
    mask[case["dead"]] = True
    return mask


# --- SAELens -------------------------------------------------------------------------------------------------------------------


def sae_lens(case: Case) -> Case:
    from sae_lens.saes import (
        batchtopk_sae,
        gated_sae,
        jumprelu_sae,
        matching_pursuit_sae,
        matryoshka_batchtopk_sae,
        standard_sae,
        topk_sae,
    )
    from sae_lens.saes.sae import TrainStepInput

    s, d_sae = case["settings"], case["d_sae"]
    shared = {"d_in": case["d_in"], "d_sae": d_sae, "dtype": "float64", "device": "cpu"}
    build = {
        "relu": lambda: standard_sae.StandardTrainingSAE(standard_sae.StandardTrainingSAEConfig(**shared)),
        "gated": lambda: gated_sae.GatedTrainingSAE(gated_sae.GatedTrainingSAEConfig(**shared)),
        "topk": lambda: topk_sae.TopKTrainingSAE(topk_sae.TopKTrainingSAEConfig(**shared, k=s["k"])),
        "batch_topk": lambda: batchtopk_sae.BatchTopKTrainingSAE(batchtopk_sae.BatchTopKTrainingSAEConfig(**shared, k=s["k"])),
        "matryoshka": lambda: matryoshka_batchtopk_sae.MatryoshkaBatchTopKTrainingSAE(
            matryoshka_batchtopk_sae.MatryoshkaBatchTopKTrainingSAEConfig(**shared, k=s["k"], matryoshka_widths=case["widths"])
        ),
        "jumprelu": lambda: jumprelu_sae.JumpReLUTrainingSAE(
            jumprelu_sae.JumpReLUTrainingSAEConfig(**shared, jumprelu_bandwidth=s["bandwidth"])
        ),
        "matching_pursuit": lambda: matching_pursuit_sae.MatchingPursuitTrainingSAE(
            matching_pursuit_sae.MatchingPursuitTrainingSAEConfig(
                **shared, max_iterations=s["k"], residual_threshold=0.0, decoder_init_norm=1.0
            )
        ),
    }
    sae = build[case["architecture"]]().double()
    names = {
        "W_enc": "W_enc",
        "b_enc": "b_gate" if case["architecture"] == "gated" else "b_enc",
        "W_dec": "W_dec",
        "b_dec": "b_dec",
    }
    names |= {"r_mag": "r_mag", "b_mag": "b_mag", "threshold": "threshold"}
    parameters = {ours: getattr(sae, names[ours]) for ours in case["weights"]}
    put(parameters, case)
    x = torch.tensor(case["x"])
    step = TrainStepInput(
        sae_in=x,
        coefficients={"l1": 1.0, "l0": 1.0},
        dead_neuron_mask=dead_mask(case),
        n_training_steps=0,
        is_logging_step=False,
    )
    out = sae.training_forward_pass(step)
    ours = {"l1_loss": "l1", "l0_loss": "l0"}
    ours["auxiliary_reconstruction_loss"] = "gate" if case["architecture"] == "gated" else "aux_k"
    terms: Terms = {}
    for name, value in out.losses.items():
        key = "mse" if "mse" in name else ours[name]
        terms[key] = terms[key] + value if key in terms else value
    extra = {"threshold_of_first_batch": sae.topk_threshold.item()} if hasattr(sae, "topk_threshold") else {}
    return case | {"peer": f"sae-lens {version('sae-lens')}", "terms": derive(terms, parameters)} | extra


# --- dictionary_learning -------------------------------------------------------------------------------------------------------

LINEAR = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "decoder.weight", "b_dec": "bias"}
TOPK = LINEAR | {"b_dec": "b_dec"}
GATED = {"W_enc": "encoder.weight", "b_enc": "gate_bias", "W_dec": "decoder.weight", "b_dec": "decoder_bias", "r_mag": "r_mag"}
GATED |= {"b_mag": "mag_bias"}
PLAIN = {k: k for k in ("W_enc", "b_enc", "W_dec", "b_dec")}


def _trainer(case: Case, **options: Any) -> tuple[Any, dict[str, str]]:
    from dictionary_learning.trainers import batch_top_k, gdm, jumprelu, matryoshka_batch_top_k, p_anneal, standard, top_k

    kinds: dict[str, tuple[Any, dict[str, str]]] = {
        "relu": (standard.StandardTrainer, LINEAR),
        "p_anneal": (p_anneal.PAnnealTrainer, LINEAR),
        "gated": (gdm.GatedSAETrainer, GATED),
        "topk": (top_k.TopKTrainer, TOPK),
        "batch_topk": (batch_top_k.BatchTopKTrainer, TOPK),
        "matryoshka": (matryoshka_batch_top_k.MatryoshkaBatchTopKTrainer, PLAIN),
        "jumprelu": (jumprelu.JumpReluTrainer, PLAIN | {"threshold": "threshold"}),
    }
    trainer, names = kinds[case["architecture"]]
    made = trainer(
        steps=100_000, activation_dim=case["d_in"], dict_size=case["d_sae"], layer=0, lm_name="none", device="cpu", **options
    )
    made.ae.double()
    return made, names


def dictionary_learning(case: Case) -> Case:
    """Their loss is one number: the terms are "total", and "mse" with the weights of the others set to 0."""
    s = case["settings"]
    options: dict[str, Any] = {k: s[k] for k in ("k", "bandwidth", "target_l0") if k in s}
    if case["architecture"] == "matryoshka":
        widths = case["widths"]
        options["group_fractions"] = [(b - a) / case["d_sae"] for a, b in zip([0, *widths], widths)]
    if case["architecture"] == "p_anneal":
        options["sparsity_function"] = "Lp^p"
    trainer, names = _trainer(case, **options)
    parameters = {ours: trainer.ae.get_parameter(theirs) for ours, theirs in names.items()}
    across = {k: p for k, p in parameters.items() if k in ("W_enc", "W_dec") and "coder" in names[k]}
    put(parameters, transposed(across, case))
    x = torch.tensor(case["x"])

    def loss() -> Tensor:
        if hasattr(trainer, "num_tokens_since_fired"):
            trainer.num_tokens_since_fired[dead_mask(case)] = 10_000_000
        return trainer.loss(x, step=10_000)

    terms: Terms = {"total": loss()}
    for weight in ("l1_penalty", "sparsity_coeff", "sparsity_coefficient", "auxk_alpha"):
        if hasattr(trainer, weight):
            setattr(trainer, weight, 0.0)
    if case["architecture"] != "gated":  # where the term of the gate would remain
        terms["mse"] = loss()
    found = derive(terms, parameters)
    for term in found.values():
        term["gradients"] |= {k: torch.tensor(term["gradients"][k]).T.tolist() for k in across}
    return case | {"peer": f"dictionary-learning {version('dictionary-learning')}", "terms": found}


def dictionary_learning_schedules() -> Case:
    """Factors of the learning rate and of the penalty, and the annealing of p on one batch that never changes."""
    from dictionary_learning.trainers import trainer

    total, warm_up, sparsity, decay = 20_000, 1000, 5000, 16_000
    at = [0, 1, 500, 999, 1000, 4999, 5000, 12_000, 16_000, 18_000, 19_999]
    lr, penalty = trainer.get_lr_schedule(total, warm_up, decay), trainer.get_sparsity_warmup_fn(total, sparsity)
    random = torch.Generator().manual_seed(5)
    case = {"architecture": "p_anneal", "d_in": 6, "d_sae": 16}
    made, _ = _trainer(case, sparsity_function="Lp^p", p_end=0.2, anneal_start=20, anneal_end=200, sparsity_warmup_steps=0)
    f = torch.rand(8, 16, generator=random) * (torch.rand(8, 16, generator=random) < 0.3)
    made.ae.forward = lambda x, output_features: (x, f)
    steps = []
    for step in range(200):
        made.loss(torch.zeros(8, 6), step)
        steps.append([made.p, made.scaled_lp_loss.item()])
    return {
        "peer": f"dictionary-learning {version('dictionary-learning')}",
        "total": total, "warm_up": warm_up, "sparsity_warm_up": sparsity, "decay_start": decay, "at": at,
        "lr": [lr(i) for i in at], "penalty": [penalty(i) for i in at],
        "p_anneal": {"f": f.tolist(), "start": 20, "steps": 200, "p_end": 0.2, "p_and_penalty": steps},
    }  # fmt: skip


# --- sparsify ------------------------------------------------------------------------------------------------------------------


def sparsify(case: Case) -> Case:
    from sparsify.config import SparseCoderConfig
    from sparsify.sparse_coder import SparseCoder

    cfg = SparseCoderConfig(num_latents=case["d_sae"], k=case["settings"]["k"], multi_topk=True)
    coder = SparseCoder(case["d_in"], cfg, dtype=torch.float64)
    parameters = {"W_enc": coder.encoder.weight, "b_enc": coder.encoder.bias, "W_dec": coder.W_dec, "b_dec": coder.b_dec}
    put(parameters, transposed({"W_enc": coder.encoder.weight}, case))
    out = coder(torch.tensor(case["x"]), dead_mask=dead_mask(case))
    terms = {"mse": out.fvu, "aux_k": out.auxk_loss, "multi": out.multi_topk_fvu}
    found = derive(terms, parameters)
    for term in found.values():
        term["gradients"]["W_enc"] = torch.tensor(term["gradients"]["W_enc"]).T.tolist()
    return case | {"peer": f"eai-sparsify {version('eai-sparsify')}", "terms": found}
