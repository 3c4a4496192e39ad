"""What the contract cannot know of Matryoshka: nested reconstructions, the draw of prefixes, and that parents survive."""

from __future__ import annotations

import statistics

import pytest
import torch

from assay import coders
from assay.activations.tree import PlantedTree, parent_recall
from assay.coders import losses
from assay.coders.base import Step
from assay.coders.latents import Latents
from assay.coders.matryoshka import prefix_lengths
from assay.errors import BadInput, WidthMismatch
from assay.randomness import generator
from assay.testing import check_resume, check_save_load, toy_batch
from assay.train import TrainConfig, train


def make(name="matryoshka", **extra):
    coder = coders.new(name, **{"d_in": 16, "d_sae": 64, "k": 4} | extra)
    coder.initialise(toy_batch(coder))
    return coder.train()


def whole_loss(coder, batch, dead=None):
    terms = coder.loss(batch, coder.encode(batch.x), Step(0.5, dead))
    return torch.stack([t.reshape(()) for t in terms.values()]).sum()


def test_one_prefix_is_batch_topk_bit_for_bit():
    plain = make("batch_topk")
    for nested in (make(fractions="1"), make(prefixes="sampled", sampled=1)):
        nested.load_state_dict({**plain.state_dict(), "draws": nested.draws})
        batch, dead = toy_batch(plain), torch.arange(64) % 3 == 0
        plain.zero_grad()
        losses_of = [whole_loss(coder, batch, dead) for coder in (plain, nested)]
        assert torch.equal(*losses_of)
        for loss in losses_of:
            loss.backward()
        for name, p in plain.named_parameters():
            assert torch.equal(p.grad, nested.get_parameter(name).grad), name


@pytest.mark.parametrize("prefixes", ["fixed", "sampled"])
def test_loss_is_the_mean_over_prefixes(prefixes):
    """Against the definition, densely, with all gradients."""
    coder = make(fractions="1/8,1/2,1", aux_weight=0.0, prefixes=prefixes, sampled=4)
    twin, batch = coder.clone(), toy_batch(coder)
    lengths = twin.next_prefixes()
    whole_loss(coder, batch).backward()
    z = twin.encode(batch.x).z
    by_hand = [(batch.y - (z[:, :m] @ twin.W_dec[:m] + twin.b_dec)).square().sum(1).mean() for m in lengths]
    (sum(by_hand) / len(lengths)).backward()
    assert lengths[-1] == 64 and len(lengths) > 1
    for name, p in coder.named_parameters():
        torch.testing.assert_close(p.grad, twin.get_parameter(name).grad, rtol=1e-4, atol=1e-6)


def test_aux_k_learns_from_the_whole_error():
    coder, dead = make(fractions="1/4,1", aux_weight=1.0), torch.arange(64) < 20
    batch = toy_batch(coder)
    code = coder.encode(batch.x)
    expected = losses.aux_k(coder, batch, coder.decode(code), dead)
    torch.testing.assert_close(coder.loss(batch, code, Step(0.5, dead))["aux_k"], expected)


def test_last_reconstruction_is_the_decoders():
    coder = make()
    code = coder.encode(toy_batch(coder).x)
    *_, last = coder.reconstructions(code, coder.fixed)
    torch.testing.assert_close(last, coder.decode(code))


@pytest.mark.parametrize("sparse", [True, False])
def test_split_gives_each_latent_to_one_group(sparse):
    z = torch.randn(5, 3, 12, generator=generator("split")).relu() * (torch.rand(12, generator=generator("which")) < 0.6)
    latents, flat = Latents.from_dense(z), z.reshape(15, 12)
    if sparse:
        at = flat.nonzero()
        ends = torch.cat([torch.zeros(1, dtype=torch.int64), (flat != 0).sum(1).cumsum(0)])
        latents = Latents.from_csr(flat[at[:, 0], at[:, 1]], at[:, 1], ends, tuple(z.shape))
    groups = latents.split([1, 4, 7])
    assert [g.is_sparse for g in groups] == [sparse] * 3
    assert torch.equal(torch.cat([g.dense() for g in groups], dim=-1), z)
    assert torch.equal(torch.cat([g.firing() for g in groups]), latents.firing())
    with pytest.raises(WidthMismatch, match="Groups of 11 latents in all were asked for; there are 12"):
        latents.split([4, 7])


