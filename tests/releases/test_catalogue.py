"""The catalogue: rules unroll into the coders that releases have; references find them."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from assay.errors import BadInput, UnknownName
from assay.models.base import Site
from assay.releases import catalogue
from assay.releases.hub import REPO, safe

ALL = list(catalogue.entries())


def by(release: str) -> dict[str, catalogue.Entry]:
    return {e.id: e for e in catalogue.entries(release)}


def test_every_entry_can_be_asked_for():
    """13,319 coders: each has a repository, safe paths, a model, a known format, and a name of its own."""
    assert len(ALL) > 13_000
    assert len({e.ref for e in ALL}) == len(ALL)
    for e in ALL:
        assert REPO.fullmatch(e.repo), e
        assert all(safe(name) for name in (*e.needed, *e.beside)), e
        assert e.needed, e
        assert e.model.count("/") == 1, e
        assert e.l0 is None or e.l0 > 0, e
        assert e.d_sae is None or 512 <= e.d_sae <= 1 << 20, e
        assert not re.search(r"[{}]", e.ref + e.path + e.repo), e
    sites = {e.site for e in ALL if e.site and "." in e.site and not e.site.startswith("ln2") and "*" not in e.site}
    assert all(str(Site.parse(site)) == site for site in sites)


def test_counts_are_those_of_the_releases():
    """Gemma Scope's and SAEBench's as they are published; Gemma Scope 2's as SAELens 6.54.12 lists them, but two of 270m-pt."""

    def count(text: str) -> int:
        return sum(re.match(text, e.release) is not None for e in ALL)

    assert count("saebench_") == 252
    assert count("gemma-scope-2b-pt-res$") == 316
    assert count(r"gemma-scope-(2b|9b|27b)-(pt|it)-(res|att|mlp)") == 2404
    assert count("gemma-scope-2-") == 8784 - 2
    assert count("qwen-scope") == 544
    assert count("mwhanna") == 208
    assert count("llama_scope") == 192 + 96


def test_canonical_is_the_one_closest_to_an_l0_of_100():
    e = catalogue.find("gemma-scope-2b-pt-res/layer_12/width_16k/canonical")
    assert (e.id, e.l0, e.d_sae, e.site) == ("layer_12/width_16k/average_l0_82", 82, 16384, "resid_post.12")
    assert catalogue.find("gemma-scope-2b-pt-res-canonical/layer_12/width_16k/canonical") == e, "SAELens' name of the release"
    assert e.needed == ("layer_12/width_16k/average_l0_82/params.npz",)
    tie = [catalogue.find(f"gemma-scope-9b-pt-att/layer_{layer}/canonical") for layer in ("23/width_131k", "27/width_16k")]
    assert [t.l0 for t in tie] == [66, 136], "64 and 136 are as close; SAELens takes 136 there, and 66 rather than 134"
    names = [a for e in catalogue.entries("gemma-scope-2b-pt-res") for a in e.also]
    assert len(names) == len(set(names)) == 26 * 2 + 4 + 3


@pytest.mark.parametrize(
    ("ref", "l0"),
    [
        ("gemma-scope-2-4b-pt-res-all/layer_0_width_16k_l0_big", 60), ("gemma-scope-2-4b-pt-res-all/layer_11_width_16k_l0_big", 118),
        ("gemma-scope-2-4b-pt-res-all/layer_12_width_262k_l0_small", 20), ("gemma-scope-2-270m-it-att/layer_5_width_16k_l0_medium", 55),
        ("gemma-scope-2-27b-it-res/layer_16_width_1m_l0_big", 129), ("gemma-scope-2-4b-pt-res/layer_9_width_262k_l0_medium_seed_1", 53),
        ("gemma-scope-2-12b-pt-transcoders/transcoder/layer_12_width_65k_l0_medium_affine", 52),
    ],
)  # fmt: skip
def test_l0_rises_over_the_first_third_of_the_layers(ref, l0):
    """Figures of SAELens' catalogue."""
    assert catalogue.find(ref).l0 == l0


