"""Our evals against what sae-bench 0.6.0's own functions make of the same tensors, frozen by freeze_saebench.py.

Where a definition of sae-bench's is wrong (reference: explained variance, mean squared error), its value is shown to follow from ours
by what is wrong about it, and ours to be free of that.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from assay import coders
from assay.coders.base import SparseCoder
from assay.evals import scr, tpp
from assay.evals.core import Core, CoreConfig
from assay.evals.needs import LabelledInput, Losses, PassesInput
from assay.evals.sparse_probing import Task, strongest
from assay.passes import Reference
from assay.probing import erasure, probes
from assay.probing.letters import absorbed
from assay.shapes import Tensor

CASES = json.loads(Path(__file__).with_name("saebench.json").read_text(encoding="utf-8"))


def tensor(value: Any) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def coder_of(case: dict[str, Any], scale: float = 1.0) -> SparseCoder[Any]:
    """Our TopK with the case's weights; for activations that are `scale` times as large."""
    W = {name: tensor(value) for name, value in case["weights"].items()}
    d_in, d_sae = W["W_enc"].shape
    coder = coders.new("topk", d_in=d_in, d_sae=d_sae, k=case["k"]).double().eval().requires_grad_(False)
    for name, value in W.items():
        getattr(coder, name).copy_(value * (scale if name.startswith("b_") else 1.0))
    return coder


def losses_of(x: Tensor, case: dict[str, Any]) -> Losses:
    """Per-token losses of the stub model with these activations at its site."""
    tokens = torch.tensor(case["tokens"])
    counted = torch.ones_like(tokens, dtype=torch.bool)
    counted[:, -1] = False
    clean = Reference(torch.tanh(tensor(case["x"])) @ tensor(case["U"]), tokens, counted)
    same = torch.equal(x, tensor(case["x"]))
    ce, kl = clean.losses(None if same else torch.tanh(x) @ tensor(case["U"]))
    return Losses(ce.numpy(), kl.numpy())


def core_of(case: dict[str, Any], scale: float = 1.0) -> dict[str, float]:
    """Full name → value of core on the case, each row a document."""
    x, coder = scale * tensor(case["x"]), coder_of(case, scale)
    rows, context, _ = x.shape
    mean = x.mean((0, 1))
    near = {"clean": x, "mean_ablated": mean.expand_as(x), "zero_ablated": torch.zeros_like(x), "spliced": coder(x)}
    given = PassesInput(
        documents=rows, vectors=lambda: iter([(x.flatten(0, 1), np.repeat(np.arange(rows), context))]), mean=mean,
        document=np.repeat(np.arange(rows), context - 1), **{name: losses_of(y, case) for name, y in near.items()},
    )  # fmt: skip
    scores, _ = Core(CoreConfig()).run(coder, {"text": given})
    return {s.spec: s.value for s in scores if s.value is not None}


@pytest.fixture(scope="module")
def core() -> dict[str, float]:
    return core_of(CASES["core"])


ALIKE = {
    "l2_norm_in": "l2_norm_in", "l2_norm_out": "l2_norm_out", "relative_reconstruction_bias": "relative_reconstruction_bias",
    "l0": "l0", "l1": "l1", "cossim": "cosine_similarity", "explained_variance_legacy": "explained_variance_legacy",
    "explained_variance": "explained_variance_saebench_0_6", "frac_alive": "frac_alive",
    **{name: name for name in (
        "freq_over_1_percent", "freq_over_10_percent", "normalized_freq_over_1_percent", "normalized_freq_over_10_percent",
        "average_max_encoder_cosine_sim", "average_max_decoder_cosine_sim",
    )},
}  # fmt: skip


@pytest.mark.parametrize("name", ALIKE)
def test_core_is_sae_benchs_in_one_batch(core, name):
    assert core[ALIKE[name]] == pytest.approx(CASES["core"]["one_batch"][name], rel=2e-5)


LOST = {
    "ce_loss_without_sae": "ce_loss_clean", "ce_loss_with_sae": "ce_loss_spliced", "ce_loss_score": "loss_recovered[ablation=zero]",
    "ce_loss_with_ablation": "ce_loss_ablated[ablation=zero]",
}  # fmt: skip


