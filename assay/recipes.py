"""Recipes: the losses and schedules of published trainers, as settings of ours.

    coder_settings, train_settings = recipe("openai", "topk", d_in=768, d_sae=32768, tokens=10**9, batch=131072)
    coder = coders.new("topk", **coder_settings)
    train({"a": coder}, source, TrainConfig(**train_settings))

A recipe is a table: settings of the training, settings of each architecture that its source has, and what our training does
otherwise (`differs`). Nothing is converted on the way: weights of penalties belong to the normalisation that stands beside them.
What a source counts in steps becomes a share of this run. Losses and gradients are compared with the sources in tests/equivalence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from assay.errors import BadInput, UnknownName
from assay.registry import CODERS
from assay.training.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Run:
    """What the settings of a recipe may depend on."""

    d_in: int
    d_sae: int
    d_out: int
    steps: int
    batch: int


Value = float | int | str | bool | Callable[[Run], Any]
Table = Mapping[str, Value]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One source."""

    source: str
    """What it is, and where it is written."""
    train: Table
    """Settings of the training."""
    coders: Mapping[str, Table]
    """Settings of each architecture the source has."""
    train_of: Mapping[str, Table] = field(default_factory=dict)
    """Settings of the training that one architecture has otherwise."""
    differs: Mapping[str, str] = field(default_factory=dict)
    """What ours does otherwise, by architecture; under "all" what concerns each."""


def steps(count: int) -> Callable[[Run], float]:
    """`count` steps as a share of the run."""

    def share(run: Run) -> float:
        if count >= run.steps:
            raise BadInput(f"takes {count} steps, and this run has {run.steps}: it needs more than that")
        return count / run.steps

    return share


def scaled_lr(run: Run) -> float:
    """2e-4 at 2¹⁴ latents, falling with the square root of their number (Gao et al. 2024)."""
    return 2e-4 / (run.d_sae / 2**14) ** 0.5


def p_anneal(start: int, p_end: float) -> Table:
    """dictionary_learning's ten values of p at ten equally distant steps: the first is p = 1 still, the last comes after the end."""

    def begin(run: Run) -> float:
        share = steps(start)(run)
        return share + (1 - share) / 9

    return {"anneal_start": begin, "anneal_steps": 8, "p_end": 1 - (1 - p_end) * 8 / 9}


SAE_LENS_TOPK: Table = {"k": 100, "decoder": "free", "aux": "absolute", "aux_weight": 1.0}
ADAM_0: Table = {"beta1": 0.0}
MEDIAN: Table = {"lr": scaled_lr, "clip": 1.0, "b_dec": "median"}
SAEBENCH_TOPK: Table = {"clip": 1.0, "b_dec": "median"}
HALF_WINDOW = "Theirs estimates the threshold's gradient of the penalty from latents above it alone, half of the window; ours from both sides."
N_SQUARED = "Theirs divides the reconstruction errors by the number of prefixes twice, so that AuxK weighs more; ours once."
FIRST_THRESHOLD = (
    "Their inference threshold is −1 for 1000 steps, then an exponential mean over 1000 batches; ours is right at once."
)

