"""One training step of each recipe against its source: loss terms and every gradient, frozen by freeze.py.

Where a source departs from its paper, ours is shown to differ from it in exactly that part.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from assay import coders, recipes
from assay.coders import losses
from assay.coders.base import Batch, SparseCoder, Step
from assay.coders.p_anneal import AnnealedPenalty
from assay.shapes import Tensor
from assay.training.optim import lr_factor

FROZEN = Path(__file__).parent / "frozen"
CASES = [p.stem for p in sorted(FROZEN.glob("*.json")) if "schedules" not in p.stem and "sparsify" not in p.stem]
AS_THE_PAPER = {
    ("saelens_gated", "gate"), ("dictionary_learning_jumprelu", "total"), ("dictionary_learning_matryoshka", "mse"),
    ("dictionary_learning_matryoshka", "total"), ("anthropic_jan25_jumprelu", "mse"), ("anthropic_jan25_jumprelu", "tanh"),
}  # fmt: skip
"""Terms that are not the source's: each has a test of its own."""


def read(name: str) -> dict[str, Any]:
    return json.loads((FROZEN / f"{name}.json").read_text(encoding="utf-8"))


def made(case: dict[str, Any], **overrides: Any) -> SparseCoder[Any]:
    """Our coder by the case's recipe, with the case's weights, in float64."""
    settings, _ = recipes.recipe(
        case["recipe"], case["architecture"], d_in=case["d_in"], d_sae=case["d_sae"], tokens=10**9, batch=4096,
        **(case["settings"] | overrides),
    )  # fmt: skip
    coder = coders.new(case["architecture"], **settings).double().train()
    with torch.no_grad():
        for name, value in case["weights"].items():
            value = torch.tensor(value, dtype=torch.float64)
            if name == "threshold":
                name, value = "log_threshold", value.log()
            getattr(coder, name).copy_(value)
    return coder


def input_of(case: dict[str, Any]) -> Batch:
    return Batch.of(torch.tensor(case["x"], dtype=torch.float64))


def terms(coder: SparseCoder[Any], case: dict[str, Any]) -> dict[str, Tensor]:
    batch, dead = input_of(case), torch.zeros(case["d_sae"], dtype=torch.bool)
    dead[case["dead"]] = True
    fraction = 0.05 if case["architecture"] == "p_anneal" else 1.0  # after every warm-up, before p falls
    return dict(coder.loss(batch, coder.encode(batch.x), Step(fraction, dead)))


def gradients(coder: SparseCoder[Any], term: Tensor) -> dict[str, Tensor]:
    """Of one term, under the names of the case: θ instead of its logarithm too."""
    parameters = dict(coder.named_parameters())
    found = torch.autograd.grad(term, list(parameters.values()), retain_graph=True, allow_unused=True)
    grads = {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(parameters.items(), found)}
    if "log_threshold" in grads:
        grads["threshold"] = grads["log_threshold"] / parameters["log_threshold"].exp()
    return grads


def theirs(case: dict[str, Any], term: str) -> tuple[float, dict[str, Tensor]]:
    found = case["terms"][term]
    return found["value"], {n: torch.tensor(g, dtype=torch.float64) for n, g in found["gradients"].items()}


def close(ours: Tensor, frozen: Tensor, what: str = "") -> None:
    """Equal to 1e-5 of the largest entry."""
    size = max(frozen.abs().max().item(), 1e-6)
    assert ((ours - frozen).abs().max() / size).item() < 1e-5, f"{what}: {ours} is not {frozen}"


def pick(found: dict[str, Tensor], term: str) -> Tensor:
    return torch.stack(list(found.values())).sum() if term == "total" else found[term]


@pytest.mark.parametrize("name", CASES)
def test_one_step_is_the_source(name):
    case = read(name)
    coder = made(case)
    found = terms(coder, case)
    assert "total" in case["terms"] or set(found) == set(case["terms"]), "the loss has the terms of the source"
    for term in case["terms"]:
        if (name, term) in AS_THE_PAPER:
            continue
        value, grads = theirs(case, term)
        ours = pick(found, term)
        assert ours.item() == pytest.approx(value, rel=1e-5), term
        own = gradients(coder, ours)
        for parameter, grad in grads.items():
            close(own[parameter], grad, f"{term} by {parameter}")


