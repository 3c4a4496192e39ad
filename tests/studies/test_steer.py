"""Steering, on a coder whose decoder rows are known: what moves, by how much, at which tokens, in which rows; sweeps."""

from __future__ import annotations

import math

import pytest
import torch

import assay
from assay import coders
from assay.corpora.prompt import prompt, special_ids
from assay.errors import BadInput, WidthMismatch
from assay.models.base import Site
from assay.models.streaming import Sampling
from assay.studies.reading import read
from assay.studies.steer import Point, Steering, steered, stream, sweep

SITE = Site("resid_post", 1)


@pytest.fixture(scope="module")
def model():
    return assay.model("tiny")


@pytest.fixture(scope="module")
def coder():
    """256 latents, of which 16 are active on a token."""
    return coders.new("topk", d_in=128, d_sae=256, k=16, seed=1).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def orthonormal():
    """The 128 axes and their opposites: latents are what an activation has along each, where that is positive."""
    return coders.new("identity", d_in=128, d_sae=256).eval()


@pytest.fixture(scope="module")
def text(model):
    return torch.from_numpy(prompt(model.tokenizer, "It is a truth universally acknowledged, that a single man").ids)[None]


def activations(model, coder, text, steerings, strengths=(1.0,), prompt=None):
    """What goes on at SITE, steered."""
    under = steered(model, coder, SITE, steerings, strengths, text.shape[1] if prompt is None else prompt)
    return under.run(text.expand(len(strengths), -1), [SITE])[SITE].float()


def latent_of(model, coder, text):
    """(a latent that is active on some tokens, where, how much)."""
    found = read(model, coder, SITE, text)
    latent = int(found.strongest("sum", ~torch.zeros(text.shape[1], dtype=torch.bool).numpy())[0])
    at, values = found.row(latent)
    return latent, torch.from_numpy(at), torch.from_numpy(values)


def test_ablation_takes_a_latent_s_contribution_away_exactly_there(model, coder, text):
    plain = model.run(text, [SITE])[SITE].float()
    latent, at, values = latent_of(model, coder, text)
    expected = torch.zeros_like(plain)
    expected[0, at] = -values[:, None] * coder.W_dec[latent]
    assert 0 < len(at) <= text.shape[1]
    moved = activations(model, coder, text, [Steering(latent=latent, operation="ablate")]) - plain
    assert torch.allclose(moved, expected, atol=0.02 * values.abs().max())  # the model computes in bfloat16
    silent = [i for i in range(text.shape[1]) if i not in at.tolist()]
    assert moved[0, silent].abs().max() == 0 if silent else True


@pytest.mark.parametrize(
    ("operation", "value", "target"),
    [("add", 30.0, lambda z: z + 30), ("clamp", 12.0, lambda z: z * 0 + 12), ("ablate", 9.0, lambda z: z * 0), ("scale", -2.0, lambda z: -2 * z)],
)  # fmt: skip
def test_each_operation_moves_activations_by_the_difference_times_the_row(coder, operation, value, target):
    """On the edit itself, in full precision."""
    from assay.models.base import Where
    from assay.studies.steer import edit

    x = torch.randn(2, 5, 128, generator=torch.Generator().manual_seed(0))
    code = coder.encode(x)
    latent = int(code.z[0].sum(0).argmax())
    new = edit([Steering(latent=latent, operation=operation, value=value)], (1.0, 0.0), 5)(code, Where(SITE))
    moved = coder.decode(new) - coder.decode(code.with_latents(code.z))
    z = code.z[0, :, latent]
    assert torch.allclose(moved[0], (target(z) - z)[:, None] * coder.W_dec[latent], atol=1e-5)
    assert torch.equal(new.z[1], code.z[1])


def test_orthonormal_rows_move_one_coordinate(model, orthonormal, text):
    plain = model.run(text, [SITE])[SITE].float()
    moved = activations(model, orthonormal, text, [Steering(latent=7, operation="clamp", value=2.0)])
    assert torch.allclose(moved[..., 7], 2.0 - (-plain[..., 7]).relu(), atol=0.02)
    others = [i for i in range(128) if i != 7]
    assert torch.equal(moved[..., others], plain[..., others])


def test_strength_goes_from_nothing_to_all_and_beyond(model, orthonormal, text):
    plain = model.run(text, [SITE])[SITE].float()
    rows = activations(model, orthonormal, text, [Steering(latent=3, value=8.0)], (0.0, 0.5, 1.0, -2.0))
    assert torch.equal(rows[0], plain[0])
    assert (rows - plain)[..., 3].mean(1).tolist() == pytest.approx([0, 4, 8, -16], abs=0.05)


def test_several_latents_and_the_same_twice(model, orthonormal, text):
    plain = model.run(text, [SITE])[SITE].float()
    several = [Steering(latent=3, value=8.0), Steering(latent=4, value=-8.0), Steering(latent=3, value=8.0)]
    moved = (activations(model, orthonormal, text, several) - plain).mean((0, 1))
    assert moved[[3, 4, 5]].tolist() == pytest.approx([16, -8, 0], abs=0.05)


@pytest.mark.parametrize(("positions", "expected"), [("all", range(12)), ("prompt", range(4)), ("generated", range(4, 12))])
def test_positions(model, orthonormal, text, positions, expected):
    plain = model.run(text[:, :12], [SITE])[SITE].float()
    one = Steering(latent=5, value=20.0, positions=positions)
    moved = (activations(model, orthonormal, text[:, :12], [one], prompt=4) - plain)[0, :, 5].abs() > 1
    assert moved.nonzero().flatten().tolist() == list(expected)


