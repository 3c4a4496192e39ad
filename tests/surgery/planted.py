"""Coders whose latents are the true directions of a planted source, so that it is known what surgery must find in them."""

from __future__ import annotations

import torch

from assay import coders
from assay.activations import Planted
from assay.randomness import generator

D, LATENTS, DEAD = 24, 40, 5
SETTINGS = {
    "relu": {}, "gated": {}, "jumprelu": {}, "p_anneal": {}, "topk": {"k": 3}, "batch_topk": {"k": 3},
    "matryoshka": {"k": 3, "fractions": "1/4,1/2,1"},
    "free": {"architecture": "batch_topk", "k": 3, "decoder": "free"},
    "free_topk": {"architecture": "topk", "k": 3, "decoder": "free"},
    "free_relu": {"architecture": "relu", "decoder": "free"},
    "free_jumprelu": {"architecture": "jumprelu", "decoder": "free"},
    "transcoder": {"settings": "k=3"}, "crosscoder": {"settings": "k=3"}, "skip_transcoder": {"of": "jumprelu"},
    "transcoder_relu": {"architecture": "transcoder", "of": "relu", "settings": "decoder=free"},
    "crosscoder_matryoshka": {"architecture": "crosscoder", "of": "matryoshka", "settings": "fractions=1/4,1,k=3"},
}  # fmt: skip
LINEAR = [name for name in SETTINGS if "coder" not in name]
COUNTED = ["topk", "free_topk", "transcoder"]  # exactly k latents
SOURCE = Planted(d=D, latents=LATENTS, seed=0)
BOUND = 0.18
ROWS = SOURCE.directions
READ = torch.linalg.lstsq(*SOURCE.codes(8192, 4), driver="gelsd").solution  # the best linear guess of each feature
READ = READ / (ROWS * READ.T).sum(1)  # without shrinkage


def new(name: str, d_sae: int = LATENTS):
    settings = dict(SETTINGS[name])
    return coders.new(settings.pop("architecture", name), d_in=D, d_sae=d_sae, **settings)


@torch.no_grad()
def planted(name: str, seed: int = 0):
    """A coder of the true directions, with thresholds around BOUND or k latents; every eighth latent is dead."""
    coder, random = new(name).eval(), generator("planted coder", seed)
    inner, mean = getattr(coder, "inner", coder), 0.1 * SOURCE.codes(4096, 3)[0].mean(0)
    length = torch.rand(LATENTS, generator=random) + 0.5 if inner.free else torch.ones(LATENTS)
    theta = BOUND * (0.7 + 0.6 * torch.rand(LATENTS, generator=random))
    inner.W_dec.copy_(ROWS * length[:, None])
    inner.W_enc.copy_(READ / length)
    inner.b_dec.copy_(mean)
    if not inner.centred:
        inner.b_enc.copy_(-mean @ inner.W_enc)
        if hasattr(coder, "b_in"):
            coder.b_in.copy_(mean / 2)
            inner.b_enc.add_(coder.b_in @ inner.W_enc)
    kind = type(inner).__name__
    if kind in ("ReLU", "PAnneal", "Gated"):
        inner.b_enc.sub_(theta / length)
    if kind == "TopK":
        inner.b_enc.add_(0.2 / length)  # else a vector may have fewer than k that are positive
    if kind == "JumpReLU":
        inner.log_threshold.copy_((theta / length).log())
    if kind == "Gated":
        inner.r_mag.copy_(0.1 * torch.randn(LATENTS, generator=random))
        inner.b_mag.copy_(0.05 * torch.randn(LATENTS, generator=random))
    if hasattr(inner, "threshold_batches"):
        inner.threshold.fill_(BOUND)
    if name == "skip_transcoder":
        coder.W_skip.copy_(0.01 * torch.randn(D, D, generator=random))
    inner.b_enc[:: -(-LATENTS // DEAD)] = -50.0
    return coder


def duplicated(coder, name: str, seed: int, noise: float = 0.1):
    """The coder with every fifth latent twice, the second one's directions off by `noise`."""
    random, numbers = generator("duplicates", seed), torch.arange(1, LATENTS, 5)
    twin = new(name, LATENTS + len(numbers))
    weights, wide = coder.state_dict(), twin.state_dict()
    for key, t in weights.items():
        for axis in (i for i, (a, b) in enumerate(zip(t.shape, wide[key].shape)) if a != b):
            again = t.index_select(axis, numbers)
            if key in ("W_enc", "W_dec"):
                off = torch.randn(again.shape, generator=random) * again.norm(dim=1 - axis, keepdim=True) * noise / D**0.5
                again = again + off
            weights[key] = torch.cat([t, again], axis)
    twin.load_state_dict(weights)
    return twin.eval(), [[i, LATENTS + n] for n, i in enumerate(numbers.tolist())]


def nearly(a, b):
    """Equal but for vectors on which rounding moves a latent across its threshold."""
    assert ((a - b).abs().amax(1) < 1e-5).double().mean() > 0.999


def lands(coder, l0, x, fresh):
    """The mean L0 of fresh vectors is `l0` but for chance, which is small."""
    each = coder.encode(fresh).latents.l0()
    chance = float(each.std()) * (1 / len(x) + 1 / len(fresh)) ** 0.5
    assert abs(float(each.mean()) - l0) < 2.5 * chance + 1e-3 * l0
    assert chance < 0.02 * l0
