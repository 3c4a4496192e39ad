"""Unembedding of directions, against the model's own norm and head."""

from __future__ import annotations

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from assay.models import HFModel
from assay.models.base import Site

SMALL = {
    "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
    "max_position_embeddings": 16, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
FAMILIES = {
    "llama": SMALL,
    "gpt_neox": SMALL,
    "gemma": SMALL | {"head_dim": 8, "num_key_value_heads": 1},
    "gpt2": {
        "vocab_size": 50,
        "n_embd": 16,
        "n_layer": 2,
        "n_head": 2,
        "n_positions": 16,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "opt": SMALL | {"ffn_dim": 24, "word_embed_proj_dim": 8},
}


@pytest.mark.parametrize("family", list(FAMILIES))
def test_logits_of_a_vector_are_its_unembedding_over_its_length(family):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = AutoModelForCausalLM.from_config(CONFIG_MAPPING[family](**FAMILIES[family]))
        for name, p in module.named_parameters():
            if "norm" in name or "ln_" in name:  # as if they had learnt
                p.data += torch.randn_like(p) * 0.3
        x = torch.randn(7, 16) * 3 + 1
    model = HFModel(module, name=family)
    if model.structure.tail == []:
        pytest.skip("no final norm")
    y, zero = x, torch.zeros_like(x)
    norm = model.structure.tail[0]
    with torch.no_grad():
        y, bias = norm(x), getattr(norm, "bias", None)
        offset = torch.zeros(16) if bias is None else bias
        for module in [*model.structure.tail[1:], model.structure.head]:
            y, offset = module(y), module(offset)
    centred = bias is not None
    length = (x - x.mean(1, keepdim=True) if centred else x).square().mean(1, keepdim=True).sqrt()
    found = model.unembed(x) / length
    assert torch.allclose(found, y - offset, atol=1e-4)
    assert Site("resid_post", 1) in model.sites() and zero.abs().sum() == 0


def test_it_is_linear_and_in_fp32():
    module = AutoModelForCausalLM.from_config(CONFIG_MAPPING["llama"](**SMALL)).to(torch.bfloat16)
    model = HFModel(module, name="llama")
    x = torch.randn(3, 16)
    found = model.unembed(x)
    assert found.dtype == torch.float32
    assert torch.allclose(model.unembed(2 * x), 2 * found, atol=1e-5)