def test_every_recipe_is_frozen():
    have = {(read(name)["recipe"], read(name)["architecture"]) for name in CASES}
    # SAEBench's trainers are dictionary_learning's
    have |= {("saebench", architecture) for recipe, architecture in have if recipe == "dictionary-learning"}
    assert have == {(r, a) for r in recipes.names() for a in recipes.architectures(r)}


def test_saelens_gate_moves_the_decoder():
    """Its auxiliary reconstruction is not detached, so it pulls W_dec and b_dec; the paper's, and ours, teaches the gate alone."""
    case = read("saelens_gated")
    coder = made(case)
    ours = terms(coder, case)["gate"]
    value, grads = theirs(case, "gate")
    assert ours.item() == pytest.approx(value, rel=1e-5)
    own = gradients(coder, ours)
    for parameter in ("W_enc", "b_enc"):
        close(own[parameter], grads[parameter])
    assert grads["W_dec"].abs().max() > 0.1 and not own["W_dec"].any()
    batch = input_of(case)
    error = batch.x - (coder.pre_activations(batch.x).relu() @ coder.W_dec + coder.b_dec)
    close(grads["b_dec"] - own["b_dec"], -2 * error.mean(0), "what the peer adds")


def test_saelens_aux_k_is_not_the_paper():
    """By its recipe ours is theirs; the default is the paper's: over the error's variance, latents ≥ 0, no factor for few dead."""
    for name in ("saelens_topk", "saelens_topk_few_dead"):
        case = read(name)
        recipe, paper = made(case), made(case, aux="relative", aux_weight=1 / 32)
        batch = input_of(case)
        with torch.no_grad():
            paper.b_enc[case["dead"]] += 1.0  # positive pre-activations: clipping them is not what is looked at
            recipe.b_enc[case["dead"]] += 1.0
            variance = losses.variance(batch.y - paper(batch.x))
        ours, absolute = terms(paper, case)["aux_k"], terms(recipe, case)["aux_k"]
        scale = min(1.0, len(case["dead"]) / 3)
        assert absolute.item() == pytest.approx((ours * 32 * variance * scale).item(), rel=1e-6)
        close(gradients(recipe, absolute)["W_enc"], gradients(paper, ours)["W_enc"] * 32 * variance * scale)


@pytest.mark.parametrize("name", ["saelens_batch_topk", "saelens_matryoshka"])
def test_saelens_threshold_starts_at_0(name):
    case = read(name)
    coder = made(case)
    terms(coder, case)
    assert case["threshold_of_first_batch"] == pytest.approx(0.01 * float(coder.threshold), rel=1e-6)


def test_dictionary_learning_sees_half_of_the_window():
    """It takes H of f instead of pre, and f is 0 below θ: latents just below are lost. All else is equal."""
    case = read("dictionary_learning_jumprelu")
    coder, eps, l0_wanted = made(case), case["settings"]["bandwidth"], case["settings"]["target_l0"]
    found = terms(coder, case)
    value, grads = theirs(case, "total")
    ours = pick(found, "total")
    assert ours.item() == pytest.approx(value, rel=1e-5)
    own = gradients(coder, ours)
    for parameter in ("W_enc", "b_enc", "W_dec", "b_dec"):
        close(own[parameter], grads[parameter])
    pre, theta = coder.pre_activations(input_of(case).x), coder.threshold
    below = ((pre <= theta) & (pre > theta - eps / 2)).double().mean(0)
    assert below.any(), "or the test sees nothing"
    l0 = (pre > theta).sum(1).double().mean()
    close(
        own["threshold"] - grads["threshold"], 2 * (l0 / l0_wanted - 1) / l0_wanted * below / -eps, "what the peer leaves out"
    )


