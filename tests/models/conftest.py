"""Tiny random models of many families, built in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM

from assay.models.hf import HFModel

VOCABULARY, WIDTH, BLOCKS = 97, 32, 3
ENDS = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
PLAIN: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": BLOCKS,
    "num_attention_heads": 4, "max_position_embeddings": 64, **ENDS,
}  # fmt: skip
GROUPED = {**PLAIN, "num_key_value_heads": 2}
GEMMA = {**GROUPED, "head_dim": 12, "query_pre_attn_scalar": 12, "sliding_window": 8}
OPT = {
    "vocab_size": VOCABULARY, "hidden_size": WIDTH, "ffn_dim": 48, "num_hidden_layers": BLOCKS, "num_attention_heads": 4,
    "max_position_embeddings": 64, "word_embed_proj_dim": WIDTH, **ENDS,
}  # fmt: skip
GPT2 = {"vocab_size": VOCABULARY, "n_embd": WIDTH, "n_layer": BLOCKS, "n_head": 4, "n_positions": 64, **ENDS}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", GROUPED),
    "mistral": ("MistralConfig", GROUPED),
    "qwen2": ("Qwen2Config", GROUPED),
    "qwen3": ("Qwen3Config", {**GROUPED, "head_dim": 12}),
    "gemma2": ("Gemma2Config", {**GEMMA, "final_logit_softcapping": 3.0}),
    "gemma3": ("Gemma3TextConfig", GEMMA),
    "olmo2": ("Olmo2Config", GROUPED),
    "phi3": ("Phi3Config", GROUPED),
    "gpt2": ("GPT2Config", GPT2),
    "gpt_neox": ("GPTNeoXConfig", PLAIN),
    "gpt_neox_sequential": ("GPTNeoXConfig", {**PLAIN, "use_parallel_residual": False}),
    "phi": ("PhiConfig", PLAIN),
    "opt": ("OPTConfig", OPT),
    "opt_post_norm": ("OPTConfig", {**OPT, "word_embed_proj_dim": 24, "do_layer_norm_before": False}),
    "bloom": ("BloomConfig", {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "n_layer": BLOCKS, "n_head": 4, **ENDS}),
}
UNCERTAIN = {"opt_post_norm", "bloom"}
"""Families whose blocks do not add to a residual stream in the plain way; most of their sites are refused."""
FAMILIES = [name for name in CONFIGS if name not in UNCERTAIN]


def _build(family: str, dtype: torch.dtype = torch.float32, **changes: Any) -> transformers.PreTrainedModel:
    """A model with random weights, large enough for every part to matter."""
    kind, settings = CONFIGS[family]
    config = getattr(transformers, kind)(**{**settings, **changes})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():  # the library's start leaves biases 0 and norms 1: no mistake would show
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.to(dtype)


@pytest.fixture(scope="session")
def build() -> Callable[..., transformers.PreTrainedModel]:
    """build(family, dtype, **changes of its configuration): a new model each time."""
    return _build


@pytest.fixture(scope="session")
def tiny() -> Callable[[str], HFModel]:
    """HFModels by family, each built once."""
    built: dict[str, HFModel] = {}

    def get(family: str) -> HFModel:
        if family not in built:
            built[family] = HFModel(_build(family), name=family)
        return built[family]

    return get


@pytest.fixture(params=FAMILIES)
def model(request, tiny) -> HFModel:
    """Each family in turn."""
    return tiny(request.param)


@pytest.fixture
def tokens() -> torch.Tensor:
    """Three rows of nine tokens."""
    return torch.randint(3, VOCABULARY, (3, 9), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def tokenizer() -> transformers.PreTrainedTokenizerFast:
    """One token a letter."""
    letters = {"<pad>": 0, "<eos>": 1, "<bos>": 2, **{chr(97 + i): 3 + i for i in range(26)}}
    made = Tokenizer(models.WordLevel(letters, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>")
