"""A real tiny model, text that it wrote itself, and coders of one of its sites."""

from __future__ import annotations

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from assay import coders
from assay.coders.base import Batch
from assay.corpora.pack import Tokens
from assay.evals.core import Core, CoreConfig
from assay.models import HFModel
from assay.models.base import Site

SITE = Site("resid_post", 1)
WIDTH = 16


def make_model() -> HFModel:
    config = LlamaConfig(
        vocab_size=61, hidden_size=WIDTH, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=2,
        max_position_embeddings=64, initializer_range=0.4, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    letters = {"<pad>": 0, "<bos>": 1, "<eos>": 2, **{chr(97 + i): 3 + i for i in range(26)}}
    tokenizer = Tokenizer(models.WordLevel(letters, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return HFModel(LlamaForCausalLM(config), fast, name="tiny-llama")


def make_text(model) -> Tokens:
    """40 rows that the model wrote itself, so that its clean loss is the lowest: BOS, two documents a row, some padding."""
    start = torch.ones(40, 1, dtype=torch.long)
    written = model.generate(start, new_tokens=15, do_sample=True, seed=0, eos_token_id=None)
    ids = torch.cat([start, written], 1).numpy()
    mask = np.ones(ids.shape, dtype=bool)
    mask[:, 0], mask[::5, 12:] = False, False
    document = np.arange(40)[:, None] * 2 // 3 + (np.arange(16) > 8)
    return Tokens.from_arrays(ids, mask, document)


def vectors(model, text) -> torch.Tensor:
    x = model.run(torch.from_numpy(np.array(text.tokens)).long(), read=[SITE])[SITE]
    return x[torch.from_numpy(np.array(text.mask))]


def make_coders(model, text) -> dict:
    batch = Batch.of(vectors(model, text))
    made = {
        "identity": coders.new("identity", d_in=WIDTH, d_sae=2 * WIDTH),
        "topk": coders.new("topk", d_in=WIDTH, d_sae=48, k=5),
        "random": coders.new("random", d_in=WIDTH, d_sae=64, k=4),
    }
    for coder in made.values():
        coder.initialise(batch)
        coder.eval()
    return made


def core(tokens: int = 10_000) -> Core:
    return Core(CoreConfig(tokens=tokens))


def scored(records) -> list:
    return [(r.coder, r.key, r.scores, r.details) for r in records]


class Counted:
    """A model that counts passes and the blocks they run, and may die at one."""

    def __init__(self, model, die_at=None):
        self._model, self._die_at, self.full, self.stopped, self.blocks = model, die_at, 0, 0, 0

    def __getattr__(self, name):
        return getattr(self._model, name)

    def run(self, tokens, read=(), edit=None, *, stop_after=None, start=None, **others):
        last = self.n_layers - 1 if stop_after is None else stop_after.layer
        if tokens.shape[1] > 1:  # one token asks for the vocabulary's size
            self.blocks += last - (-1 if start is None else start[0].layer)
        if stop_after is None and tokens.shape[1] > 1:
            self.full += 1
        elif stop_after is not None:
            self.stopped += 1
        if self._die_at is not None and self.full + self.stopped > self._die_at:
            raise KeyboardInterrupt
        return self._model.run(tokens, read, edit, stop_after=stop_after, start=start, **others)