def test_dictionary_learning_divides_matryoshka_twice():
    case = read("dictionary_learning_matryoshka")
    coder = made(case)
    ours = terms(coder, case)["mse"]
    value, grads = theirs(case, "mse")
    assert ours.item() == pytest.approx(3 * value, rel=1e-5), "three prefixes"
    own = gradients(coder, ours)
    for parameter, grad in grads.items():
        close(own[parameter], 3 * grad)


def test_anthropic_prints_a_gradient_without_the_inner_derivative():
    case = read("anthropic_jan25_jumprelu")
    coder = made(case)
    for term in ("mse", "tanh"):
        ours = terms(coder, case)[term]
        value, grads = theirs(case, term)
        assert ours.item() == pytest.approx(value, rel=1e-5)
        own = gradients(coder, ours)
        for parameter in ("W_enc", "b_enc", "W_dec", "b_dec"):
            close(own[parameter], grads[parameter])
        close(own["log_threshold"], coder.threshold * grads["log_threshold"], term)


def test_sparsify_teaches_no_dead_encoder():
    """Its AuxK and Multi-TopK losses have our values and reach W_dec alike; its custom backward drops the encoder's gradient."""
    case = read("sparsify_topk")
    coder = made(case, error="fvu", multi=1.0, k_aux=3)
    found = terms(coder, case)
    batch = input_of(case)
    unit = losses.variance(batch.y - coder(batch.x)) / losses.variance(batch.y) * 32  # theirs is over the input's variance
    for term, scale in {"mse": torch.tensor(1.0), "multi": torch.tensor(1.0), "aux_k": unit.detach()}.items():
        value, grads = theirs(case, term)
        assert (found[term] * scale).item() == pytest.approx(value, rel=1e-5), term
        own = gradients(coder, found[term])
        close(own["W_dec"] * scale, grads["W_dec"], term)
        if term == "mse":
            close(own["W_enc"], grads["W_enc"], term)
            close(own["b_enc"], grads["b_enc"], term)
        else:
            assert own["W_enc"].abs().max() > 1e-3 and not grads["W_enc"].any() and not grads["b_enc"].any(), term


def test_schedules_are_those_of_dictionary_learning():
    """To one step: theirs starts from 0, ours from one step's share, so that no step is lost."""
    case = read("dictionary_learning_schedules")
    total = case["total"]
    for at, lr, penalty in zip(case["at"], case["lr"], case["penalty"]):
        ours = lr_factor(at, total, case["warm_up"] / total, 1 - case["decay_start"] / total)
        assert abs(ours - lr) <= 1 / case["warm_up"] + 1e-9, at
        grown = losses.warm_up(Step((at + 1) / total), case["sparsity_warm_up"] / total)
        assert abs(grown - penalty) <= 1 / case["sparsity_warm_up"] + 1e-9, at


def test_p_anneals_as_in_dictionary_learning():
    case = read("dictionary_learning_schedules")["p_anneal"]
    run = recipes.Run(d_in=6, d_sae=16, d_out=6, steps=case["steps"], batch=8)
    plan = {k: v(run) if callable(v) else v for k, v in recipes.p_anneal(case["start"], case["p_end"]).items()}
    penalty = AnnealedPenalty(plan["p_end"], plan["anneal_start"], plan["anneal_steps"]).train()
    f = torch.tensor(case["f"], dtype=torch.float64)
    exponents, values = [], []
    for step in range(case["steps"]):
        values.append(0.1 * penalty(f, (step + 1) / case["steps"]).item())
        exponents.append(penalty.p(int(penalty.stage)))
    apart = [step for step in range(case["steps"]) if abs(exponents[step] - case["p_and_penalty"][step][0]) > 1e-6]
    assert all(step + 1 not in apart for step in apart), "p moves at the same steps, to one"
    assert min(exponents) == pytest.approx(1 - 0.8 * 8 / 9)
    theirs = torch.tensor([value for _, value in case["p_and_penalty"]])
    torch.testing.assert_close(torch.tensor(values), theirs, rtol=1e-3, atol=0)
