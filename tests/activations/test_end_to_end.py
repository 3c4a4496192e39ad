"""End-to-end training: what the model makes of reconstructions, its gradients, and whether coders learn from it."""

from __future__ import annotations

import copy
import json
from itertools import islice

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel

import assay
from assay import coders
from assay.activations import ActivationSource, EndToEnd, Live
from assay.corpora.pack import Tokens
from assay.errors import BadInput, NotFinite, WidthMismatch
from assay.models import HFModel
from assay.models.base import Site
from assay.splice import splice
from assay.train import TrainConfig, train

LATER = ["resid_post.1", "resid_post.2"]


@pytest.fixture(scope="module")
def model() -> HFModel:
    """GPT-2 with three blocks of width 16, and weights so large that errors at a site matter."""
    config = GPT2Config(n_layer=3, n_head=2, n_embd=16, n_positions=32, vocab_size=1000, initializer_range=0.2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return HFModel(GPT2LMHeadModel(config), name="tiny-gpt2")


@pytest.fixture(scope="module")
def exact(model) -> HFModel:
    return HFModel(copy.deepcopy(model.module).double(), name="tiny-gpt2")


def noisy(x: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return x + 0.5 * x.std() * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)


def train_rows(source: EndToEnd) -> np.ndarray:
    """The rows that training sees, in the order of its first pass under seed 0."""
    return np.array([row for row, _, _ in next(source._stretches(source.tokens, 0, 0))])


# ---- the stream ----------------------------------------------------------------------------------------------------------------


def test_contract(model, tokens):
    source = EndToEnd(model, tokens, "resid_post.0")
    assert isinstance(source, ActivationSource)
    batch = next(source.batches(10, seed=0))
    assert batch.x.shape == (10, 16)
    assert batch.x.dtype == torch.float32
    assert batch.y is batch.x
    assert batch.ahead is not None
    json.dumps(source.describe())
    others = [{"loss": "ce"}, {"weight": 2.0}, {"mse": 0.1}, {"later": LATER}, {"later": LATER[:1]}, {"held_out_share": 0.2}]
    made = [source, *(EndToEnd(model, tokens, "resid_post.0", **other) for other in others)]
    assert len({s.fingerprint for s in made}) == len(made)
    assert source.fingerprint == EndToEnd(model, tokens, "resid_post.0").fingerprint


@pytest.mark.parametrize("size", [1, 7, 30, 400])
def test_batch_i_is_a_pure_function(model, tokens, size):
    source = EndToEnd(model, tokens, "resid_post.0", later=LATER, mse=0.5, batch_rows=2)
    straight = list(islice(source.batches(size, seed=3), 5))
    for start in (0, 1, 4):
        again = next(source.batches(size, seed=3, start=start))
        assert torch.equal(again.x, straight[start].x)
        wrong = noisy(again.x)
        assert again.ahead(wrong) == straight[start].ahead(wrong)
    assert not torch.equal(next(source.batches(size, seed=4)).x, straight[0].x)


def test_every_vector_comes_once_a_pass_and_held_out_ones_never(model, tokens):
    source = EndToEnd(model, tokens, "resid_post.1", held_out_share=0.2)
    live = Live(model, tokens, "resid_post.1", held_out_share=0.2)
    assert source.tokens == live.tokens < 0.9 * tokens.mask.sum()
    want = sorted(next(live.batches(live.tokens, seed=0)).x.tolist())
    passes = [next(source.batches(source.tokens, seed=1, start=number)).x for number in range(2)]
    for seen in passes:
        torch.testing.assert_close(torch.tensor(sorted(seen.tolist())), torch.tensor(want), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(*passes), "another order in each pass"
    for size in (7, 10_000):
        torch.testing.assert_close(source.held_out(size).x, live.held_out(size).x, rtol=1e-5, atol=1e-5)
    assert EndToEnd(model, tokens, "resid_post.1", held_out_share=0.0).held_out(5) is None


def test_vectors_come_in_the_order_of_the_text(model, tokens):
    source = EndToEnd(model, tokens, "resid_post.1")
    rows = train_rows(source)
    ids, mask = torch.from_numpy(tokens.tokens[rows]).long(), torch.from_numpy(tokens.mask[rows])
    want = model.run(ids, read=[Site("resid_post", 1)])["resid_post.1"][mask]
    got = torch.cat([b.x for b in islice(source.batches(7, seed=0), source.tokens // 7)])
    torch.testing.assert_close(got, want[: len(got)], rtol=1e-5, atol=1e-5)


# ---- what the model makes of it ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "site", ["resid_pre.0", "attn_out.0", "resid_mid.1", "mlp_in.1", "mlp_out.1", "resid_post.1", "resid_post.2"]
)
@pytest.mark.parametrize("size", [9, 60])
def test_a_perfect_reconstruction_costs_nothing(model, tokens, site, size):
    later = ["resid_post.2"] if site != "resid_post.2" else []
    for number, batch in enumerate(islice(EndToEnd(model, tokens, site, mse=0.5, later=later).batches(size, seed=0), 3)):
        terms = batch.ahead(batch.x.clone().requires_grad_())
        assert terms.keys() == ({"kl", "mse_later", "mse"} if later else {"kl", "mse"})
        assert all(value.item() == 0 for value in terms.values()), (number, terms)


def test_ce_of_a_perfect_reconstruction_is_the_models_own(model, tokens):
    source = EndToEnd(model, tokens, "mlp_out.1", loss="ce", batch_rows=4)
    batch = next(source.batches(source.tokens, seed=0))
    rows = train_rows(source)
    ids, mask, document = torch.from_numpy(tokens.tokens[rows]).long(), tokens.mask[rows], tokens.document[rows]
    counts = torch.from_numpy(mask[:, :-1] & mask[:, 1:] & (document[:, :-1] == document[:, 1:]))
    with torch.no_grad():
        logits = model.module(input_ids=ids).logits
    own = F.cross_entropy(logits[:, :-1][counts], ids[:, 1:][counts])
    assert batch.ahead(batch.x).keys() == {"ce"}
    torch.testing.assert_close(batch.ahead(batch.x)["ce"], own, rtol=1e-6, atol=1e-6)
    assert batch.ahead(noisy(batch.x))["ce"] != batch.ahead(batch.x)["ce"]


@pytest.mark.parametrize("site", ["attn_out.0", "resid_post.0", "mlp_in.1"])
def test_terms_are_those_of_splicing(model, tokens, site):
    """The same coder through `splice`, whole rows, and every figure computed anew."""
    source = EndToEnd(model, tokens, site, later=["mlp_out.2"], mse_later=3.0, weight=0.5, mse=0.25, batch_rows=3)
    batch = next(source.batches(source.tokens, seed=0))
    coder = coders.new("topk", d_in=16, d_sae=40, k=3).eval()
    coder.initialise(batch)
    rows = train_rows(source)
    ids, mask = torch.from_numpy(tokens.tokens[rows]).long(), torch.from_numpy(tokens.mask[rows])
    spot = Site.parse("mlp_out.2")
    with torch.no_grad():
        clean, spliced = (m.run(ids, [spot], mask=mask) for m in (model, splice(model, {site: coder})))
        log, truth = (run.logits[mask].log_softmax(-1) for run in (spliced, clean))
        x_hat = coder(batch.x)
        terms = batch.ahead(x_hat)
    kl = (truth.exp() * (truth - log)).sum(-1).mean()
    assert kl > 0.01
    later = (spliced[spot] - clean[spot])[mask].square().sum() / clean[spot][mask].square().sum()
    want = {"kl": 0.5 * kl, "mse_later": 3 * later, "mse": 0.25 * (batch.x - x_hat).square().sum() / batch.x.square().sum()}
    assert terms.keys() == want.keys()
    for name, value in want.items():
        torch.testing.assert_close(terms[name], value, rtol=1e-4, atol=1e-6)


def test_what_is_masked_out_keeps_its_activations_and_does_not_count(model):
    """A row with BOS and padding gives the same as the text alone, and a row cut by a batch's border counts in parts."""
    ids = np.random.default_rng(0).integers(2, 1000, (4, 10)).astype(np.int32)
    mask = np.ones_like(ids, dtype=bool)
    mask[:, 0] = False
    plain = EndToEnd(model, Tokens.from_arrays(ids, mask), "resid_post.0", held_out_share=0.0)
    padded = EndToEnd(
        model,
        Tokens.from_arrays(np.pad(ids, ((0, 0), (0, 3))), np.pad(mask, ((0, 0), (0, 3)))),
        "resid_post.0",
        held_out_share=0.1,
    )
    a, b = (next(source.batches(36, seed=0)) for source in (plain, padded))
    torch.testing.assert_close(a.x, b.x, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(a.ahead(noisy(a.x))["kl"], b.ahead(noisy(a.x))["kl"], rtol=1e-4, atol=1e-6)
    cut = next(plain.batches(4, seed=0))  # of nine vectors in the first row
    ((row, first, end),) = next(plain._stretches(4, 0, 0))
    assert (first, end) == (0, 4)
    whole = model.run(torch.from_numpy(ids[[row]]).long()).logits[0, 1:5].log_softmax(-1)
    x_hat = noisy(cut.x)

    def edit(x, where):
        return torch.cat([x[:, :1], x_hat[None], x[:, 5:]], 1)

    other = model.run(torch.from_numpy(ids[[row]]).long(), edit={Site("resid_post", 0): edit}).logits[0, 1:5].log_softmax(-1)
    torch.testing.assert_close(cut.ahead(x_hat)["kl"], (whole.exp() * (whole - other)).sum(-1).mean(), rtol=1e-4, atol=1e-6)


# ---- gradients -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("site", ["resid_post.0", "resid_mid.1", "attn_out.0"])
@pytest.mark.parametrize("loss", ["kl", "ce"])
def test_gradients_agree_with_finite_differences(exact, tokens, site, loss):
    later = {"later": ["resid_post.2", "mlp_out.2"], "mse_later": 0.7, "mse": 0.3}
    batch = next(EndToEnd(exact, tokens, site, loss=loss, weight=2.0, batch_rows=2, **later).batches(40, seed=0))
    y_hat = noisy(batch.x.double()).requires_grad_()
    terms = batch.ahead(y_hat)
    along = torch.randn(3, *y_hat.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    along[2] = 0
    along[2, 17, 5] = 1.0  # a single number, too
    for name, value in terms.items():
        slope = torch.autograd.grad(value, y_hat, retain_graph=True)[0]
        for way in along:
            up, down = (batch.ahead(y_hat.detach() + by * way)[name].item() for by in (1e-4, -1e-4))
            assert (slope * way).sum().item() == pytest.approx((up - down) / 2e-4, rel=1e-4, abs=1e-8), name


def test_gradients_stay_out_of_the_model_and_do_not_depend_on_parts(model, tokens):
    found = []
    for rows in (1, 4, 100):
        source = EndToEnd(model, tokens, "resid_post.0", later=LATER, batch_rows=rows)
        batch = next(source.batches(60, seed=0))
        y_hat = noisy(batch.x).requires_grad_()
        torch.stack(list(batch.ahead(y_hat).values())).sum().backward()
        found.append(y_hat.grad)
        assert not any(p.requires_grad or p.grad is not None for p in model.module.parameters())
        assert not model.module.training
        assert not batch.x.requires_grad
        with torch.no_grad():
            assert not any(value.requires_grad for value in batch.ahead(y_hat).values())
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-3, atol=1e-6)
    assert found[0].abs().sum(1).min() > 0, "each vector has a gradient"


def test_balanced_is_as_large_as_the_mse_term(model, tokens):
    batches = [
        next(EndToEnd(model, tokens, "resid_post.0", weight=weight, mse=mse).batches(60, seed=0))
        for weight, mse in (("balanced", 0.5), (1.0, 0.0))
    ]
    y_hat = noisy(batches[0].x).requires_grad_()
    terms, plain = (batch.ahead(y_hat) for batch in batches)
    torch.testing.assert_close(terms["kl"], terms["mse"])
    factor = (terms["kl"] / plain["kl"]).item()
    a, b = (torch.autograd.grad(t["kl"], y_hat)[0] for t in (terms, plain))
    torch.testing.assert_close(a, b * factor)
    zero = batches[0].ahead(batches[0].x.clone().requires_grad_())
    assert zero["kl"].item() == zero["mse"].item() == 0


def test_bf16_models_lose_in_fp32(tokens):
    tiny = assay.model("tiny")
    assert tiny.dtype == torch.bfloat16
    source = EndToEnd(tiny, tokens, "resid_post.1", later=["resid_post.3"], mse=1.0)
    batch = next(source.batches(50, seed=0))
    y_hat = noisy(batch.x).requires_grad_()
    terms = batch.ahead(y_hat)
    assert all(value.dtype == torch.float32 for value in terms.values())
    torch.stack(list(terms.values())).sum().backward()
    assert y_hat.grad is not None
    assert torch.isfinite(y_hat.grad).all()
    assert all(value.item() == 0 for value in batch.ahead(batch.x).values())


# ---- learning ------------------------------------------------------------------------------------------------------------------


def test_trained_and_resumed_alike(model, tokens, tmp_path):
    """Several coders over one stream, each as alone; stopped and taken up again, the same bits."""
    cfg = TrainConfig(tokens=60 * 12, batch=60, log_every=1, checkpoint_seconds=0, held_out_vectors=8, dead_after=200)

    def source():
        return EndToEnd(model, tokens, "resid_post.0", later=LATER, batch_rows=4, held_out_share=0.2)

    def some():
        return {"topk": coders.new("topk", d_in=16, d_sae=40, k=4), "relu": coders.new("relu", d_in=16, d_sae=40, l1=0.1)}

    whole, half, again, alone = some(), some(), some(), some()["topk"]
    rows = list(train(whole, source(), cfg))
    assert all({"kl", "mse_later", "held_out_fvu"} <= row.metrics.keys() for row in rows)
    assert all("mse" not in row.metrics for row in rows)
    stopped = train(half, source(), cfg, resume=tmp_path / "checkpoint.safetensors")
    while next(stopped).step < 5:
        pass
    stopped.close()
    list(train(again, source(), cfg, resume=tmp_path / "checkpoint.safetensors"))
    list(train({"topk": alone}, source(), cfg))
    for name, value in whole["topk"].state_dict().items():
        assert torch.equal(value, again["topk"].state_dict()[name]), name
        assert torch.equal(value, alone.state_dict()[name]), name
    for name, value in whole["relu"].state_dict().items():
        assert torch.equal(value, again["relu"].state_dict()[name]), name


@pytest.mark.slow
def test_kl_training_costs_the_model_less_than_mse_training(store):
    """On held-out text, after 100 steps of TopK with equal L0: about 0.53 against 0.66 nats; the squared error is the price."""
    tiny = assay.model("tiny")
    text, other = (
        assay.tokenise(assay.corpus("austen"), tiny.tokenizer, assay.PackConfig(context=64, split=split), store)
        for split in ("train", "held_out")
    )
    look = EndToEnd(tiny, other, "resid_post.1", held_out_share=0.5).held_out(2500)
    sources = {
        "mse": Live(tiny, text, "resid_post.1"),
        "kl": EndToEnd(tiny, text, "resid_post.1"),
        "both": EndToEnd(tiny, text, "resid_post.1", weight="balanced", mse=0.5),
    }
    for seed in range(2):
        kl, fvu = {}, {}
        for name, source in sources.items():
            coder = coders.new("topk", d_in=128, d_sae=512, k=8, seed=seed)
            list(train({name: coder}, source, TrainConfig(tokens=25_600, batch=256, lr=3e-3, seed=seed, held_out_vectors=0)))
            with torch.no_grad():
                code = coder.encode(look.x)
                assert code.latents.l0().mean() == 8
                x_hat = coder.decode(code)
                kl[name] = look.ahead(x_hat)["kl"].item()
                fvu[name] = ((look.x - x_hat).square().sum() / (look.x - look.x.mean(0)).square().sum()).item()
        assert kl["kl"] < 0.9 * kl["mse"], kl
        assert kl["both"] < 0.9 * kl["mse"], kl
        assert fvu["mse"] < fvu["both"] < fvu["kl"], fvu


# ---- what is refused -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "mse"}, "neither"),
        ({"weight": -1.0}, "weight must be 0 or more"),
        ({"weight": "heavy"}, "weight must be 0 or more"),
        ({"weight": "balanced"}, "set mse above 0"),
        ({"weight": 0.0}, "nothing to learn from"),
        ({"mse": float("inf")}, "mse must be"),
        ({"later": ["resid_pre.1"]}, "must come after"),
        ({"batch_rows": 0}, "batch_rows"),
        ({"held_out_share": 1.0}, "held_out_share"),
    ],
)
def test_impossible_settings_are_refused(model, tokens, settings, message):
    with pytest.raises(BadInput, match=message):
        EndToEnd(model, tokens, "resid_post.1", **settings)


def test_impossible_requests_are_refused(model, tokens):
    source = EndToEnd(model, tokens, "resid_post.1", held_out_share=0.2)
    with pytest.raises(BadInput, match="held-out"):
        source.held_out(0)
    for asked in ((0, 0, 0), (4, -1, 0), (4, 0, -1)):
        with pytest.raises(BadInput, match="A stream needs"):
            source.batches(*asked)
    with pytest.raises(WidthMismatch, match="Reconstructions"):
        next(source.batches(5, 0)).ahead(torch.zeros(4, 16))
    with pytest.raises(BadInput, match="no tokens"):
        EndToEnd(model, Tokens.from_arrays(tokens.tokens, np.zeros_like(tokens.mask)), "resid_post.1")


def test_a_model_that_overflows_is_named(model, tokens):
    broken = HFModel(copy.deepcopy(model.module), name="broken")
    broken.module.transformer.h[1].mlp.c_fc.weight.data[0, 0] = float("inf")
    with pytest.raises(NotFinite, match="broken gives NaN or infinity at"):
        next(EndToEnd(broken, tokens, "resid_post.1").batches(20, 0))
