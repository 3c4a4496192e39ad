"""HFModel over many families: every site read, stopped at, edited, and differentiated through."""

from __future__ import annotations

import threading

import pytest
import torch

from assay.errors import BadInput, SiteMissing, WidthMismatch
from assay.models.base import KINDS, Model, Site
from assay.models.hf import HFModel

PARALLEL = {"gpt_neox", "phi"}
WIDE_Z = {"qwen3": 48, "gemma2": 48, "gemma3": 48}  # heads · head_dim is not the width of the model
POST_NORMS = {"gemma2", "gemma3", "olmo2"}


def same(x, where):
    return x.clone()


def hooks(model: HFModel) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.module.modules())


def test_is_a_model(model):
    assert isinstance(model, Model)
    assert model.n_layers == 3
    assert model.dtype == torch.float32
    assert str(model.device) == "cpu"
    assert not any(p.requires_grad for p in model.module.parameters())


def test_every_site_is_there_with_its_width(model, tokens):
    kinds = [k for k in KINDS if not (k == "resid_mid" and model.name in PARALLEL)]
    assert model.sites() == [Site(kind, layer) for layer in range(3) for kind in kinds]
    run = model.run(tokens, read=model.sites())
    for site in model.sites():
        width = WIDE_Z.get(model.name, 32) if site.kind == "attn_z" else 32
        assert run[site].shape == (3, 9, width)
        assert model.d(site) == model.d(str(site)) == width


def test_reads_are_what_the_library_itself_gives(model, tokens):
    run = model.run(tokens, read=[Site("resid_pre", i) for i in range(3)])
    own = model.module(tokens, output_hidden_states=True)
    assert torch.equal(run.logits, own.logits)
    for i in range(3):
        assert torch.equal(run[f"resid_pre.{i}"], own.hidden_states[i])


def test_all_invariants_hold(model):
    checks = model.check()
    assert len(checks) >= 6
    assert all(check.ok for check in checks), checks


def test_contributions_are_what_is_added(model, tokens):
    run = model.run(tokens, read=model.sites())
    whole = run["resid_pre.1"] + run["attn_out.1"] + run["mlp_out.1"]
    assert torch.allclose(whole, run["resid_post.1"], atol=1e-5)
    block = model.structure.blocks[1]
    if model.name not in {"opt"}:
        raw = block.mlp(run["mlp_in.1"])
        assert torch.allclose(raw, run["mlp_out.1"], atol=1e-6) == (model.name not in POST_NORMS)


def test_stopping_reads_the_same_and_runs_nothing_after(model, tokens):
    full = model.run(tokens, read=model.sites())
    ran = []
    handles = [m.register_forward_pre_hook(lambda *_, name=n: ran.append(name)) for n, m in model.module.named_modules()]
    try:
        for site in model.sites():
            ran.clear()
            stopped = model.run(tokens, read=[site], stop_after=site)
            assert stopped.logits is None
            assert torch.equal(stopped[site], full[site])
            assert not [name for name in ran if f".{site.layer + 1}" in name or "head" in name or "embed_out" in name]
    finally:
        for handle in handles:
            handle.remove()


def test_a_capture_copies_nothing_and_keeps_no_cache(tiny, tokens):
    model, given = tiny("llama"), []
    handle = model.module.register_forward_pre_hook(lambda module, args, kwargs: given.append(kwargs), with_kwargs=True)
    try:
        run = model.run(tokens, read=["resid_post.0", "resid_pre.1"])
    finally:
        handle.remove()
    assert run["resid_post.0"].data_ptr() == run["resid_pre.1"].data_ptr()
    assert given[0]["use_cache"] is False


def test_reads_come_in_the_order_asked_for(tiny, tokens):
    wanted = [Site("resid_post", 2), Site("resid_pre", 0), Site("mlp_in", 1)]
    assert list(tiny("llama").run(tokens, read=wanted).read) == wanted
    assert tiny("llama").run(tokens).read == {}