RECIPES: dict[str, Recipe] = {
    "saelens-6": Recipe(
        source="SAELens 6.54: its training classes and LanguageModelSAERunnerConfig, with their defaults (github.com/decoderesearch/SAELens)",
        train={
            "normalise": "none", "lr": 3e-4, "warm_up": 0.0, "decay": 0.0, "clip": 1.0, "b_dec": "zeros",
            "dead_after": lambda run: 1000 * run.batch,
        },
        coders={
            "relu": {"decoder": "free", "l1": 1.0, "l1_warm_up": 0.0},
            "gated": {"decoder": "free", "l1": 1.0, "l1_warm_up": 0.0},
            "topk": SAE_LENS_TOPK,
            "batch_topk": SAE_LENS_TOPK | {"threshold_window": 100},
            "matryoshka": SAE_LENS_TOPK | {"threshold_window": 100, "levels": "sum"},
            "jumprelu": {
                "decoder": "free", "sparsity": 1.0, "sparsity_warm_up": 0.0, "bandwidth": 0.05, "initial_threshold": 0.01,
            },
            "matching_pursuit": {"k": lambda run: run.d_in, "aux_weight": 0.0, "tolerance": 0.01},
        },
        differs={
            "all": "Its normalisation \"expected_average_only_in\" makes the mean of ‖x‖ equal √d; the recipe is its default, without scaling (normalise=root_d here makes the mean of ‖x‖² equal d).",
            "gated": "Theirs lets the auxiliary reconstruction move the decoder; ours keeps it fixed there, as the paper does.",
            "jumprelu": "Theirs learns θ itself, held at 0 or above; ours its logarithm. Its pre-activation loss is of dead latents alone.",
            "batch_topk": "Their inference threshold starts at 0 and is too low in short runs; ours is an unbiased mean.",
            "matryoshka": "It has no default prefixes; ours are SAEBench's. The threshold is an unbiased mean, theirs starts at 0.",
            "matching_pursuit": "Theirs stops at a residual of length .01, or once a latent is chosen again; ours by the gain of a step.",
        },
    ),
    "dictionary-learning": Recipe(
        source="dictionary_learning 0.1: its trainers with their defaults (github.com/saprmarks/dictionary_learning)",
        train={"normalise": "none", "warm_up": steps(1000), "decay": 0.0, "clip": 0.0, "b_dec": "zeros", "dead_after": 10_000_000},
        coders={
            "relu": {"l1": 0.1, "l1_warm_up": steps(2000), "start_norm": 0.1},
            "p_anneal": {"l1": 0.1, "l1_warm_up": steps(2000), "start_norm": 0.1, **p_anneal(15_000, 0.0)},
            "gated": {"l1": 0.1, "l1_warm_up": steps(2000)},
            "topk": {},
            "batch_topk": {"threshold_window": 1000},
            "matryoshka": {"threshold_window": 1000},
            "jumprelu": {
                "penalty": "target_l0", "target_l0": 20.0, "sparsity": 1.0, "sparsity_warm_up": steps(2000), "bandwidth": 0.001,
                "initial_threshold": 0.001, "centred": False,
            },
        },
        train_of={
            "relu": {"lr": 1e-3}, "p_anneal": {"lr": 1e-3}, "gated": {"lr": 5e-5, **ADAM_0},
            "jumprelu": {"lr": 7e-5, "clip": 1.0, **ADAM_0}, "topk": MEDIAN, "batch_topk": MEDIAN, "matryoshka": MEDIAN,
        },
        differs={
            "all": "Its learning rate and penalty rise from 0 at the first step; ours from one step's share.",
            "p_anneal": "Its default penalty is the root (Σ f^p)^(1/p); ours Σ f^p, as in the paper, with f^p softened near 0.",
            "topk": "AuxK counts k_aux as half the width; k is 32 where theirs must be given.",
            "batch_topk": FIRST_THRESHOLD,
            "matryoshka": f"{N_SQUARED} {FIRST_THRESHOLD}",
            "jumprelu": f"{HALF_WINDOW} Theirs learns θ itself, ours its logarithm.",
        },
    ),
    "openai": Recipe(
        source="Gao et al. 2024, arXiv 2406.04093, and github.com/openai/sparse_autoencoder, train.py",
        train={
            "normalise": "unit", "lr": scaled_lr, "eps": 6.25e-10, "warm_up": 0.0, "decay": 0.0, "clip": 1.0, "ema": 0.999,
            "b_dec": "median", "dead_after": 10_000_000,
        },
        coders={"topk": {"k": 32, "error": "fvu", "k_aux": 512}},
        differs={
            "topk": "They scale every input to mean 0 and norm 1; ours is one scale for all. The error is over each batch's variance, "
            "theirs over that of a sample. Their code lets AuxK move b_dec through the decoder as well; the paper's formula does not. "
            "Multi-TopK is left off; multi=0.125 turns it on."
        },
    ),
    "gemma-scope": Recipe(
        source="Rajamanoharan et al. 2024, arXiv 2407.14435; Lieberum et al. 2024 (Gemma Scope), arXiv 2408.05147",
        train={
            "normalise": "unit", "lr": 7e-5, "beta1": 0.0, "eps": 1e-8, "warm_up": steps(1000), "decay": 0.0, "clip": 0.0,
            "b_dec": "zeros",
        },
        coders={
            "jumprelu": {
                "penalty": "l0", "sparsity": 6e-4, "sparsity_warm_up": steps(10_000), "bandwidth": 0.001, "initial_threshold": 0.001,
            },
        },
        differs={"jumprelu": "The learning rate rises along a cosine from a tenth of its height; ours linearly from 0."},
    ),
    "anthropic-apr24": Recipe(
        source="Anthropic, Circuits Updates, April 2024: update on how we train SAEs (transformer-circuits.pub/2024/april-update)",
        train={"normalise": "root_d", "lr": 5e-5, "warm_up": 0.0, "decay": 0.2, "clip": 1.0, "b_dec": "zeros"},
        coders={"relu": {"decoder": "free", "l1": 5.0, "l1_warm_up": 0.05, "centred": False}},
        differs={"relu": "They scale activations so that the mean of ‖x‖ is √d; ours makes the mean of ‖x‖² equal d."},
    ),
    "anthropic-jan25": Recipe(
        source="Anthropic, Circuits Updates, January 2025: dictionary learning optimization techniques "
        "(transformer-circuits.pub/2025/january-update)",
        train={"normalise": "root_d", "lr": 2e-4, "warm_up": 0.0, "decay": 0.2, "clip": 1.0, "b_dec": "zeros"},
        coders={
            "jumprelu": {
                "penalty": "tanh", "sparsity": 20.0, "sparsity_warm_up": 1.0, "tanh_slope": lambda run: 4.0 / run.d_out**0.5,
                "pre_activation_weight": 3e-6, "bandwidth": 2.0, "initial_threshold": 0.1, "start_l0": 10_000.0, "centred": False,
                "decoder": "free", "free_norm": 3**-0.5, "start_norm": lambda run: 3**-0.5 * min(1.0, run.d_in / run.d_sae),
            },
        },
        differs={
            "jumprelu": "The gradient of log θ is the derivative, θ times what they print; Adam takes out a factor that moves slowly. "
            "Decoder rows start with the length that theirs have on average."
        },
    ),
    "saebench": Recipe(
        source="Karvonen et al. 2025 (SAEBench), arXiv 2503.09532; github.com/adamkarvonen/dictionary_learning_demo",
        train={
            "normalise": "unit", "lr": 3e-4, "warm_up": steps(1000), "decay": 0.2, "clip": 0.0, "b_dec": "zeros",
            "dead_after": 10_000_000,
        },
        coders={
            "relu": {"l1": 0.03, "l1_warm_up": steps(5000), "start_norm": 0.1},
            "p_anneal": {"l1": 0.015, "l1_warm_up": steps(5000), "start_norm": 0.1, **p_anneal(10_000, 0.2)},
            "gated": {"l1": 0.04, "l1_warm_up": steps(5000)},
            "topk": {"k": 80},
            "batch_topk": {"k": 80, "threshold_window": 1000},
            "matryoshka": {"k": 80, "threshold_window": 1000},
            "jumprelu": {
                "penalty": "target_l0", "target_l0": 80.0, "sparsity": 1.0, "sparsity_warm_up": steps(5000), "bandwidth": 0.001,
                "initial_threshold": 0.001, "centred": False,
            },
        },
        train_of={
            "gated": ADAM_0, "jumprelu": {"clip": 1.0, **ADAM_0}, "topk": SAEBENCH_TOPK, "batch_topk": SAEBENCH_TOPK,
            "matryoshka": SAEBENCH_TOPK,
        },
        differs={
            "all": "SAEBench trains each architecture at six sparsities; this is one of the middle ones.",
            "p_anneal": "f^p is softened near 0, so that its slope stays finite.",
            "batch_topk": FIRST_THRESHOLD,
            "matryoshka": f"{N_SQUARED} {FIRST_THRESHOLD}",
            "jumprelu": f"{HALF_WINDOW} Theirs learns θ itself, ours its logarithm.",
        },
    ),
}  # fmt: skip


