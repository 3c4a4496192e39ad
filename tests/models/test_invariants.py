"""The load-time checks: they hold for what is known, and catch places that only look right."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from assay.errors import BadInput, SiteMissing
from assay.models import hf, invariants
from assay.models.base import KINDS, Site
from assay.models.families import structure
from assay.models.taps import Tap


def tampered(monkeypatch, raw, change):
    """An HFModel whose vocabulary found other places: `change(structure)` edits the taps."""
    found = structure(raw)
    monkeypatch.setattr(hf, "structure", lambda model: change(found) or found)
    return hf.HFModel(raw, name="tampered")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["gemma2", "gemma3", "olmo2"])
def test_module_outputs_before_a_post_norm_are_caught(monkeypatch, build, family, dtype):
    """The commonest mistake: the MLP's own output taken for what is added to the stream."""

    def change(found):
        block = found.blocks[1]
        found.taps[Site("mlp_out", 1)] = Tap(block.mlp, "model.layers.1.mlp", "out")

    model = tampered(monkeypatch, build(family, dtype), change)
    with pytest.raises(SiteMissing, match="not what block 1 adds"):
        model.d("mlp_out.1")
    every = {Site(kind, layer) for kind in KINDS for layer in range(3)}
    assert every - set(model.sites()) == {Site("mlp_out", 1), Site("resid_mid", 1)}  # what rests on the sum that fails
    assert [c.detail for c in model.check() if not c.ok] == ["fails in blocks 1"]


def test_a_wrong_projection_is_caught(monkeypatch, build):
    def change(found):
        found.taps[Site("attn_z", 0)] = Tap(found.blocks[0].self_attn.q_proj, "model.layers.0.self_attn.q_proj", "in")

    model = tampered(monkeypatch, build("llama"), change)
    with pytest.raises(SiteMissing, match="does not give the attention's output"):
        model.d("attn_z.0")
    assert model.d("attn_z.1") == 32


def test_a_residual_that_cannot_be_written_is_caught(monkeypatch, build):
    def change(found):
        site = Site("resid_mid", 2)
        found.taps[site] = replace(found.taps[site], in_place=False)  # only the norm would see the edit

    model = tampered(monkeypatch, build("llama"), change)
    with pytest.raises(SiteMissing, match="does not reach the end of the block"):
        model.d("resid_mid.2")
    assert model.d("mlp_out.2") == 32


def test_blocks_that_do_not_follow_each_other_are_caught(build):
    raw = build("gpt2")
    raw.transformer.h[1].register_forward_pre_hook(lambda module, args: (args[0] + 1, *args[1:]))
    model = hf.HFModel(raw, name="odd")
    with pytest.raises(SiteMissing, match="block 1 does not start from what block 0 leaves"):
        model.d("resid_pre.1")


def test_a_stream_that_does_not_reach_the_head_is_caught(build):
    class Scramble(torch.nn.Module):
        """Another norm in the model than when it is called alone."""

        def __init__(self, inner):
            super().__init__()
            self.inner, self.calls = inner, 0

        def forward(self, x):
            self.calls += 1
            return self.inner(x) + (self.calls == 1)

    odd = build("llama")
    odd.model.norm = Scramble(odd.model.norm)
    model = hf.HFModel(odd, name="odd")
    with pytest.raises(SiteMissing, match="may not be the last of the stream"):
        model.d("resid_post.2")
    assert model.d("resid_post.1") == 32


def test_not_finite_values_are_named(build):
    raw = build("llama")
    with torch.no_grad():
        raw.model.layers[1].mlp.down_proj.weight[0, 0] = torch.inf
    model = hf.HFModel(raw, name="broken")
    with pytest.raises(SiteMissing, match="NaN or infinity"):
        model.d("mlp_out.1")
    assert model.d("resid_pre.1") == 32


@pytest.mark.parametrize(
    ("family", "kinds"),
    [("opt_post_norm", {"resid_pre", "attn_z", "mlp_in", "resid_post"}), ("bloom", {"resid_pre", "mlp_in", "resid_post"})],
)
def test_odd_families_keep_only_what_is_certain(tiny, tokens, family, kinds):
    model = tiny(family)
    assert {site.kind for site in model.sites()} == kinds
    assert not all(check.ok for check in model.check())
    run = model.run(tokens, read=model.sites(), edit=dict.fromkeys(model.sites(), lambda x, where: x.clone()))
    assert torch.equal(run.logits, model.module(tokens).logits)


def test_logits_scaled_after_the_head_are_told_but_refuse_nothing(build):
    import transformers

    config = transformers.CohereConfig(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, logit_scale=0.5,
        pad_token_id=0, bos_token_id=2, eos_token_id=1,
    )  # fmt: skip
    model = hf.HFModel(transformers.AutoModelForCausalLM.from_config(config))
    (bad,) = [check for check in model.check() if not check.ok]
    assert "scaled afterwards" in bad.detail
    assert model.d("resid_post.1") == 32


def test_soft_capped_logits_are_reproduced(tiny):
    assert {c.name: c.ok for c in tiny("gemma2").check()}["head(norm(last resid_post)) = logits"]
    assert float(tiny("gemma2").run(torch.tensor([[3, 4]])).logits.abs().max()) < 3.0


def test_a_model_without_blocks_is_refused():
    class Bag(torch.nn.Module):
        pass

    with pytest.raises(BadInput, match="no list of transformer blocks in a Bag"):
        structure(Bag())


def test_sums_agree_up_to_rounding_only():
    a, b = torch.randn(2, 50, 8, generator=torch.Generator().manual_seed(0)).unbind(0)
    for dtype in (torch.float32, torch.bfloat16):
        x, y = a.to(dtype), b.to(dtype)
        assert invariants.agree(x + y, [x, y])
        assert not invariants.agree(x + y, [x, y * 1.1])
        assert not invariants.agree((x + y) * torch.nan, [x, y])