def test_identity_edit_changes_no_bit_at_any_site(model, tokens):
    plain = model.run(tokens).logits
    for site in model.sites():
        for edit in (same, lambda x, where: x):
            assert torch.equal(model.run(tokens, edit={site: edit}).logits, plain), site
    assert torch.equal(model.run(tokens, edit=dict.fromkeys(model.sites(), same)).logits, plain)


def test_an_edit_of_every_site_goes_on(model, tokens):
    plain = model.run(tokens, read=model.sites())
    for site in model.sites():
        edited = model.run(
            tokens, read=model.sites(), edit={site: lambda x, where: x * x - x}
        )  # a LayerNorm would hide a + b · x
        assert not torch.allclose(edited.logits, plain.logits, atol=1e-3), site
        assert torch.equal(edited[site], plain[site])  # read before the edit
        for other in model.sites():
            if other.depth < site.depth:
                assert torch.equal(edited[other], plain[other])


@pytest.mark.parametrize("kind", ["resid_pre", "resid_mid", "resid_post"])
def test_replacing_the_stream_by_anothers_gives_the_others_logits(model, tokens, kind):
    if kind == "resid_mid" and model.name in PARALLEL:
        pytest.skip("no such site")
    site, other = Site(kind, 1), tokens.flip(0).flip(1)
    there = model.run(other, read=[site])
    assert torch.equal(model.run(tokens, edit={site: lambda x, where: there[site]}).logits, there.logits)


def test_an_edited_stream_is_the_edit_plus_what_follows(model, tokens):
    """Replacing attn_out and mlp_out replaces what is added, and nothing else."""
    sites = [Site(kind, 1) for kind in ("resid_pre", "attn_out", "mlp_out", "resid_post")]
    edits = {sites[1]: lambda x, where: torch.zeros_like(x), sites[2]: lambda x, where: torch.ones_like(x)}
    run = model.run(tokens, read=sites, edit=edits)
    assert torch.allclose(run["resid_post.1"], run["resid_pre.1"] + 1, atol=1e-6)


def test_reads_do_not_change_under_a_later_edit_in_place(tiny, tokens):
    def rude(x, where):
        return x.mul_(0)

    plain = tiny("llama").run(tokens, read=["resid_mid.1", "resid_post.0"])
    edited = tiny("llama").run(tokens, read=["resid_mid.1", "resid_post.0"], edit={Site("resid_mid", 1): rude})
    assert torch.equal(edited["resid_mid.1"], plain["resid_mid.1"])
    assert torch.equal(edited["resid_post.0"], plain["resid_post.0"])


def test_right_padding_changes_nothing_before_it(model, tokens):
    padded = torch.cat([tokens, torch.zeros(3, 4, dtype=tokens.dtype)], 1)
    short, long = model.run(tokens, read=["resid_post.2"]), model.run(padded, read=["resid_post.2"])
    assert torch.allclose(long["resid_post.2"][:, :9], short["resid_post.2"], atol=1e-5)


def test_edits_are_told_where_they_are(tiny, tokens):
    seen, mask = [], torch.ones(3, 9, dtype=torch.bool)

    def look(x, where):
        seen.append(where)
        return x

    tiny("gpt2").run(tokens, edit={Site("mlp_in", 2): look}, mask=mask)
    assert (seen[0].site, seen[0].start) == (Site("mlp_in", 2), 0)
    assert torch.equal(seen[0].mask, mask)


def test_edits_in_another_dtype_are_cast_and_other_shapes_refused(tiny, tokens):
    site, model = Site("resid_post", 1), tiny("llama")
    assert torch.equal(model.run(tokens, edit={site: lambda x, where: x.double()}).logits, model.run(tokens).logits)
    with pytest.raises(WidthMismatch, match=r"resid_post\.1 was given \(3, 9, 32\) and returned \(3, 9, 16\)"):
        model.run(tokens, edit={site: lambda x, where: x[..., :16]})