def test_paths_of_releases_that_are_laid_out_otherwise():
    assert catalogue.find("gemma-scope-2-1b-pt-transcoders-all/layer_3_width_16k_l0_small_affine").path.startswith(
        "transcoder_all/"
    )
    assert by("saebench_gemma-2-2b_width-2pow14_date-0107").keys() >= {"batch_top_k/trainer_11", "standard_new/trainer_0"}
    assert "batch_top_k/trainer_0" not in by("saebench_gemma-2-2b_width-2pow14_date-0107"), "these are trainers 6 to 11"
    e = catalogue.find("saebench_gemma-2-2b_width-2pow12_date-0108/blocks.12.hook_resid_post__trainer_3")
    assert e.path == "MatryoshkaBatchTopK_gemma-2-2b__0108/resid_post_layer_12/trainer_3"
    assert e.beside == (f"{e.path}/eval_results.json",)
    assert catalogue.find("mwhanna-qwen3-4b-transcoders/layer_7").needed == ("layer_7.safetensors",)
    assert catalogue.find("mwhanna-qwen3-4b-transcoders/layer_7").beside == ("config.yaml",)
    assert catalogue.find("llama_scope_lxr_8x/l15r_8x").needed[1] == "Llama3_1-8B-Base-L15R-8x/checkpoints/final.safetensors"
    assert catalogue.find("gpt2-small-mlp-tm/blocks.8.hook_mlp_out").scale == pytest.approx(0.9123762783479742)
    assert "layer_4_width_16k_l0_big" not in by("gemma-scope-2-27b-pt-transcoders-all"), "five are missing there"
    assert "layer_4_width_16k_l0_big" in by("gemma-scope-2-12b-pt-transcoders-all")


def test_a_release_whose_layers_only_its_repository_knows():
    e = catalogue.find("sae-llama-3-8b-32x/layers.10")
    assert (e.path, e.layer, e.site, e.beside) == ("layers.10", 10, "resid_post.10", ("config.json",))
    with pytest.raises(UnknownName):
        catalogue.find("sae-llama-3-8b-32x/layers.../x")


@pytest.mark.parametrize(
    "width", [("16k", 16384), ("65k", 65536), ("131k", 131072), ("1m", 1 << 20), ("80k", 81920), ("24576", 24576), ("4K", 4096)]
)
def test_widths_are_read_as_releases_write_them(width):
    assert catalogue.latents(width[0]) == width[1]


def test_search_narrows():
    found = catalogue.search(model="gemma-2-2b", layer=12, width="16k", l0=(50, 120))
    assert [e.release for e in found] == [f"gemma-scope-2b-pt-{p}" for p in ("res", "mlp", "att")]
    assert all(e.site == "mlp_out.3" or e.predicts == "mlp_out.3" for e in catalogue.search("270m", site="mlp_out", layer=3))
    assert {e.release for e in catalogue.search("EleutherAI")} >= {"sae-pythia-70m-32k", "skip-transcoder-Llama-3.2-1B-131k"}
    assert catalogue.search(model="google/gemma-2-2b") == catalogue.search(model="gemma-2-2b") != []
    assert catalogue.search(model="gemma-2-2b", layer=99) == []


def test_models_are_those_of_all_coders():
    assert set(catalogue.models()) == {e.model for e in catalogue.entries()}
    assert not [model for model in catalogue.models() if "{" in model]


@pytest.mark.parametrize(
    ("model", "meant"),
    [("gemma2-2b", "gemma-2-2b"), ("google/gemma-2b-2", "google/gemma-2-2b"), ("QWEN3-1.7B-BAS", "Qwen3-1.7B-Base")],
)
def test_a_model_that_has_no_coders_is_told_the_closest(model, meant):
    with pytest.raises(UnknownName, match=f"Did you mean '{meant}'"):
        catalogue.search(model=model)


@pytest.mark.parametrize(
    ("ref", "words"),
    [
        ("gemma-scope-2b-pt-rez/x", "Did you mean 'gemma-scope-2b-pt-res'"),
        ("gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_83", "Closest: layer_12/width_16k/average_l0_82"),
        ("gemma-scope-2b-pt-res/../../../etc", "gemma-scope-2b-pt-res has no coder"),
    ],
)
def test_unknown_names_are_told_the_closest(ref, words):
    with pytest.raises(UnknownName, match=re.escape(words)):
        catalogue.find(ref)


def test_widths_that_are_none_are_refused():
    with pytest.raises(BadInput, match="no width"):
        catalogue.latents("wide")


def test_it_needs_no_torch():
    code = "import sys; from assay.releases import catalogue; list(catalogue.entries()); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