@pytest.mark.parametrize("name", LOST)
def test_what_splicing_costs_is_sae_benchs(core, name):
    assert core[LOST[name]] == pytest.approx(CASES["core"]["losses"][name], rel=2e-5)


def test_kl_is_sae_benchs_at_each_position_that_predicts(core):
    case = CASES["core"]
    for name, x in (
        ("kl_div_with_sae", coder_of(case)(tensor(case["x"]))),
        ("kl_div_with_ablation", torch.zeros_like(tensor(case["x"]))),
    ):
        theirs = tensor(case["each"][name])
        np.testing.assert_allclose(losses_of(x, case).kl, theirs[:, :-1].flatten(), rtol=1e-4, atol=1e-5)
    assert core["kl"] == pytest.approx(tensor(case["each"]["kl_div_with_sae"])[:, :-1].mean().item(), rel=1e-4)


def test_their_explained_variance_changes_with_the_scale_and_ours_does_not(core):
    theirs, tenfold = CASES["core"]["one_batch"], CASES["core"]["ten_times"]
    assert abs(theirs["explained_variance"] - tenfold["explained_variance"]) > 0.01
    assert tenfold["explained_variance_legacy"] == pytest.approx(theirs["explained_variance_legacy"])
    ours = core_of(CASES["core"], scale=10.0)
    assert ours["explained_variance"] == pytest.approx(core["explained_variance"])
    assert ours["explained_variance_saebench_0_6"] == pytest.approx(tenfold["explained_variance"], rel=2e-5)
    assert abs(core["explained_variance"] - theirs["explained_variance"]) > 0.01


def test_their_mse_depends_on_the_batch_and_ours_does_not(core):
    one, three = CASES["core"]["one_batch"]["mse"], CASES["core"]["three_batches"]["mse"]
    assert three == pytest.approx(3 * one)
    x = tensor(CASES["core"]["x"])
    assert core["mse"] == pytest.approx(one * x.shape[0] * x.shape[1] / x.shape[2], rel=1e-5)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_latents_are_chosen_and_probed_as_by_sae_bench(k):
    case = CASES["probing"]
    x, y, train = (np.array(case[name]) for name in ("x", "y", "train"))
    task = Task("d", "c", np.flatnonzero(train), np.zeros(train.sum(), bool), np.flatnonzero(~train), y == 1, np.ones((1, 1)))
    chosen = strongest(x, task, k)
    assert sorted(chosen) == case["k"][str(k)]["chosen"]
    margins = probes.margins_of(x[train][:, chosen], y[train] == 1, [1.0], x[~train][:, chosen])[0]
    assert ((margins > 0) == (y[~train] == 1)).mean() == pytest.approx(case["k"][str(k)]["accuracy"])