def names() -> list[str]:
    """All recipes."""
    return list(RECIPES)


def _known(name: str) -> Recipe:
    if name not in RECIPES:
        raise UnknownName.among("recipe", name, RECIPES)
    return RECIPES[name]


def source(name: str) -> str:
    """Where a recipe is taken from."""
    return _known(name).source


def architectures(name: str) -> list[str]:
    """Architectures that a recipe's source has."""
    return list(_known(name).coders)


def differs(name: str, architecture: str) -> list[str]:
    """What training by a recipe does otherwise than its source."""
    _check(name, architecture)
    notes = _known(name).differs
    return [notes[key] for key in ("all", architecture) if key in notes]


def _check(name: str, architecture: str) -> None:
    if architecture not in CODERS:
        raise UnknownName.among("architecture", architecture, CODERS)
    if architecture not in _known(name).coders:
        others = [other for other in RECIPES if architecture in RECIPES[other].coders]
        raise BadInput(
            f"The recipe {name!r} has no architecture {architecture!r}: its source trains {', '.join(architectures(name))}. "
            + (
                f"Recipes for {architecture}: {', '.join(others)}."
                if others
                else f"No recipe has {architecture}: leave it out."
            )
        )


def recipe(
    name: str, architecture: str, *, d_in: int, d_sae: int, tokens: int, batch: int, **overrides: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of the coder and of its training by a recipe: for `coders.new(architecture, **…)` and `TrainConfig(**…)`.

    `overrides` are settings of either that take the place of the recipe's. A run too short for the source's warm-up is refused.
    """
    _check(name, architecture)
    if d_sae < 1:
        raise BadInput(f"A coder needs d_sae ≥ 1, got {d_sae}.")
    if batch < 1 or tokens < batch:
        raise BadInput(f"Training needs at least one batch: got tokens={tokens}, batch={batch}.")
    found = _known(name)
    coder = {"d_in": d_in, "d_sae": d_sae} | dict(found.coders[architecture])
    train = {"tokens": tokens, "batch": batch} | dict(found.train) | dict(found.train_of.get(architecture, {}))
    of_coder = {s.name for s in CODERS.settings(architecture)}
    of_train = {f.name for f in fields(TrainConfig)}
    for key, value in overrides.items():
        if key not in of_coder | of_train:
            raise UnknownName.among(f"setting of {architecture} or of training", key, of_coder | of_train)
        (coder if key in of_coder else train)[key] = value
    d_out: int = overrides.get("d_out") or d_in
    run = Run(d_in=d_in, d_sae=d_sae, d_out=d_out, steps=tokens // batch, batch=batch)
    return _settled(name, coder, run), _settled(name, train, run)


def _settled(name: str, table: Mapping[str, Any], run: Run) -> dict[str, Any]:
    """A table with what depends on the run computed."""
    settled = {}
    for key, value in table.items():
        try:
            settled[key] = value(run) if callable(value) else value
        except BadInput as error:
            raise BadInput(
                f"In the recipe {name!r}, {key} {error}. Train on more tokens, or say what {key} should be, as a share of the run."
            ) from None
    return settled
