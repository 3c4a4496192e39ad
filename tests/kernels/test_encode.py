"""The encoder's product and the choice among its entries, against torch's plain ones on all of it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assay import coders
from assay.coders.base import Batch, Step
from assay.kernels import encode, launch, sparse
from assay.kernels.encode import Product, positions, topk_of_rows
from assay.randomness import generator
from assay.testing import toy_batch

sizes = st.integers(0, 150)
KINDS = ("gauss", "ties", "negative", "zeros", "one row above all")


def product(n: int, d: int, s: int, kind: str = "gauss", *, weighted: bool = False, rough: bool = False) -> Product:
    random = generator("encode", n, d, s, kind)
    x, W, b = (torch.randn(*shape, generator=random) for shape in [(n, d), (s, d), (s,)])
    if kind == "ties":
        x, W, b = x.sign(), W.sign(), b.sign()
    elif kind == "negative":
        b = b - 100
    elif kind == "zeros":
        x, b = torch.zeros_like(x), torch.zeros_like(b)
    elif kind == "one row above all" and n:
        x[n // 2] *= 50
    return Product(x, W.t(), b, torch.rand(s, generator=random) + 0.5 if weighted else None, rough)


def whole(p: Product) -> tuple[torch.Tensor, torch.Tensor]:
    pre = p.x @ p.W + p.bias
    return pre, pre if p.weight is None else pre * p.weight


def dense(chosen: encode.Chosen, shape: torch.Size) -> torch.Tensor:
    """Chosen entries, NaN elsewhere."""
    full = torch.full(shape, float("nan"))
    full[sparse.row_of(chosen.offsets, len(chosen.indices)), chosen.indices] = chosen.values
    return full


def check(p: Product, chosen: encode.Chosen, pre: torch.Tensor) -> torch.Tensor:
    """Values are those of the product; columns rise in each row. Gives what was kept."""
    full = dense(chosen, pre.shape)
    kept = ~full.isnan()
    assert int(kept.sum()) == len(chosen.values), "each entry once"
    torch.testing.assert_close(full[kept], pre[kept], rtol=1e-5, atol=1e-5)
    rows = sparse.row_of(chosen.offsets, len(chosen.indices))
    assert (torch.diff(rows * pre.shape[1] + chosen.indices) > 0).all()
    return kept


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """Several blocks of rows even for toys."""
    monkeypatch.setattr(encode, "BLOCK", 1)
    monkeypatch.setattr(encode, "ROWS", 64)


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(1, 9), st.integers(1, 300), st.sampled_from(KINDS), st.booleans(), st.booleans(), st.data())
def test_topk_of_each_row(n, d, s, kind, weighted, rough, data):
    k = data.draw(st.integers(1, s))
    p = product(n, d, s, kind, weighted=weighted, rough=rough)
    pre, rank = whole(p)
    kept = check(p, chosen := p.rows_topk(k), pre)
    assert chosen.offsets.tolist() == [i * k for i in range(n + 1)]
    if not rough:
        torch.testing.assert_close(
            rank.masked_fill(~kept, -torch.inf).sort(1).values[:, s - k :],
            rank.sort(1).values[:, s - k :],
            rtol=1e-5,
            atol=1e-5,
        )


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(1, 9), st.integers(1, 300), st.sampled_from(KINDS), st.booleans(), st.data())
def test_largest_of_all(n, d, s, kind, weighted, data):
    p = product(n, d, s, kind, weighted=weighted)
    pre, rank = whole(p)
    count = n * data.draw(st.integers(1, s))
    kept = check(p, p.largest(count), pre)
    wanted = rank.flatten().sort(descending=True).values[:count]
    wanted = wanted[wanted > 1e-4]  # about 0, rounding decides
    found = rank[kept].sort(descending=True).values
    assert len(wanted) <= len(found) <= count
    torch.testing.assert_close(found[: len(wanted)], wanted, rtol=1e-5, atol=1e-5)


def test_ties_never_exceed_the_count():
    p = Product(torch.ones(30, 2), torch.ones(40, 2).t(), torch.zeros(40))
    chosen = p.largest(77)
    assert len(chosen.values) == 77
    assert chosen.offsets.diff().tolist() == [40, 37] + [0] * 28, "the last of equals are left out"


def test_a_sample_that_misleads_costs_time_only():
    p = product(400, 4, 64)
    p.x[::6] *= 100  # the rows of the sample, and only they, are large
    pre = whole(p)[0]
    kept = check(p, p.largest(400 * 30), pre)
    torch.testing.assert_close(pre[kept].sort(descending=True).values, pre.flatten().sort(descending=True).values[:12_000])


@settings(max_examples=40, deadline=None)
@given(sizes, st.integers(1, 9), st.integers(1, 100), st.sampled_from(KINDS), st.booleans())
def test_above_a_threshold(n, d, s, kind, single):
    p = product(n, d, s, kind)
    pre, threshold = whole(p)[0], torch.tensor(0.3) if single else torch.randn(s, generator=generator("bars", s))
    kept = check(p, p.above(threshold), pre)
    clear = (pre - threshold).abs() > 1e-4
    assert torch.equal(kept[clear], (pre > threshold)[clear])


def test_above_gives_up_when_many_are():
    p = product(200, 4, 64)
    share = (whole(p)[0] > 0.5).float().mean().item()
    assert p.above(0.5, dense=share / 2) is None
    assert p.above(0.5, dense=min(1.0, share * 2)) is not None


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 20), st.integers(1, 130), st.floats(0, 1))
def test_positions(n, s, share):
    keep = torch.rand(n, s, generator=generator("positions", n, s)) < share
    assert torch.equal(positions(keep), keep.flatten().nonzero()[:, 0])


@pytest.mark.parametrize(("s", "k"), [(256, 4), (512, 7), (1024, 16), (1000, 5), (64, 64)])
def test_maxima_lead_to_the_largest(s, k):
    for kind in ("gauss", "ties", "bunched"):
        pre = torch.randn(50, s, generator=generator("maxima", s, k))
        pre = {"gauss": pre, "ties": pre.round(), "bunched": pre + 10 * (torch.arange(s) % (s // 16) == 3)}[kind]
        got = pre.gather(1, topk_of_rows(pre, k)).sort(1).values
        assert torch.equal(got, pre.topk(k, dim=1).values.flip(1)), kind


@pytest.mark.parametrize("seed", range(3))
def test_rough_candidates_find_what_exact_ones_do(seed):
    """At the width and k of real coders: 99.9 % of the choices, and exact values."""
    random = generator("rough", seed)
    x = torch.randn(256, 512, generator=random) / 512**0.5
    W = torch.nn.functional.normalize(torch.randn(4096, 512, generator=random), dim=1).t()
    exact, rough = (Product(x, W, torch.zeros(4096), rough=r) for r in (False, True))
    for choose in (lambda p: p.rows_topk(32), lambda p: p.largest(32 * 256)):
        a, b = (dense(choose(p), torch.Size([256, 4096])) for p in (exact, rough))
        same = ~a.isnan() & ~b.isnan()
        assert same.sum() >= 0.999 * (~a.isnan()).sum()
        torch.testing.assert_close(a[same], b[same], rtol=1e-5, atol=1e-6)


LINEAR = {
    "relu": {}, "relu_free": {"decoder": "free"}, "relu_tanh": {"penalty": "tanh"}, "p_anneal": {"p_end": 0.3}, "gated": {},
    "gated_free": {"decoder": "free", "p_end": 0.5}, "jumprelu": {"bandwidth": 0.2},
    "jumprelu_frequency": {"penalty": "quadratic_frequency", "bandwidth": 0.2},
    "jumprelu_target": {"penalty": "target_l0", "target_l0": 3.0, "bandwidth": 0.2}, "topk": {"k": 5}, "batch_topk": {"k": 5},
}  # fmt: skip


@pytest.mark.parametrize("name", LINEAR)
def test_sparse_and_dense_learn_the_same(name, monkeypatch):
    """Every loss term and every gradient of the sparse way against the dense one, in double precision."""
    found = {}
    for way, most in {"sparse": 1.0, "dense": -1.0}.items():
        monkeypatch.setattr(encode, "DENSE", {"cpu": most})
        architecture = name if name == "batch_topk" else name.split("_")[0] if name != "p_anneal" else name
        coder = coders.new(architecture, d_in=16, d_sae=72, **LINEAR[name])
        coder.initialise(toy_batch(coder))
        coder.double().train()
        with torch.no_grad():
            coder.b_dec.add_(0.1)
            coder.b_enc.sub_(0.02)
        batch = Batch.of(toy_batch(coder, n=64, name=1).x.double())
        code = coder.encode(batch.x)
        assert code.latents.is_sparse == (way == "sparse" or "topk" in name)
        terms = coder.loss(batch, code, Step(0.5))
        sum(terms.values()).backward()
        found[way] = dict(terms) | {n: p.grad for n, p in coder.named_parameters()} | {"z": code.z}
    for key, value in found["dense"].items():
        assert key == "aux_k" or value.abs().max() > 0, key
        torch.testing.assert_close(found["sparse"][key], value, rtol=1e-9, atol=1e-12, msg=key)


def test_weights_lie_so_that_no_gradient_is_copied():
    coder = coders.new("topk", d_in=16, d_sae=72, k=4).train()
    batch = toy_batch(coder)
    sum(coder.loss(batch, coder.encode(batch.x), Step()).values()).backward()
    assert coder.W_enc.stride() == coder.W_enc.grad.stride() == (1, 16)
    assert coder.clone().W_enc.stride() == (1, 16)


@pytest.mark.parametrize("name", ["topk", "batch_topk", "relu", "jumprelu_frequency", "gated_free"])
def test_by_triton_as_by_torch(name, monkeypatch):
    """A step by the kernels that a GPU runs, here in Triton's interpreter: the same loss and gradients."""
    pytest.importorskip("triton")
    monkeypatch.setattr(encode, "DENSE", {"cpu": 1.0})
    found = {}
    for by, usable in {"torch": False, "triton": True}.items():
        monkeypatch.setattr(launch, "usable", lambda t, usable=usable: usable)
        coder = coders.new(name.split("_f")[0], d_in=8, d_sae=40, **LINEAR[name])
        coder.initialise(toy_batch(coder))
        coder.train()
        batch = toy_batch(coder, n=12, name=1)
        code = coder.encode(batch.x)
        terms = coder.loss(batch, code, Step(0.5))
        sum(terms.values()).backward()
        found[by] = dict(terms) | {n: p.grad for n, p in coder.named_parameters()} | {"z": code.z}
    for key, value in found["torch"].items():
        torch.testing.assert_close(found["triton"][key], value, rtol=1e-5, atol=1e-6, msg=key)