def test_latents_are_averaged_over_the_same_tokens():
    case = CASES["pooling"]
    x, coder = tensor(case["x"]), coder_of(case)
    real = x.abs().sum(-1) > 0
    example = real.nonzero()[:, 0].numpy()
    given = LabelledInput(
        name="d", labels=np.zeros(len(x), int), train=np.ones(len(x), bool), classes=["a"], leak=0.0, conflicts=0,
        vectors=lambda: iter([(x[real], example)]),
    )  # fmt: skip
    np.testing.assert_allclose(given.pool(lambda x: coder.encode(x).z), case["latents"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(given.pooled, case["activations"], rtol=1e-5, atol=1e-6)


# ---- absorption, tpp, scr ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1])
def test_absorption_of_each_word_is_sae_benchs(number):
    """First a coder whose main latent always fires, then one in which it is silent on most words."""
    case = CASES["absorption"][number]
    x, p, coder = tensor(case["x"]), tensor(case["probe"]), coder_of(case)
    along = (coder.W_dec @ p).numpy()
    found = absorbed(coder.encode(x).z.numpy(), along, along / coder.W_dec.norm(dim=1).numpy(), case["main"], (x @ p).numpy())
    np.testing.assert_allclose(found["absorption_fraction"], case["fraction"], atol=1e-6)
    assert found["full_absorption"].astype(bool).tolist() == case["full"]
    assert len({round(value, 6) for value in case["fraction"]}) > 10
    assert any(case["full"]) == bool(number)
    assert not all(case["full"])


def two_classes(case: dict[str, Any]) -> tuple[LabelledInput, Tensor]:
    """Texts of class a (to train on) and b (the test); and their activations with zeros as padding."""
    x = torch.cat([tensor(case["acts"][c]) for c in "ab"])
    real = x.abs().sum(-1) > 0
    label = np.repeat([0, 1], len(x) // 2)
    given = LabelledInput(
        name="d", labels=label, train=label == 0, classes=["a", "b"], leak=0.0, conflicts=0,
        vectors=lambda: iter([(x[real], real.nonzero()[:, 0].numpy())]),
    )  # fmt: skip
    return given, x


@pytest.mark.parametrize("name", ["tpp", "scr"])
def test_what_matters_to_a_probe_is_sae_benchs(name):
    case = CASES["ablation"]
    data, _ = two_classes(case)
    means = erasure.class_means(coder_of(case), data, data.labels, 2)
    gap = means[0] - means[1]
    effect = (np.maximum(gap, 0) if name == "tpp" else gap) * erasure.along(
        coder_of(case), erasure.Probe(np.array(case["probe"]), 0.1, 1)
    )
    effect = effect if name == "tpp" else np.abs(effect)
    np.testing.assert_allclose(effect, case[name]["effects"], rtol=1e-4, atol=1e-6)
    assert sorted(erasure.strongest(effect, 3)) == case[name]["top"]


@pytest.mark.parametrize("name", ["tpp", "scr"])
def test_what_an_ablation_leaves_is_sae_benchs_less_what_it_ablates_in_the_padding(name):
    """sae-bench sums over padding too, where ablated latents fire on zeros; texts of full length are the same."""
    case = CASES["ablation"]
    coder, (data, x) = coder_of(case), two_classes(case)
    top = np.array(case[name]["top"])
    probe = erasure.Probe(np.array(case["probe"]), 0.0, 1)
    ours = erasure.Erased(coder, data, {0: top}, [probe]).margins(0, len(top))[:, 0]
    theirs = np.array(case[name]["pooled"]) @ probe.weight
    length = (x[~data.train].abs().sum(-1) > 0).sum(1).numpy()
    silent = coder.encode(torch.zeros(1, x.shape[2], dtype=torch.float64)).z[0].numpy()[top]
    padding = (x.shape[1] - length) / length * (silent @ (coder.W_dec.numpy()[top] @ probe.weight))
    np.testing.assert_allclose(theirs, ours - padding, rtol=1e-5, atol=1e-6)
    assert np.abs(padding).max() > 0.01 or not silent.any()


def share(correct: float, n: int = 1000) -> np.ndarray:
    """Margins of which so many are above 0."""
    return np.where(np.arange(n) < round(correct * n), 1.0, -1.0)


def test_tpp_is_sae_benchs_given_the_same_accuracies():
    case = CASES["ablation"]["score"]
    kinds, n = list(case["before"]), 1000
    before = np.stack([share(case["before"][c]) for c in kinds], axis=1)
    task = tpp.Task([0, 1, 2], [], np.ones(before.shape, bool), np.full(before.shape, 1 / n), np.ones((1, n)), before, [])
    found = [tpp.lost(task, i, np.stack([share(case["after"][c][o]) for o in kinds], axis=1)) for i, c in enumerate(kinds)]
    for part, theirs in enumerate(("total_metric", "intended_diff_only", "unintended_diff_only")):
        assert np.mean([f[part] for f in found]) == pytest.approx(case["total"][f"tpp_threshold_5_{theirs}"])


@pytest.mark.parametrize("number", range(3))
def test_scr_is_sae_benchs_given_the_same_accuracies(number):
    case, n = CASES["scr"]["cases"][number], 1000
    for way in (0, 1):
        base, gain = case["base"][way], case["clean"][way] - case["base"][way]
        one = scr.Way(np.ones(n, bool), share(base) > 0, np.full(3, base), np.full(3, gain))  # as it is, and two resamples
        found = scr.won_back(one, np.full((3, n), 1 / n), share(case["after"][way]) > 0)
        assert found == pytest.approx([case["score"][f"scr_dir{way + 1}_threshold_5"]] * 3, abs=1e-9)
    lower = int(case["base"][1] < case["base"][0])
    assert case["score"]["scr_metric_threshold_5"] == case["score"][f"scr_dir{lower + 1}_threshold_5"]