def test_positions_in_generation(model, orthonormal, text):
    """Token by token with a cache as in whole passes over the text so far."""
    for positions in ("prompt", "generated", "all"):
        one = [Steering(latent=5, operation="clamp", value=60.0, positions=positions)]
        row, special = text, special_ids(model.tokenizer)
        found = [
            s[0].id
            for s in stream(model, orthonormal, SITE, text, one, Sampling(new_tokens=6), strengths=(1.0,), special=special)
        ]
        for id in found:
            mask = ~torch.isin(row, torch.tensor(sorted(special)))
            under = steered(model, orthonormal, SITE, one, (1.0,), text.shape[1])
            assert int(under.run(row, mask=mask).logits[0, -1].argmax()) == id
            row = torch.cat([row, torch.tensor([[id]])], 1)


def test_special_tokens_are_left_alone_unless_asked_for(model, orthonormal, text):
    special = special_ids(model.tokenizer)
    assert int(text[0, 0]) in special
    seen = {}
    for asked in ((), special):
        one = [Steering(latent=5, operation="clamp", value=60.0, positions="prompt")]
        steps = stream(model, orthonormal, SITE, text[:, :1], one, Sampling(new_tokens=1), special=asked)
        plain, moved = next(steps)
        seen[bool(asked)] = (plain, moved)
    assert seen[True][0].probability == seen[True][1].probability
    assert seen[False][0] != seen[False][1]


def test_the_unsteered_row_is_the_model_s_own_continuation(model, coder, text):
    sampling = Sampling(new_tokens=12, temperature=1.0, seed=4)
    steps = list(stream(model, coder, SITE, text, [Steering(latent=9, value=200.0)], sampling))
    plain, moved = ([s[i].id for s in steps if s[i]] for i in (0, 1))
    assert plain == model.generate(text, **sampling.settings())[0, : len(plain)].tolist()
    assert moved != plain


def test_a_sweep_starts_at_nothing_and_grows(model, coder, text):
    latent, _, _ = latent_of(model, coder, text)
    steering = [Steering(latent=latent, value=20.0)]
    found = list(sweep(model, coder, SITE, text, steering, (0.0, 0.5, 1.0, 2.0, 4.0), Sampling(new_tokens=10)))
    points = [p for p in found if isinstance(p, Point)]
    shares = [p for p in found if not isinstance(p, Point)]
    assert [p.strength for p in points] == [0.0, 0.5, 1.0, 2.0, 4.0] and shares == sorted(shares) and shares[-1] < 1
    kl = [p.kl for p in points]
    assert kl[0] == 0 and kl == sorted(set(kl))
    assert points[0].ids == tuple(model.generate(text, new_tokens=10)[0].tolist())
    assert points[-1].perplexity > 2 * points[0].perplexity


def test_perplexity_by_hand(model, coder, text):
    point = next(
        p
        for p in sweep(model, coder, SITE, text, [Steering(latent=9, value=50.0)], (1.0,), Sampling(new_tokens=5))
        if isinstance(p, Point)
    )
    whole = torch.cat([text, torch.tensor([point.ids])], 1)
    chances = model.run(whole).logits[0].float().log_softmax(-1)
    nll = [-float(chances[text.shape[1] - 1 + i, id]) for i, id in enumerate(point.ids)]
    assert point.perplexity == pytest.approx(math.exp(sum(nll) / len(nll)), rel=0.03)


def test_a_sweep_ends_where_it_is_closed(model, coder, text):
    steps = sweep(model, coder, SITE, text, [Steering(latent=9, value=50.0)], (1.0,) * 40, Sampling(new_tokens=50))
    next(steps)
    steps.close()
    with pytest.raises(StopIteration):
        next(steps)


@pytest.mark.parametrize(
    ("steering", "strengths"),
    [(Steering(latent=256), (1.0,)), (Steering(latent=-1), (1.0,)), (Steering(latent=1, value=math.inf), (1.0,)), (Steering(latent=1), ()), (Steering(latent=1), (math.nan,))],
)  # fmt: skip
def test_what_cannot_be_meant(model, coder, text, steering, strengths):
    with pytest.raises(BadInput):
        stream(model, coder, SITE, text, [steering], strengths=strengths)


def test_a_coder_of_another_width(model, text):
    other = coders.new("topk", d_in=64, d_sae=128, k=4)
    with pytest.raises(WidthMismatch):
        stream(model, other, SITE, text, [Steering(latent=1)])
    with pytest.raises(BadInput, match="another model"):
        read(model, other, SITE, text)


def test_a_reading_is_the_code(model, coder, text):
    found = read(model, coder, SITE, text)
    z = coder.encode(model.run(text, [SITE])[SITE].float()).z[0]
    dense = torch.zeros_like(z)
    dense[found.token, found.latent] = torch.from_numpy(found.value)
    assert torch.equal(dense, z)
    assert found.l0().tolist() == (z != 0).sum(1).tolist() and found.distinct() == int((z != 0).any(0).sum())
    every = torch.ones(len(z), dtype=torch.bool).numpy()
    some = every.copy()
    some[[0, 1, 2]] = False
    assert found.strongest("max", some, limit=5).tolist() == z[3:].amax(0).argsort(descending=True, stable=True)[:5].tolist()
    assert found.strongest("sum", every)[0] == int(z.sum(0).argmax())
    common = found.strongest("count", every, limit=1)[0]
    assert int((z[:, common] != 0).sum()) == int((z != 0).sum(0).max())
    rare = (z != 0).sum(0).numpy() <= 2
    assert all(rare[i] for i in found.strongest("max", every, among=rare))
