"""Splicing replaces what it should, where it should, and nothing else."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from assay import coders
from assay.coders.base import Batch
from assay.errors import BadInput, WidthMismatch
from assay.models import HFModel
from assay.models.base import Site
from assay.splice import ablate, coder_hash, home, splice

SITE = Site("resid_post", 1)
LATER = Site("resid_post", 2)


def make_model(dtype: torch.dtype = torch.float32) -> HFModel:
    config = LlamaConfig(
        vocab_size=61, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=2,
        max_position_embeddings=64, initializer_range=0.3, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return HFModel(LlamaForCausalLM(config).to(dtype), name="tiny-llama")


@pytest.fixture(scope="module")
def model() -> HFModel:
    return make_model()


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    return torch.randint(3, 61, (3, 10), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def mask() -> torch.Tensor:
    mask = torch.ones(3, 10, dtype=torch.bool)
    mask[:, 0], mask[2, 7:] = False, False
    return mask


def identity(d: int = 16):
    return coders.new("identity", d_in=d, d_sae=2 * d)


@pytest.fixture(scope="module")
def topk(model, tokens):
    coder = coders.new("topk", d_in=16, d_sae=40, k=4).eval()
    coder.initialise(Batch.of(model.run(tokens, read=[SITE])[SITE].reshape(-1, 16)))
    return coder


def test_perfect_coder_leaves_logits(model, tokens):
    clean, spliced = model.run(tokens).logits, splice(model, {SITE: identity()}).run(tokens).logits
    torch.testing.assert_close(spliced, clean, rtol=1e-4, atol=1e-4)


def test_reconstruction_stands_where_mask_is_true_and_only_there(model, tokens, mask, topk):
    x = model.run(tokens, read=[SITE])[SITE]
    with torch.no_grad():
        expected = topk(x)
    got = splice(model, {SITE: topk}).run(tokens, read=[SITE], mask=mask)[SITE]
    assert torch.equal(got[~mask], x[~mask])
    torch.testing.assert_close(got[mask], expected[mask])
    everywhere = splice(model, {SITE: topk}).run(tokens, read=[SITE])[SITE]
    torch.testing.assert_close(everywhere, expected)


def test_splice_equals_an_edit_by_hand(model, tokens, topk):
    by_hand = model.run(tokens, edit={SITE: lambda x, where: topk(x)}).logits
    assert torch.equal(splice(model, {"resid_post.1": topk}).run(tokens).logits, by_hand)


@pytest.mark.parametrize("error", ["keep", "drop"])
def test_no_edit_keep_is_the_original(model, tokens, topk, error):
    clean, logits = model.run(tokens).logits, splice(model, {SITE: topk}, error=error).run(tokens).logits
    assert torch.equal(clean, logits) == (error == "keep")


def test_kept_error_changes_only_edited_tokens(model, tokens, topk):
    x = model.run(tokens, read=[SITE])[SITE]
    latent = int(topk.encode(x).latents.firing().argmax())

    def ablate_latent(code, where):
        z = code.z.clone()
        z[..., latent] = 0
        return code.with_latents(z)

    got = splice(model, {SITE: topk}, ablate_latent, error="keep").run(tokens, read=[SITE])[SITE]
    z = topk.encode(x).z[..., latent]
    assert 0 < (z > 0).sum() < z.numel()
    assert torch.equal(got[z == 0], x[z == 0])
    torch.testing.assert_close(got, x - z[..., None] * topk.W_dec[latent], rtol=1e-4, atol=1e-5)


def test_edit_that_touches_nothing_is_the_original(model, tokens):
    many = coders.new("topk", d_in=16, d_sae=400, k=60).eval()  # enough terms that sparse and dense sums round differently
    x = model.run(tokens, read=[SITE])[SITE]
    code = many.encode(x)
    assert not torch.equal(many.decode(code), many.decode(code.with_latents(code.z)))
    view = splice(model, {SITE: many}, lambda code, where: code.with_latents(code.z), error="keep")
    assert torch.equal(view.run(tokens).logits, model.run(tokens).logits)


def test_bf16_model_keeps_its_dtype(tokens, topk):
    model = make_model(torch.bfloat16)
    x = model.run(tokens, read=[SITE])[SITE]
    got = splice(model, {SITE: topk}).run(tokens, read=[SITE])[SITE]
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, topk(x.float()).to(torch.bfloat16))


def test_composes_with_reads_edits_and_itself(model, tokens, topk):
    view = splice(model, {SITE: topk})
    x = view.run(tokens, read=[SITE])[SITE]
    doubled = view.run(tokens, edit={SITE: lambda y, where: 2 * y}, read=[SITE, LATER])
    torch.testing.assert_close(doubled[SITE], x)
    by_hand = model.run(tokens, edit={SITE: lambda y, where: 2 * topk(y)}, read=[LATER])
    torch.testing.assert_close(doubled[LATER], by_hand[LATER])
    twice = ablate(view, LATER).run(tokens, read=[SITE, LATER])
    torch.testing.assert_close(twice[SITE], x)
    assert torch.equal(twice[LATER], torch.zeros_like(x))


def test_stop_after_the_spliced_site_reads_the_reconstruction(model, tokens, topk):
    view = splice(model, {SITE: topk})
    run = view.run(tokens, read=[SITE], stop_after=SITE)
    assert run.logits is None
    torch.testing.assert_close(run[SITE], view.run(tokens, read=[SITE])[SITE])


def test_gradients_reach_what_was_read(model, tokens, topk):
    run = splice(model, {SITE: topk}).run(tokens, read=[SITE], grad=True)
    (gradient,) = torch.autograd.grad(run.logits.square().sum(), run[SITE])
    assert gradient.abs().sum() > 0


def test_generate_under_splice(model, tokens):
    plain = model.generate(tokens, new_tokens=5)
    assert torch.equal(splice(model, {SITE: identity()}).generate(tokens, new_tokens=5), plain)
    other = ablate(model, SITE).generate(tokens, new_tokens=5)
    assert torch.equal(other, model.generate(tokens, {SITE: lambda x, where: torch.zeros_like(x)}, new_tokens=5))


def test_training_mode_is_left_as_it_was(model, tokens):
    coder = coders.new("batch_topk", d_in=16, d_sae=40, k=4).train()
    one, many = splice(model, {SITE: coder}).run(tokens[:1]).logits, splice(model, {SITE: coder}).run(tokens).logits
    torch.testing.assert_close(one, many[:1], rtol=1e-4, atol=1e-4)
    assert coder.training


def test_width_is_checked_at_once(model):
    with pytest.raises(WidthMismatch, match=r"width 16, but this Identity reads 12"):
        splice(model, {SITE: identity(12)})
    with pytest.raises(WidthMismatch, match="expected"):
        ablate(model, SITE, torch.zeros(3))
    with pytest.raises(BadInput, match="neither"):
        splice(model, {SITE: identity()}, error="lose")


def test_fingerprint_is_of_model_and_coders(model, topk):
    view = splice(model, {SITE: topk})
    assert view.fingerprint == splice(model, {SITE: topk.clone()}).fingerprint
    assert len({model.fingerprint, view.fingerprint, splice(model, {SITE: identity()}).fingerprint}) == 3
    with pytest.raises(BadInput, match="no fingerprint"):
        _ = splice(model, {SITE: topk}, lambda code, where: code).fingerprint


def test_coder_hash_sees_every_weight(topk):
    twin = topk.clone()
    assert coder_hash(twin) == coder_hash(topk)
    with torch.no_grad():
        next(twin.parameters())[0, 0] += 1e-6
    assert coder_hash(twin) != coder_hash(topk)
    assert home(topk) == torch.device("cpu")