def test_a_pass_can_start_at_a_site(model, tokens):
    """Same bits as a whole pass, under an edit too, and none of the blocks before is run."""
    sites = [s for s in model.sites() if s.kind == "resid_post"]
    full = model.run(tokens, read=sites)
    double = {sites[0]: lambda x, where: 2 * x}
    edited, ran = model.run(tokens, edit=double).logits, []
    norms = [m for n, m in model.module.named_modules() if "norm" in n.lower() or "ln_1" in n]
    handles = [m.register_forward_pre_hook(lambda *_: ran.append(1)) for m in norms]
    try:
        for site in sites:
            before = len(ran)
            assert torch.equal(model.run(tokens, start=(site, full[site])).logits, full.logits)
            assert len(ran) - before < len(norms)
        assert torch.equal(model.run(tokens, edit=double, start=(sites[0], full[sites[0]])).logits, edited)
        assert torch.equal(model.run(tokens).logits, full.logits)
    finally:
        for handle in handles:
            handle.remove()


def test_a_start_that_makes_no_sense_is_refused(model, tokens):
    x = model.run(tokens, read=["resid_post.1"])["resid_post.1"]
    with pytest.raises(BadInput, match="can start at a resid_post site"):
        model.run(tokens, read=["resid_post.0"], start=(Site("resid_post", 1), x))
    with pytest.raises(BadInput, match="can start at a resid_post site"):
        model.run(tokens, start=(Site("mlp_out", 1), x))
    with pytest.raises(WidthMismatch, match="activations to start from have shape"):
        model.run(tokens, start=(Site("resid_post", 1), x[:, :-1]))


def test_hooks_go_away_after_runs_stops_and_errors(model, tokens):
    before = hooks(model)

    def fails(x, where):
        raise ValueError("mine")

    model.run(tokens, read=model.sites())
    model.run(tokens, read=["mlp_out.0"], stop_after="mlp_out.0")
    for call in (model.run, model.generate):
        with pytest.raises(ValueError, match="mine"):
            call(tokens, edit={Site("mlp_out", 1): fails})
    assert hooks(model) == before


