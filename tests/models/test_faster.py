"""The number type that a model runs fastest in: what is chosen, that it is kept, and that measuring leaves no trace."""

from __future__ import annotations

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from assay import models
from assay.models import HFModel, faster
from assay.models.faster import Speeds


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ASSAY_CACHE", str(tmp_path))


@pytest.fixture
def module():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return GPT2LMHeadModel(GPT2Config(n_layer=4, n_head=2, n_embd=16, n_positions=32, vocab_size=100, bos_token_id=1))


@pytest.mark.parametrize(
    ("own", "speeds", "best"),
    [
        ("float32", {"float32": 100, "bfloat16": 190}, "bfloat16"),
        ("float32", {"float32": 100, "bfloat16": 119}, "float32"),
        ("bfloat16", {"bfloat16": 100, "float32": 119}, "bfloat16"),
        ("bfloat16", {"bfloat16": 100, "float32": 400}, "float32"),
        ("float16", {"float16": 10, "float32": 100, "bfloat16": 90}, "float32"),
    ],
)
def test_the_checkpoints_type_unless_another_is_clearly_faster(own, speeds, best):
    assert Speeds(own=own, tokens_per_second=speeds).best == best


def test_measuring_runs_each_type_and_leaves_no_trace(module):
    model = HFModel(module)
    before = {name: x.clone() for name, x in module.state_dict().items()}
    fingerprint, seen = model.fingerprint, set()
    hook = module.transformer.h[2].register_forward_hook(lambda m, args, out: seen.add(m.mlp.c_fc.weight.dtype))
    last = module.transformer.h[3].register_forward_hook(lambda *_: pytest.fail("ran past what is measured"))
    found = faster.measured(model, ["float32", "bfloat16"])
    hook.remove()
    last.remove()
    assert set(found) == {"float32", "bfloat16"}
    assert all(speed > 0 for speed in found.values())
    assert seen == {torch.float32, torch.bfloat16}
    assert model.dtype == torch.float32
    assert all(torch.equal(x, before[name]) for name, x in module.state_dict().items())
    assert HFModel(module).fingerprint == fingerprint


def test_what_is_chosen_is_used_kept_and_part_of_the_fingerprint(module, tmp_path, monkeypatch):
    monkeypatch.setattr(faster, "SMALL", 0)
    asked = []
    monkeypatch.setattr(faster, "measured", lambda model, names: asked.append(names) or {"float32": 10.0, "bfloat16": 30.0})
    module.save_pretrained(tmp_path / "model")
    words = {"tokenizer": models.load("tiny").tokenizer}
    plain = models.load(tmp_path / "model", **words)
    for _ in range(2):
        chosen = models.load(tmp_path / "model", dtype="fastest", **words)
        assert chosen.dtype == torch.bfloat16
        assert chosen.fingerprint == models.load(tmp_path / "model", dtype="bfloat16", **words).fingerprint != plain.fingerprint
        assert str(chosen.speeds) == "float32 1×, bfloat16 3×"
    assert asked == [["float32", "bfloat16"]]


def test_small_models_are_left_as_they_are():
    chosen, plain = models.load("tiny", dtype="fastest"), models.load("tiny")
    assert chosen.speeds is None
    assert (chosen.dtype, chosen.fingerprint) == (plain.dtype, plain.fingerprint)
