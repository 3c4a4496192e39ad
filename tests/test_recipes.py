"""Recipes: settings that exist, schedules in shares of the run, and errors that say what to do."""

from __future__ import annotations

import pytest

from assay import coders, recipes
from assay.activations.planted import Planted
from assay.errors import BadInput, UnknownName
from assay.train import TrainConfig, train

ALL = [(r, a) for r in recipes.names() for a in recipes.architectures(r)]
SIZES = {"d_in": 16, "d_sae": 128, "tokens": 10**9, "batch": 4096}


@pytest.mark.parametrize(("name", "architecture"), ALL)
def test_settings_exist_and_are_possible(name, architecture):
    coder, cfg = recipes.recipe(name, architecture, **SIZES)
    coders.new(architecture, **coder)
    TrainConfig(**cfg)
    assert coder["d_in"] == 16 and cfg["tokens"] == 10**9
    assert recipes.source(name) and isinstance(recipes.differs(name, architecture), list)


def test_formulas():
    lr = recipes.recipe("openai", "topk", **SIZES | {"d_sae": 2**16})[1]["lr"]
    assert lr == pytest.approx(1e-4)
    coder, cfg = recipes.recipe("gemma-scope", "jumprelu", **SIZES)
    assert cfg["warm_up"] * 10**9 / 4096 == pytest.approx(1000, rel=1e-4) and cfg["beta1"] == 0
    assert coder["sparsity_warm_up"] == pytest.approx(10 * cfg["warm_up"])
    assert recipes.recipe("saelens-6", "topk", **SIZES)[1]["dead_after"] == 4_096_000
    coder, cfg = recipes.recipe("anthropic-jan25", "jumprelu", **SIZES)
    assert cfg["normalise"] == "root_d" and coder["tanh_slope"] * 16**0.5 == pytest.approx(4.0)
    assert recipes.recipe("anthropic-jan25", "jumprelu", **SIZES, d_out=64)[0]["tanh_slope"] == pytest.approx(0.5)


def test_overrides_take_their_place():
    coder, cfg = recipes.recipe(
        "gemma-scope", "jumprelu", **SIZES | {"tokens": 10**6}, lr=1e-3, warm_up=0.1, sparsity_warm_up=0.2
    )
    assert (cfg["lr"], cfg["warm_up"], coder["sparsity_warm_up"], cfg["eps"]) == (1e-3, 0.1, 0.2, 1e-8)
    with pytest.raises(
        UnknownName, match=r"No setting of jumprelu or of training named 'bandwith'. Did you mean 'bandwidth'\?"
    ):
        recipes.recipe("gemma-scope", "jumprelu", **SIZES, bandwith=1)


def test_errors():
    with pytest.raises(UnknownName, match=r"No recipe named 'saelens'. Did you mean 'saelens-6'\?"):
        recipes.recipe("saelens", "topk", **SIZES)
    with pytest.raises(UnknownName, match="No architecture named 'topkk'"):
        recipes.recipe("openai", "topkk", **SIZES)
    with pytest.raises(
        BadInput, match=r"'openai' has no architecture 'gated': its source trains topk\. Recipes for gated: saelens-6"
    ):
        recipes.recipe("openai", "gated", **SIZES)
    with pytest.raises(
        BadInput,
        match=r"'dictionary-learning', warm_up takes 1000 steps, and this run has 244: it needs more than that\. Train on more",
    ):
        recipes.recipe("dictionary-learning", "topk", **SIZES | {"tokens": 10**6})


SHORT = {"tokens": 200 * 512, "batch": 512, "lr": 5e-3, "warm_up": 0.05, "held_out_vectors": 0, "ema": 0.0}
SMALL = {
    "relu": {"l1": 0.5}, "jumprelu": {"start_l0": 8.0, "sparsity": 0.5}, "topk": {"k": 4},
}  # fmt: skip


@pytest.mark.parametrize("recipe", [r for r, a in ALL if a == "topk"] + ["anthropic-apr24", "anthropic-jan25"])
def test_a_recipe_learns(recipe):
    """With the learning rate of a short run and the penalty of a small space: what is tested is that the parts fit together."""
    architecture = "topk" if "topk" in recipes.architectures(recipe) else recipes.architectures(recipe)[0]
    settings, cfg = recipes.recipe(recipe, architecture, d_in=16, d_sae=32, **SHORT, **SMALL[architecture])
    coder = coders.new(architecture, **settings)
    rows = list(train({"c": coder}, Planted(d=16, latents=32, seed=0), TrainConfig(**cfg)))
    first, last = rows[0].metrics, rows[-1].metrics
    assert last["fvu"] < 0.6 * first["fvu"], (first, last)
    assert last["l0"] < 16
