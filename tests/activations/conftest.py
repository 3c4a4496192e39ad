"""A toy model and toy tokens, small enough to know every vector by heart."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from assay.activations import GatherConfig, gather
from assay.corpora.pack import Tokens
from assay.errors import SiteMissing
from assay.models import HFModel
from assay.models.base import Run, Site

WIDTHS = {Site("resid_post", 0): 6, Site("mlp_out", 1): 4, Site("resid_post", 1): 6}


@dataclass
class ToyModel:
    """Causal, deterministic; every vector tells its token, its past and its site. Counts its passes."""

    name: str = "toy"
    fingerprint: str = "0123456789abcdef"
    tokenizer: object = None
    n_layers: int = 2
    dtype: torch.dtype = torch.float32
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    passes: list = field(default_factory=list)
    poison: tuple | None = None
    """(token id, value) at which a vector goes bad."""
    before: object = None
    """Called before each pass with its number."""

    def sites(self):
        return list(WIDTHS)

    def d(self, site):
        if Site.parse(site) not in WIDTHS:
            raise SiteMissing(f"{site} is not in the toy.")
        return WIDTHS[Site.parse(site)]

    def run(self, tokens, read=(), edit=None, *, stop_after=None, mask=None, grad=False):
        if self.before:
            self.before(len(self.passes))
        self.passes.append((tuple(tokens.shape), tuple(read), stop_after))
        past = torch.sin(tokens.double().cumsum(1) * 0.1)[..., None]
        out = Run()
        for site in read:
            wave = torch.arange(1, WIDTHS[site] + 1) * (0.37 + list(WIDTHS).index(site))
            x = (torch.cos(tokens.double()[..., None] * wave) + past + site.layer).to(self.dtype)
            if self.poison and site == Site("resid_post", 1):
                x[..., 3] = torch.where(tokens == self.poison[0], torch.tensor(self.poison[1], dtype=self.dtype), x[..., 3])
            out.read[site] = x
        return out

    def generate(self, tokens, edit=None, *, new_tokens=32, **settings):
        raise NotImplementedError


def make_tokens(rows: int = 23, context: int = 12, seed: int = 0):
    """Rows of random ids below 1000: BOS first, some right-padded, row 5 and rows 16-19 without a single real token."""
    random = np.random.default_rng(seed)
    ids = random.integers(2, 1000, (rows, context)).astype(np.int32)
    mask = np.ones((rows, context), dtype=bool)
    mask[:, 0] = False
    for row in range(0, rows, 3):
        mask[row, random.integers(2, context) :] = False
    mask[5], mask[16:20] = False, False
    ids[:, 0] = 1
    ids[~mask] = np.where(np.arange(context) == 0, 1, 0)[None].repeat(rows, 0)[~mask]
    document = np.arange(rows)[:, None] * 2 + (np.arange(context) > context // 2)
    return Tokens.from_arrays(ids, mask, document)


def make_hf_model(seed: int = 0):
    """A real model with random weights: GPT-2 with two blocks of width 16."""
    config = GPT2Config(n_layer=2, n_head=2, n_embd=16, n_positions=32, vocab_size=1000, bos_token_id=1, eos_token_id=0)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return HFModel(GPT2LMHeadModel(config), name="tiny-gpt2")


@pytest.fixture(name="make_tokens")
def _make_tokens():
    return make_tokens


@pytest.fixture
def model() -> ToyModel:
    return ToyModel()


@pytest.fixture(scope="session")
def hf_model() -> HFModel:
    return make_hf_model()


@pytest.fixture
def tokens():
    return make_tokens()


@pytest.fixture
def gathered(model, tokens, store):
    """All three sites in fp32, six shards, the fifth of them empty."""
    return gather(model, tokens, list(WIDTHS), GatherConfig(dtype="float32", batch_rows=3, shard_rows=4), store)


@pytest.fixture
def truth(tokens):
    """What the toy computes: {site: [n, d]} in document order."""
    run = ToyModel().run(torch.from_numpy(tokens.tokens).long(), read=sorted(WIDTHS, key=lambda s: s.depth))
    return {site: x[torch.from_numpy(tokens.mask)] for site, x in run.read.items()}
