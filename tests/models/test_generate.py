"""Generation under edits: positions, settings, seeds."""

from __future__ import annotations

import logging

import pytest
import torch

from assay.errors import BadInput, UnknownName
from assay.models.base import Site
from assay.models.hf import HFModel


class Look:
    """An edit that changes nothing and remembers which positions it was shown."""

    def __init__(self):
        self.seen = []

    def __call__(self, x, where):
        self.seen.append((where.start, x.shape[0], x.shape[1]))
        return x.clone()


def endless(build, family, **changes):
    """A model that never ends a text early."""
    model = build(family, **changes)
    model.generation_config.eos_token_id = None
    return HFModel(model)


def test_greedy_by_hand(model, tokens):
    """What `generate` gives is the argmax of plain runs."""
    row = tokens[:1]
    new = model.generate(row, new_tokens=5)
    for i in range(new.shape[1]):
        assert int(model.run(row).logits[0, -1].argmax()) == int(new[0, i])
        row = torch.cat([row, new[:, i : i + 1]], 1)


def test_identity_edits_change_no_token(model, tokens):
    plain = model.generate(tokens, new_tokens=6)
    assert torch.equal(
        model.generate(tokens, {site: lambda x, where: x.clone() for site in model.sites()}, new_tokens=6), plain
    )


@pytest.mark.parametrize("kind", ["resid_pre", "resid_mid", "mlp_out", "attn_z", "resid_post"])
def test_edits_act_in_every_step(build, tokens, kind):
    """Steering from the first generated column on equals the same edit in plain runs."""
    model, site = endless(build, "llama"), Site(kind, 1)

    def push(x, where):
        positions = where.start + torch.arange(x.shape[1])
        return torch.where((positions >= 9)[None, :, None], x * -2 + 3, x)

    steered = model.generate(tokens, {site: push}, new_tokens=6)
    assert not torch.equal(steered, model.generate(tokens, new_tokens=6))
    rows = tokens
    for i in range(6):
        step = model.run(rows, edit={site: push}).logits[:, -1].argmax(-1)
        assert torch.equal(step, steered[:, i])
        rows = torch.cat([rows, step[:, None]], 1)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma2", "gemma3", "opt", "phi3"])
def test_positions_are_absolute(build, tokens, family):
    model, look = endless(build, family), Look()
    model.generate(tokens, {Site("resid_post", 1): look}, new_tokens=5)
    assert look.seen == [(0, 3, 9), (9, 3, 1), (10, 3, 1), (11, 3, 1), (12, 3, 1)]


def test_positions_without_a_cache_and_past_a_sliding_window(build, tokens):
    model, look = endless(build, "llama"), Look()
    model.generate(tokens, {Site("mlp_in", 0): look}, new_tokens=3, use_cache=False)
    assert look.seen == [(0, 3, 9), (0, 3, 10), (0, 3, 11)]
    model, look = endless(build, "gemma3", sliding_window=4), Look()
    model.generate(tokens, {Site("mlp_in", 0): look}, new_tokens=4)
    assert [start for start, _, _ in look.seen] == [0, 9, 10, 11]


def test_beams_multiply_the_rows(build, tokens):
    model, look = endless(build, "opt"), Look()
    out = model.generate(tokens, {Site("mlp_out", 1): look}, new_tokens=3, num_beams=2)
    assert out.shape == (3, 3)
    assert look.seen == [(0, 6, 9), (9, 6, 1), (10, 6, 1)]


def test_a_cache_that_tells_no_positions_is_refused_with_edits(build, tokens):
    import transformers

    torch.manual_seed(0)
    config = transformers.MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2, eos_token_id=None, pad_token_id=0)
    model = HFModel(transformers.AutoModelForCausalLM.from_config(config))
    assert {site.kind for site in model.sites()} == {"resid_pre", "resid_post"}
    with pytest.raises(BadInput, match="use_cache=False"):
        model.generate(tokens, {Site("resid_post", 0): Look()}, new_tokens=3)
    look = Look()
    model.generate(tokens, {Site("resid_post", 0): look}, new_tokens=3, use_cache=False)
    assert [start for start, _, _ in look.seen] == [0, 0, 0]


def test_sampling_is_seeded_and_leaves_the_global_generator_alone(tiny, tokens):
    model = tiny("llama")
    before = torch.get_rng_state()
    words = {"do_sample": True, "temperature": 2.0, "new_tokens": 8}
    one, two = model.generate(tokens, seed=1, **words), model.generate(tokens, seed=1, **words)
    assert torch.equal(one, two)
    assert not torch.equal(one, model.generate(tokens, seed=2, **words))
    assert torch.equal(torch.get_rng_state(), before)


def test_left_padded_prompts_continue_as_alone(build, tokens):
    model = endless(build, "gpt2")
    padded = torch.cat([torch.zeros(3, 4, dtype=tokens.dtype), tokens], 1)
    out = model.generate(padded, new_tokens=5, attention_mask=(torch.arange(13) >= 4).long().expand(3, 13))
    assert torch.equal(out, model.generate(tokens, new_tokens=5))


def test_greedy_whatever_the_checkpoint_suggests_and_silently(build, tokens, caplog):
    raw = build("llama")
    raw.generation_config.do_sample, raw.generation_config.temperature, raw.generation_config.top_p = True, 5.0, 0.5
    kept = raw.generation_config
    logging.getLogger("transformers").propagate = True
    with caplog.at_level(logging.WARNING):
        out = HFModel(raw).generate(tokens, new_tokens=6)
    assert not caplog.records
    assert torch.equal(out, HFModel(build("llama")).generate(tokens, new_tokens=6))
    assert raw.generation_config is kept


def test_the_end_of_text_pads(build, tokens):
    raw = build("llama")
    first = HFModel(raw).generate(tokens, new_tokens=1)[:, 0]
    raw.generation_config.eos_token_id = int(first[0])
    out = HFModel(raw).generate(tokens, new_tokens=6)
    assert int(out[0, 0]) == int(first[0])
    assert out[0, 1:].eq(0).all()


def test_unknown_settings_name_the_closest(tiny, tokens):
    with pytest.raises(UnknownName, match="'temperature'"):
        tiny("llama").generate(tokens, temperatur=0.5)
