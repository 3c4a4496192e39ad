"""Streaming: the same tokens as `generate`, for every family, with and without edits, dice and penalties; places, masks, ends, closing."""

from __future__ import annotations

import pytest
import torch

from assay.errors import BadInput, NotFinite
from assay.models.base import Past, Site
from assay.models.hf import HFModel
from assay.models.streaming import Sampling, stream

SAMPLINGS = {
    "greedy": Sampling(new_tokens=7),
    "dice": Sampling(new_tokens=7, temperature=1.3, seed=5),
    "nucleus": Sampling(new_tokens=7, temperature=0.8, top_k=20, top_p=0.7, seed=2),
    "penalties": Sampling(new_tokens=7, temperature=1.0, repetition_penalty=1.7, no_repeat_ngram=2, seed=1),
}


def ids(rows):
    """Columns of a stream as rows; -1 where a row has ended."""
    return torch.tensor([[-1 if t is None else t.id for t in step] for step in rows]).T


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
def test_the_same_tokens_as_generate(model, tokens, sampling):
    """Each row is what `generate` gives of it alone; an end pads."""
    found = ids(stream(model, tokens, sampling))
    for row, prompt in zip(found, tokens):
        alone = model.generate(prompt[None], **sampling.settings())[0]
        kept = row[row >= 0]
        assert torch.equal(kept, alone[: len(kept)]) and alone[len(kept) :].eq(0).all()
        assert len(kept) == sampling.new_tokens or int(kept[-1]) in model.ends


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
def test_edits_act_as_in_generate(tiny, tokens, sampling):
    model, site = tiny("llama"), Site("resid_mid", 1)

    def push(x, where):
        positions = where.start + torch.arange(x.shape[1])
        return torch.where((positions >= 9)[None, :, None], x * -2 + 3, x)

    found = ids(stream(model, tokens[:1], sampling, {site: push}))[0]
    alone = model.generate(tokens[:1], {site: push}, **sampling.settings())[0]
    assert torch.equal(found[found >= 0], alone[: int((found >= 0).sum())])
    assert not torch.equal(found, ids(stream(model, tokens[:1], sampling))[0])


def test_rows_share_the_dice(tiny, tokens):
    model, twice = tiny("gpt2"), tokens[:1].expand(2, -1)
    one, two = ids(stream(model, twice, Sampling(new_tokens=8, temperature=2.0, seed=3)))
    assert torch.equal(one, two)
    assert not torch.equal(one, ids(stream(model, twice, Sampling(new_tokens=8, temperature=2.0, seed=4)))[0])


def test_edits_are_told_places_and_what_counts(tiny, tokens):
    model, seen = tiny("llama"), []

    def look(x, where):
        seen.append((where.start, x.shape[1], where.mask))
        return x

    special = {int(tokens[0, 3])}
    for _ in stream(model, tokens[:1], Sampling(new_tokens=3), {Site("mlp_out", 0): look}, special=special):
        pass
    assert [(start, width) for start, width, _ in seen] == [(0, 9), (9, 1), (10, 1)]
    assert torch.equal(seen[0][2], tokens[:1] != tokens[0, 3])


def test_probabilities_are_the_model_s(tiny, tokens):
    model = tiny("gpt_neox")
    first = next(iter(stream(model, tokens, Sampling(temperature=3.0))))
    chances = model.run(tokens).logits[:, -1].softmax(-1)
    for row, token in enumerate(first):
        assert token.probability == pytest.approx(float(chances[row, token.id]), rel=1e-4)


def test_it_ends_where_the_model_does(tiny, tokens):
    model = tiny("llama")
    assert model.positions == 64
    many = tokens.repeat(1, 7)[:, :60]
    steps = list(stream(model, many, Sampling(new_tokens=50, repetition_penalty=1.2)))
    assert len(steps) <= 4 and (len(steps) == 4 or all(t is None or t.last for t in steps[-1]))
    with pytest.raises(BadInput, match="none is left"):
        stream(model, tokens.repeat(1, 8)[:, :64])


def test_closing_frees_the_model(tiny, tokens):
    model, passes = tiny("llama"), []
    steps = stream(model, tokens, Sampling(new_tokens=50), {Site("mlp_out", 0): lambda x, where: passes.append(1) or x})
    next(steps)
    model.run(tokens)  # between two tokens the model is free
    next(steps)
    steps.close()
    assert len(passes) == 2


def test_chunks_are_one_pass(model, tokens):
    """What a cache remembers is what a whole pass computes."""
    past = Past()
    model.step(tokens[:, :4], past)
    logits = model.step(tokens[:, 4:], past, keep=3)
    assert past.length == 9 and logits.shape[1] == 3
    assert torch.allclose(logits, model.run(tokens).logits[:, -3:], atol=2e-5)


def test_too_strong_an_edit_is_said(tiny, tokens):
    steps = stream(tiny("llama"), tokens, edit={Site("resid_post", 1): lambda x, where: x * float("nan")})
    with pytest.raises(NotFinite, match="too strongly"):
        next(steps)


def test_a_model_without_a_cache_of_positions_is_refused(tokens):
    import transformers

    torch.manual_seed(0)
    config = transformers.MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2, eos_token_id=None, pad_token_id=0)
    model = HFModel(transformers.AutoModelForCausalLM.from_config(config))
    with pytest.raises(BadInput, match="token by token"):
        next(stream(model, tokens))


@pytest.mark.parametrize(
    "wrong",
    [{"new_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"repetition_penalty": 0.0}, {"temperature": float("nan")}],
)
def test_impossible_settings(wrong):
    with pytest.raises(BadInput):
        Sampling(**wrong)