def test_fractions():
    assert prefix_lengths("1/32,3/32,7/32,15/32,1", 65_536) == [2048, 6144, 14336, 30720, 65536]
    assert prefix_lengths("0.25, 0.5,1", 64) == [16, 32, 64]
    assert prefix_lengths("1/32,3/32,1", 4) == [1, 4], "prefixes that round to the same length count once"
    for bad in ("1/4,1/2", "1/2,1/4,1", "0,1", "1,1", "-1/2,1"):
        with pytest.raises(BadInput, match="fractions must be above 0, rise, and end in 1"):
            make(fractions=bad)
    for bad in ("", "a,1", "1/0,1", "1e-999999999,1"):  # the last is as small as it takes long
        with pytest.raises(BadInput, match="fractions must read like"):
            make(fractions=bad)
    with pytest.raises(BadInput, match="sampled must be ≥ 1 and sampled_power > 0"):
        make(sampled_power=0.0)


def test_draws_follow_their_law():
    coder = make(prefixes="sampled", d_sae=1000)
    draws = [coder.next_prefixes() for _ in range(400)]
    assert all(d[-1] == 1000 and d == sorted(set(d)) and d[0] >= 1 and len(d) <= 10 for d in draws)
    short = sum(m <= 250 for d in draws for m in d[:-1]) / sum(len(d) - 1 for d in draws)
    assert short == pytest.approx(0.5, abs=0.04), "P(length ≤ m) = (m / d_sae)^.5"
    assert len({tuple(d) for d in draws}) == 400


def test_draws_are_named_and_resume():
    a, b = make(prefixes="sampled"), make(prefixes="sampled")
    first = [a.next_prefixes() for _ in range(6)]
    assert [b.next_prefixes() for _ in range(3)] == first[:3]
    c = make(prefixes="sampled")
    c.load_state_dict(b.state_dict())
    assert [c.next_prefixes() for _ in range(3)] == first[3:]
    assert make(prefixes="sampled").draws == 0
    other = coders.new("matryoshka", seed=1, d_in=16, d_sae=64, k=4, prefixes="sampled")
    assert [other.next_prefixes() for _ in range(6)] != first


def test_sampled_training_resumes_bit_for_bit(tmp_path):
    for check in (check_resume, check_save_load):
        check(lambda seed: coders.new("matryoshka", seed=seed, d_in=16, d_sae=32, k=4, prefixes="sampled"))


@pytest.mark.slow
def test_parents_survive_where_topk_absorbs_them():
    """On the tree T2, k at the true L0. Which parents one TopK loses hangs on its last bits (recall .16 to .52 in twelve runs, and .15 to .51 in twelve of
    the dense code), so its
    bound is on the mean of three seeds; those of Matryoshka hold for each."""
    topk = []
    for seed in range(3):
        source = PlantedTree(d=20, seed=seed)
        settings = {"d_in": 20, "d_sae": 20, "k": 1, "seed": seed}
        some = {
            "topk": coders.new("topk", **settings),
            "fixed": coders.new("matryoshka", **settings),
            "sampled": coders.new("matryoshka", prefixes="sampled", **settings),
        }
        cfg = TrainConfig(tokens=512_000, batch=512, lr=3e-3, beta1=0.0, dead_after=50_000, log_every=500, seed=seed)
        for _ in train(some, source, cfg):
            pass
        x, truth = source.codes(16_384, seed=99)
        with torch.no_grad():
            found = {name: parent_recall(source, c.W_dec, c.encode(x).z, truth).values() for name, c in some.items()}
        recall = {name: statistics.mean(share for _, share, _ in rows) for name, rows in found.items()}
        topk.append(recall["topk"])
        for name in ("fixed", "sampled"):
            assert recall[name] > 0.9
            assert sum(latent < 10 for latent, *_ in found[name]) >= 2, "at least two of three parents live in the first half"
    assert statistics.mean(topk) < 0.5