def test_gradients_through_an_edit_agree_with_finite_differences(model, tokens, build):
    smooth = {"activation_function": "gelu"} if model.name == "opt" else {}  # ReLU has kinks
    exact = HFModel(build(model.name, torch.float64, **smooth))
    for site in exact.sites()[len(exact.sites()) // 3 :][: len(KINDS)]:  # all sites of the middle block
        direction = torch.randn(exact.d(site), dtype=torch.float64, generator=torch.Generator().manual_seed(2))

        def logit(by, grad=False, site=site, direction=direction):
            run = exact.run(tokens, edit={site: lambda x, where: x + by * direction}, grad=grad)
            return run.logits[:, -1, 5].sum()

        by = torch.zeros((), dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(logit(by, grad=True), by)
        step = 1e-3  # RMSNorm computes in float32 whatever the model is in
        assert float(slope) == pytest.approx(float(logit(step) - logit(-step)) / (2 * step), rel=5e-3, abs=1e-3), site


def test_gradients_reach_reads_and_match_an_edit(model, tokens):
    """d logit / d read is the slope along any edit there, with and without edits elsewhere."""
    last = model.sites()[-1]
    for edit in ({}, {last: same}, dict.fromkeys(model.sites(), same)):
        run = model.run(tokens, read=model.sites(), edit=edit, grad=True)
        assert torch.allclose(run.logits, model.run(tokens).logits)
        grads = torch.autograd.grad(run.logits[:, -1, 5].sum(), list(run.read.values()))
        assert all(bool((g != 0).any()) for g in grads)
    assert not any(p.grad is not None for p in model.module.parameters())


def test_without_grad_nothing_is_recorded(tiny, tokens):
    run = tiny("llama").run(tokens, read=["resid_post.1"])
    assert not run["resid_post.1"].requires_grad
    weight = torch.ones(32, requires_grad=True)
    (run["resid_post.1"] * weight).sum().backward()  # usable for training: no inference tensors
    assert weight.grad is not None


def test_refusals_say_why(tiny, tokens):
    with pytest.raises(SiteMissing, match=r"parallel.*It has: resid_pre\.1, attn_z\.1"):
        tiny("gpt_neox").run(tokens, read=["resid_mid.1"])
    with pytest.raises(SiteMissing, match="parallel"):
        tiny("phi").d("resid_mid.0")
    with pytest.raises(SiteMissing, match=r"blocks 0 to 2, so there is no resid_post\.3"):
        tiny("llama").d("resid_post.3")
    with pytest.raises(SiteMissing, match="blocks 0 to 2"):
        tiny("llama").run(tokens, edit={Site("resid_post", 3): same})
    with pytest.raises(BadInput, match="stop after resid_pre"):
        tiny("llama").run(tokens, read=["resid_post.1"], stop_after="resid_pre.1")


def test_module_paths_are_refused_where_a_post_norm_follows(tiny):
    assert tiny("llama").site("model.layers.1.mlp") == Site("mlp_out", 1)
    assert tiny("llama").site("blocks.1.mlp.hook_out") == Site("mlp_out", 1)
    assert tiny("gemma2").site("blocks.1.hook_mlp_out") == Site("mlp_out", 1)  # TransformerLens means the contribution too
    assert tiny("gemma2").site("mlp_out.1") == Site("mlp_out", 1)
    for name in ("model.layers.1.mlp", "model.layers.1.self_attn", "blocks.1.mlp.hook_out"):
        with pytest.raises(SiteMissing, match="passes a norm before it is added"):
            tiny("gemma2").site(name)


def test_bad_tokens_are_refused(tiny):
    model = tiny("gpt2")
    with pytest.raises(BadInput, match="97, gpt2 knows 0 to 96"):
        model.run(torch.tensor([[3, 97]]))
    with pytest.raises(BadInput, match="64 positions, got rows of 65"):
        model.run(torch.zeros(1, 65, dtype=torch.long))
    for shape in ((5,), (0, 4), (4, 0)):
        with pytest.raises(BadInput, match="expected"):
            model.run(torch.zeros(shape, dtype=torch.long))
    assert model.run(torch.zeros(1, 64, dtype=torch.int32)).logits.shape == (1, 64, 97)


def test_an_edit_cannot_run_its_own_model(tiny, tokens):
    model = tiny("llama")
    with pytest.raises(BadInput, match="the very model it edits"):
        model.run(
            tokens, edit={Site("resid_post", 0): lambda x, where: model.run(tokens, read=["resid_post.0"])["resid_post.0"]}
        )
    assert model.run(tokens).logits is not None


def test_threads_wait_for_each_other(tiny, tokens):
    model, site = tiny("llama"), Site("resid_post", 0)
    plain, wrong = model.run(tokens).logits, []

    def work(edits):
        for _ in range(10):
            changed = not torch.equal(model.run(tokens, edit=edits).logits, plain)
            if changed != bool(edits):
                wrong.append(edits)

    threads = [threading.Thread(target=work, args=(e,)) for e in ({}, {site: lambda x, where: x + 1})]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_bfloat16(build, tokens):
    model = HFModel(build("gemma3", torch.bfloat16))
    assert len(model.sites()) == 21
    run = model.run(tokens, read=["resid_post.1"], edit=dict.fromkeys(model.sites(), same))
    assert run["resid_post.1"].dtype == torch.bfloat16
    assert torch.equal(run.logits, model.run(tokens).logits)


def test_fingerprint_is_of_configuration_weights_and_dtype(build):
    one = HFModel(build("llama"), name="a").fingerprint
    assert len(one) == 16
    assert int(one, 16) >= 0
    assert HFModel(build("llama"), name="b").fingerprint == one
    altered = build("llama")
    with torch.no_grad():
        altered.model.layers[1].mlp.up_proj.weight[0, 0] += 1e-3
    others = [altered, build("llama", torch.bfloat16), build("llama", rms_norm_eps=1e-3), build("mistral")]
    assert len({one, *(HFModel(m).fingerprint for m in others)}) == 5
