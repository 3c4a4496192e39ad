"""Names of sites: ours, TransformerLens' and Hugging Face's."""

from __future__ import annotations

import pytest

from assay.errors import BadInput, UnknownName
from assay.models.base import KINDS, Site


@pytest.mark.parametrize("kind", KINDS)
def test_own_names_round_trip(kind):
    assert Site.parse(str(Site(kind, 11))) == Site(kind, 11)
    assert Site.parse(Site(kind, 0)) == Site(kind, 0)


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("blocks.3.hook_resid_pre", "resid_pre.3"),
        ("blocks.3.hook_resid_mid", "resid_mid.3"),
        ("blocks.12.hook_resid_post", "resid_post.12"),
        ("blocks.3.hook_attn_out", "attn_out.3"),
        ("blocks.3.hook_mlp_out", "mlp_out.3"),
        ("blocks.3.attn.hook_z", "attn_z.3"),
        ("blocks.3.attn.o.hook_in", "attn_z.3"),
        ("blocks.3.attn.hook_out", "attn_out.3"),
        ("blocks.3.mlp.hook_in", "mlp_in.3"),
        ("blocks.3.mlp.hook_out", "mlp_out.3"),
        ("blocks.3.hook_in", "resid_pre.3"),
        ("blocks.3.hook_out", "resid_post.3"),
        ("blocks.3", "resid_post.3"),
        ("layers.3", "resid_post.3"),
        ("h.3.attn", "attn_out.3"),
        ("model.layers.10", "resid_post.10"),
        ("model.layers.10.mlp", "mlp_out.10"),
        ("model.layers.10.self_attn", "attn_out.10"),
        ("model.language_model.layers.10", "resid_post.10"),
        ("transformer.h.0.mlp", "mlp_out.0"),
        ("gpt_neox.layers.5.attention", "attn_out.5"),
        ("model.decoder.layers.5.fc2", "mlp_out.5"),
    ],
)
def test_other_libraries_names(name, own):
    assert str(Site.parse(name)) == own


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("blocks.3.hook_mlp_in", "resid_mid.3"),  # before the norm there, after it here
        ("blocks.3.ln2.hook_normalized", "mlp_in.3"),
        ("blocks.3.mlp.hook_post", "neurons"),
        ("model.layers.3.hook_resid_pre", "KIND.LAYER"),
        ("model.layers.3.mlp.down_proj", "KIND.LAYER"),
        ("model.embed_tokens", "KIND.LAYER"),
        ("resid_post.-1", "KIND.LAYER"),
        ("resid_post", "KIND.LAYER"),
        ("", "KIND.LAYER"),
    ],
)
def test_other_places_are_refused(name, advice):
    with pytest.raises(BadInput, match=advice):
        Site.parse(name)


def test_unknown_kind_names_the_closest():
    with pytest.raises(UnknownName, match="resid_post"):
        Site.parse("resid_pots.3")
    with pytest.raises(BadInput, match="count from 0"):
        Site("resid_pre", -1)


def test_depth_is_the_order_of_the_forward_pass():
    names = ["resid_pre.1", "resid_post.0", "mlp_in.0", "attn_z.0", "resid_mid.0", "resid_pre.0", "attn_out.0", "mlp_out.0"]
    ordered = sorted((Site.parse(n) for n in names), key=lambda site: site.depth)
    expected = ["resid_pre.0", "attn_z.0", "attn_out.0", "resid_mid.0", "mlp_in.0", "mlp_out.0", "resid_post.0", "resid_pre.1"]
    assert [str(site) for site in ordered] == expected
