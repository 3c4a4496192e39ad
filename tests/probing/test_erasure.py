"""What scr and tpp share: ablation in pooled form is ablation token by token; probes are trained as said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from assay import coders
from assay.coders.identity import Identity, IdentityConfig
from assay.errors import BadInput
from assay.probing import erasure
from assay.probing.erasure import Erased, Figures, Probe, Recipe
from assay.randomness import generator, numpy_generator
from tests.evals.planted_texts import D, build, texts

RECIPE = Recipe(epochs=8, batch=16, lr=0.01, l1=1e-3, rescale=True)


class Loud(Identity):
    """A coder with a scale of its own for each input."""

    def encode(self, x):
        code, size = super().encode(x), x.norm(dim=-1, keepdim=True)
        return replace(code, latents=code.latents.map(lambda z: z / size), scale=size)


def coder(kind: str):
    """Untrained coders of each form a code can have."""
    if kind == "scale per input":
        return Loud(IdentityConfig(d_in=D, d_sae=2 * D)).eval()
    made = coders.new(kind, d_in=D, d_sae=64, **({"k": 5} if kind in ("topk", "batch_topk") else {}))
    with torch.no_grad():
        made.W_dec += 0.1 * torch.randn(made.W_dec.shape, generator=generator("off unit norm"))
    return made.eval()


def literal(coder, data, chosen):
    """Each text's mean activation after the latents are set to zero token by token, the coder's error kept."""
    total, count = np.zeros((len(data.labels), D)), np.zeros(len(data.labels))
    for x, example in data.vectors():
        code = coder.encode(x)
        z = code.z.clone()
        z[:, torch.from_numpy(chosen)] = 0
        changed = coder.decode(code.with_latents(z)) + (x - coder.decode(code))
        np.add.at(total, example, changed.double().numpy())
        np.add.at(count, example, 1)
    return total / count[:, None]


@pytest.mark.parametrize("kind", ["topk", "relu", "batch_topk", "scale per input"])
@torch.no_grad()
def test_pooled_ablation_is_ablation_token_by_token(kind):
    data, one = texts(0, [20, 12, 16, 14]), coder(kind)
    probes = [Probe(rng.normal(size=D), 0.3, 1) for rng in (numpy_generator("a"), numpy_generator("b"))]
    orders = {"x": np.array([7, 3, 30, 12, 9]), "y": np.array([3, 40])}
    erased = Erased(one, data, orders, probes)
    for name, order in orders.items():
        for n in (1, 2, 5, 100):
            pooled = literal(one, data, order[:n])[~data.train]
            want = np.stack([probe.margin(pooled) for probe in probes], axis=1)
            np.testing.assert_allclose(erased.margins(name, n), want, atol=2e-5)
    assert not np.allclose(erased.margins("x", 5), erased.clean, atol=1e-3)  # something was ablated


@torch.no_grad()
def test_a_latent_that_never_fires_changes_not_a_bit():
    data, one = texts(0, [20, 12, 16, 14]), coder("relu")
    one.b_enc[5] = -1e6
    erased = Erased(one, data, {"dead": np.array([5]), "none": np.zeros(0, dtype=np.int64)}, [Probe(np.ones(D), 0.0, 1)])
    assert (erased.margins("dead", 1) == erased.clean).all()
    assert (erased.margins("none", 9) == erased.clean).all()


@torch.no_grad()
def test_vectors_of_zeros_are_tokens_like_others():
    """SAEBench takes a vector whose entries sum to 0 for padding."""
    data = texts(0, [20, 12, 16, 14])
    x, example = (np.concatenate(part) for part in zip(*((x.numpy(), e) for x, e in data.vectors()), strict=True))
    x[::3] = 0
    blanks = build(torch.from_numpy(x), example, data.labels, data.train, data.classes)
    one = coder("relu")
    one.b_enc += 0.5  # fires on a vector of zeros, too
    z = one.encode(torch.from_numpy(x)).z.numpy()
    means = np.stack([z[example == i].mean(0) for i in range(len(data.labels))])
    group = np.where(data.train, data.labels, -1)
    want = np.stack([means[group == kind].mean(0) for kind in range(4)])
    np.testing.assert_allclose(erasure.class_means(one, blanks, group, 4), want, atol=1e-6)


def test_a_code_without_directions_is_refused():
    one = coder("relu")
    type(one).linear = False
    try:
        with pytest.raises(BadInput, match="no directions"):
            erasure.class_means(one, texts(0, [9] * 4), np.zeros(36, dtype=int), 1)
    finally:
        type(one).linear = True


def separable(n: int = 200, scale: float = 1.0):
    rng = numpy_generator("separable")
    y = rng.random(n) < 0.5
    x = rng.normal(size=(n, 6)).astype(np.float32)
    x[:, 2] += 4 * y
    return x * np.float32(scale), y, np.arange(n) % 4 == 0


def test_a_probe_learns_is_repeatable_and_does_not_depend_on_units():
    x, y, validation = separable()
    found = erasure.fit(x, y, validation, RECIPE, "probe", 0)
    assert ((found.margin(x) > 0) == y)[validation].mean() > 0.9
    assert np.abs(found.weight).argmax() == 2
    again = erasure.fit(x, y, validation, RECIPE, "probe", 0)
    assert (again.weight == found.weight).all()
    assert again[1:] == found[1:]
    large = erasure.fit(*separable(scale=64.0), RECIPE, "probe", 0)
    np.testing.assert_allclose(large.margin(64 * x), found.margin(x), rtol=1e-5)
    plain = [erasure.fit(*separable(scale=s), replace(RECIPE, rescale=False), "probe", 0) for s in (1.0, 64.0)]
    assert not np.allclose(plain[0].margin(x), plain[1].margin(64 * x), rtol=0.1)


def test_the_epoch_is_chosen_in_validation():
    """Labels in validation that contradict the training stop it at the first epoch; nothing there is trained on."""
    x, y, validation = separable()
    long = erasure.fit(x, y, validation, replace(RECIPE, epochs=30), "probe", 0)
    wrong = erasure.fit(x, y ^ validation, validation, replace(RECIPE, epochs=30), "probe", 0)
    first = erasure.fit(x, y, validation, replace(RECIPE, epochs=1), "probe", 0)
    assert long.epoch > 1
    assert wrong.epoch == 1
    assert (wrong.weight == first.weight).all()


def test_training_is_adamw_on_cross_entropy_with_l1():
    x, y, validation = separable(40)
    found = erasure.fit(x, y, validation, Recipe(1, 16, 0.01, 0.05, False), "probe", 0)
    model = torch.nn.Linear(6, 1)
    torch.nn.init.zeros_(model.weight)
    torch.nn.init.zeros_(model.bias)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01)
    order = torch.from_numpy(numpy_generator("probe", 0).permutation(np.flatnonzero(~validation)))
    for some in order.split(16):
        logits = model(torch.from_numpy(x)[some])[:, 0]
        loss = torch.nn.BCEWithLogitsLoss()(logits, torch.from_numpy(y)[some].float()) + 0.05 * model.weight.abs().sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    np.testing.assert_allclose(found.weight, model.weight.detach().numpy()[0], rtol=1e-5)
    assert found.bias == pytest.approx(model.bias.item(), rel=1e-5)


def test_latents_without_effect_are_not_ablated():
    assert erasure.strongest(np.array([0.0, 0.2, -3.0, 0.5, 0.0]), 4).tolist() == [3, 1]


def test_taking_out_a_direction():
    rng = numpy_generator("without")
    x, direction, mean = rng.normal(size=(30, 5)), rng.normal(size=5), rng.normal(size=5)
    out = erasure.without(x, direction, mean)
    np.testing.assert_allclose((out - mean) @ direction, 0, atol=1e-12)
    across = np.linalg.svd(direction[None])[2][1:]
    np.testing.assert_allclose(out @ across.T, x @ across.T)


def test_means_leave_out_what_has_no_figure():
    rng = numpy_generator("figures")
    parts = [Figures.of(rng.normal(size=(1001, 2)) * 0.01 + at, 50) for at in (0.0, 1.0)]
    parts[1].value[1], parts[1].drawn[:, 1] = np.nan, np.nan
    parts.append(Figures.none(2))
    plain, drawn = erasure.mean(parts), erasure.mean(parts, "some name")
    np.testing.assert_array_equal(plain.value, drawn.value)
    assert plain.value[0] == pytest.approx((parts[0].value[0] + parts[1].value[0]) / 2)
    assert plain.value[1] == parts[0].value[1]
    assert plain.drawn[:, 0].std() < 0.01
    assert drawn.drawn[:, 0].std() > 0.3  # tasks differ, and the interval says so
    assert [s.value is None for s in Figures.none(2).scores([("a", {}), ("b", {"n": 2})], "why")] == [True, True]


def test_negatives_are_drawn_evenly():
    places = [np.arange(0, 100), np.arange(100, 200), np.arange(200, 205)]
    found = erasure.drawn_evenly(places, 40, numpy_generator("even"))
    assert np.bincount(found // 100).tolist() == [14, 14, 5]
    assert len(set(found)) == len(found)
