"""seed_stability on dictionaries whose overlap is known: the same in another order, half of it, none of it; and trained on two seeds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from assay import coders
from assay.activations.planted import Planted
from assay.coders.linear import unit_rows
from assay.errors import BadInput
from assay.evals import seed_stability
from assay.evals.needs import SiblingsInput
from assay.evals.seed_stability import SeedStability, SeedStabilityConfig, match, nearest
from assay.evaluate import evaluate
from assay.randomness import generator
from assay.registry import EVALS
from assay.train import TrainConfig, train

D, LATENTS, SEEDS = 32, 96, (0, 1, 2)
WEIGHTS_ONLY = SeedStabilityConfig(firing="none")


def random_rows(*name):
    return unit_rows(torch.randn(LATENTS, D, generator=generator("stability", *name)))


def holding(rows, seed, W_enc=None):
    """A coder with these decoder rows, and encoder columns along them or others."""
    coder = coders.new("topk", d_in=D, d_sae=len(rows), k=4, seed=seed).eval()
    enc = (rows if W_enc is None else W_enc).T
    coder.load_state_dict(coder.state_dict() | {"W_dec": rows, "W_enc": enc})
    return coder


def against(own, *others, **settings):
    """Scores of a coder beside siblings, from weights alone."""
    one = SeedStability(SeedStabilityConfig(**{"firing": "none"} | settings))
    family = SiblingsInput("own", {f"other {i}": other for i, other in enumerate(others)}, "")
    scores, details = one.run(own, {"siblings": family})
    return {s.spec: s for s in scores}, details


SPECS = {
    "mcc": "mcc[of=siblings,weight=latents]",
    "nearest": "nearest[of=siblings,weight=latents]",
    "decoder": "shared[by=decoder,of=siblings,weight=latents]",
    "both": "shared[by=both,of=siblings,weight=latents]",
}
CHANCE = {name: spec.replace("of=siblings", "of=chance") for name, spec in SPECS.items()}


@pytest.mark.parametrize("seed", SEEDS)
def test_the_same_dictionary_in_another_order(seed):
    rows, order = random_rows(seed), torch.randperm(LATENTS, generator=generator("order", seed))
    found, details = against(holding(rows, 0), holding(rows[order], 1))
    for spec in SPECS.values():
        assert found[spec].value == pytest.approx(1, abs=1e-6), spec
    assert list(details["siblings"]) == ["other 0"]


@pytest.mark.parametrize("seed", SEEDS)
def test_opposite_directions_are_other_latents(seed):
    rows = random_rows(seed)
    found, _ = against(holding(rows, 0), holding(-rows, 1))
    assert found[SPECS["mcc"]].value < 0.6
    assert found[SPECS["both"]].value == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_unrelated_dictionaries_are_at_chance(seed):
    found, _ = against(holding(random_rows(seed, "a"), 0), holding(random_rows(seed, "b"), 1))
    for name in ("mcc", "nearest", "decoder"):
        at, chance = found[SPECS[name]], found[CHANCE[name]]
        assert abs(at.value - chance.value) < 0.03, name
    assert found[CHANCE["mcc"]].value > 0.25, "which is far from 0"
    assert found[SPECS["both"]].value < 0.02


@pytest.mark.parametrize("seed", SEEDS)
def test_half_a_dictionary(seed):
    rows, other = random_rows(seed, "a"), random_rows(seed, "b")
    half = torch.cat([rows[: LATENTS // 2], other[LATENTS // 2 :]])
    found, _ = against(holding(rows, 0), holding(half, 1))
    at = found[SPECS["both"]]
    assert at.value == pytest.approx(0.5, abs=0.03)
    assert at.low < 0.5 < at.high + 0.03 and at.n == LATENTS
    assert found[SPECS["nearest"]].value >= found[SPECS["mcc"]].value - 1e-6


def test_decoder_and_encoder_must_agree():
    rows, order = random_rows(0), torch.randperm(LATENTS, generator=generator("crossed"))
    found, _ = against(holding(rows, 0), holding(rows, 1, W_enc=rows[order]))
    assert found[SPECS["decoder"]].value == pytest.approx(1)
    assert found[SPECS["both"]].value < 0.1, "each side matches well, but with another latent"


def test_several_siblings_are_averaged_and_seen_alike_from_both_sides():
    rows, other = random_rows(0, "a"), random_rows(0, "b")
    a, b, c = holding(rows, 0), holding(rows.flip(0), 1), holding(other, 2)
    found, details = against(a, b, c)
    each = [details["siblings"][f"other {i}"]["mcc"] for i in (0, 1)]
    assert found[SPECS["mcc"]].value == pytest.approx(np.mean(each))
    assert each[0] == pytest.approx(1) and each[1] < 0.6
    assert against(c, a)[1]["siblings"]["other 0"]["mcc"] == pytest.approx(each[1], abs=1e-6)


def test_many_latents_are_matched_in_pieces(monkeypatch):
    rows, other = random_rows(0, "a"), random_rows(0, "b")
    half = torch.cat([other[LATENTS // 2 :], rows[: LATENTS // 2]])
    whole = nearest(rows, half)
    monkeypatch.setattr(seed_stability, "BLOCK", 7 * LATENTS)
    for (values, which), (more, again) in zip(whole, nearest(rows, half), strict=True):
        np.testing.assert_array_equal(which, again)
        np.testing.assert_allclose(values, more, rtol=1e-6)
    found, _ = against(holding(rows, 0), holding(half, 1), one_to_one=10)
    shared = found["shared[by=both,matching=mutual,of=siblings,weight=latents]"]
    assert shared.value == pytest.approx(0.5, abs=0.03)
    assert found[SPECS["mcc"]].value is None and "too many for a one-to-one matching" in found[SPECS["mcc"]].reason
    assert found[SPECS["nearest"]].value == pytest.approx(
        against(holding(rows, 0), holding(half, 1))[0][SPECS["nearest"]].value
    )


def test_mutual_neighbours_are_one_to_one():
    u, v = random_rows("u"), random_rows("v")[: LATENTS // 2]
    ours, theirs = match(u, v, exact=False)
    some = ours.partner >= 0
    assert len(set(ours.partner[some])) == some.sum() > 0
    np.testing.assert_array_equal(theirs.partner[ours.partner[some]], np.flatnonzero(some))
    np.testing.assert_allclose(ours.cosine[some], ours.nearest[some])
    exact = match(u, v, exact=True)[0]
    assert (exact.partner >= 0).sum() == len(v), "as many pairs as the smaller side has"
    assert exact.cosine.sum() >= ours.cosine.sum() - 1e-6
    assert (exact.cosine[exact.partner < 0] == 0).all()


# ---- trained coders, through evaluate ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained():
    """Two seeds of one architecture on one planted source, and a baseline of the same shape that has learnt nothing."""
    source = Planted(D, 64, 0)
    some = {f"seed {s}": coders.new("topk", d_in=D, d_sae=LATENTS, k=3, seed=s) for s in (0, 1)}
    some |= {f"random {s}": coders.new("random", d_in=D, d_sae=LATENTS, k=3, seed=s) for s in (0, 1)}
    cfg = TrainConfig(tokens=250 * 256, batch=256, lr=8e-3, dead_after=10_000, held_out_vectors=0)
    for _ in train(some, source, cfg):
        pass
    return source, some


PLANTED = SeedStabilityConfig(firing="planted", tokens=4096)


def test_trained_is_over_random_and_under_identical(trained, store):
    source, some = trained
    found = {r.coder: r for r in evaluate(some, [SeedStability(PLANTED)], store=store, planted=source)}
    for seed in (0, 1):
        learnt, floor = found[f"seed {seed}"], found[f"random {seed}"]
        assert learnt.score(SPECS["both"]).low > 0.2 + floor.score(SPECS["both"]).high
        assert learnt.score(SPECS["mcc"]).low > 0.15 + learnt.score(CHANCE["mcc"]).high
        assert learnt.value(SPECS["mcc"]) < 0.99
        assert abs(floor.value(SPECS["mcc"]) - floor.value(CHANCE["mcc"])) < 0.03
        often = SPECS["both"].replace("latents", "firing")
        assert learnt.value(often) > learnt.value(SPECS["both"]), "what fires often is found by both"
        assert {s.metric for s in learnt.scores} == set(EVALS.load("seed_stability").metrics)
        for s in learnt.scores:
            assert s.low <= s.value <= s.high, s.spec
    assert found["seed 0"].setting == found["random 1"].setting, "all of one call stand side by side"


def test_dead_latents_are_left_out(trained, store):
    source, some = trained
    a, b = (some[f"seed {s}"].clone() for s in (0, 1))
    whole = evaluate({"a": a, "b": b}, [SeedStability(PLANTED)], store=store, planted=source)[0]
    with torch.no_grad():
        for coder, dead in ((a, slice(0, 30)), (b, slice(40, 60))):
            coder.b_enc[dead] = -1e3
    record = evaluate({"a": a, "b": b}, [SeedStability(PLANTED)], store=store, planted=source)[0]
    assert record.value("alive") <= 66 / LATENTS
    assert set(range(30)) <= set(record.details["dead"])
    assert record.score(SPECS["mcc"]).n == record.details["alive"]
    assert record.key != whole.key
    weights = evaluate({"a": a, "b": b}, [SeedStability(WEIGHTS_ONLY)], store=store)[0]
    assert weights.score(SPECS["mcc"]).n == LATENTS
    assert weights.score("alive").value is None and weights.score("alive").reason.startswith("firing=none")


def test_who_is_a_sibling(trained, store):
    _, some = trained
    one = SeedStability(WEIGHTS_ONLY)
    (alone,) = evaluate({"a": some["seed 0"]}, [one], store=store)
    assert all(s.value is None and "differs from it in the seed alone" in s.reason for s in alone.scores)
    wider = coders.new("topk", d_in=D, d_sae=LATENTS + 1, k=3, seed=5).eval()
    together = evaluate({"a": some["seed 0"], "w": wider, "r": some["random 0"]}, [one], store=store)[0]
    assert together.key == alone.key, "coders without siblings change nothing"
    twin = some["seed 1"].clone()
    with torch.no_grad():
        twin.W_dec.copy_(random_rows("twin"))
    records = evaluate({"a": some["seed 0"], "b": some["seed 1"], "c": twin}, [one], store=store)
    assert all("share a seed" in s.reason for r in records for s in r.scores)
    pair = evaluate({"a": some["seed 0"], "b": some["seed 1"]}, [one], store=store)
    assert pair[0].key != alone.key
    (again, _) = evaluate(
        {"x": some["seed 0"], "y": some["seed 1"]}, [SeedStability(WEIGHTS_ONLY)], store=store, again="always"
    )
    assert (again.scores, again.details, again.key) == (pair[0].scores, pair[0].details, pair[0].key)


def test_what_is_refused():
    with pytest.raises(BadInput, match="firing text, planted or none"):
        SeedStability(SeedStabilityConfig(firing="model"))  # type: ignore[arg-type]
    coder = holding(random_rows(0), 0)
    bent = type("Bent", (type(coder),), {"linear": False})(coder.config)
    scores, _ = SeedStability(WEIGHTS_ONLY).run(bent, {"siblings": SiblingsInput("a", {"b": bent}, "")})
    assert all("no decoder directions" in s.reason for s in scores)
