"""From a reference to a coder: releases, repositories, mirrors and paths give the same coder, with what is known of it."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save

import assay
from assay import formats, provenance
from assay.errors import BadInput, MissingFile, Unavailable, UnknownName
from assay.releases import references
from tests.formats.dialects import circuit_tracer_clt, codes, ours
from tests.releases.standin import COMMIT

REPO = "google/gemma-scope-2b-pt-res"
REF = "gemma-scope-2b-pt-res/layer_12/width_16k/canonical"
PATH = "layer_12/width_16k/average_l0_82"


@pytest.fixture
def release(hub, tmp_path):
    """A coder on the hub, in the place of a Gemma Scope one, among others."""
    coder = ours("jumprelu")
    formats.write(coder, tmp_path / "made", "gemma_scope")
    data = (tmp_path / "made/params.npz").read_bytes()
    for path in (PATH, "layer_12/width_16k/average_l0_176"):
        hub.put(REPO, f"{path}/params.npz", data)
    return coder


def same(coder, other) -> bool:
    return torch.allclose(codes(coder)[1], codes(other)[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "ref",
    [REF, f"gemma-scope-2b-pt-res/{PATH}", f"hf:{REPO}/{PATH}", f"hf:{REPO}/{PATH}/params.npz", f"hf:{REPO}/{PATH}@{COMMIT}"],
)
def test_a_reference_fetches_one_coder_and_no_more(hub, release, ref, offline):
    assert same(assay.load(ref), release)
    assert hub.downloads() == [f"{PATH}/params.npz"]
    offline()
    assert same(assay.load(ref), release)
    found = references.locate(ref)
    assert (found.origin["repo"], found.origin["revision"]) == (REPO, COMMIT)
    _, about = references.read(found)
    assert about["model"] == {"name": "google/gemma-2-2b"}
    assert about["site"] == "resid_post.12", "its path says so, also in the cache"
    assert about["imported"]["revision"] == COMMIT
    assert found.l0 == (None if ref.startswith("hf:") else 82)


def test_a_mirror_gives_the_same(release, tmp_path, hub, monkeypatch):
    home = tmp_path / "mirror" / REPO / PATH
    home.mkdir(parents=True)
    (home / "params.npz").write_bytes((tmp_path / "made/params.npz").read_bytes())
    assert same(assay.load(REF, mirror=tmp_path / "mirror"), release)
    monkeypatch.setenv("ASSAY_MIRROR", str(tmp_path / "mirror"))
    assert same(assay.load(f"hf:{REPO}/{PATH}"), release)
    assert hub.asked == []


def test_what_the_release_knows_and_the_files_do_not_is_filled_in(hub, tmp_path):
    """A transcoder set's layer, with the settings beside it; a sparsify run's hookpoint, with the run's; a scale."""
    formats.write(ours("transcoder_relu"), tmp_path / "ct", "circuit_tracer", {"model": {"name": "Qwen/Qwen3-4B"}})
    for file in (tmp_path / "ct").iterdir():
        hub.put("mwhanna/qwen3-4b-transcoders", file.name.replace("layer_0", "layer_7"), file.read_bytes())
        hub.put("mwhanna/qwen3-4b-transcoders", file.name, file.read_bytes())
    found = references.locate("mwhanna-qwen3-4b-transcoders/layer_7")
    assert found.path.name == "layer_7.safetensors"
    assert (found.path.parent / "config.yaml").exists()
    assert "layer_0.safetensors" not in hub.downloads()
    assert same(references.read(found)[0], ours("transcoder_relu"))
    formats.write(ours("topk"), tmp_path / "sp", "sparsify")
    for file in (tmp_path / "sp").iterdir():
        hub.put("EleutherAI/sae-pythia-70m-32k", f"layers.3/{file.name}", file.read_bytes())
    _, about = references.read(references.locate("sae-pythia-70m-32k/layers.3"))
    assert (about["model"], about["site"]) == ({"name": "EleutherAI/pythia-70m"}, "resid_post.3")
    assert about["imported"]["notes"] == [], "that the model is not known is no longer so"


@pytest.mark.parametrize("ref", ["mntss-clt-gemma-2-2b-426k/layer_1", "hf:mntss/clt-gemma-2-2b-426k/W_enc_1.safetensors"])
def test_a_layer_of_a_cross_layer_transcoder_is_two_files(hub, ref):
    for layer in (0, 1, 2):
        wide = {f"W_enc_{layer}": torch.randn(16, 6), f"b_enc_{layer}": torch.randn(16), f"b_dec_{layer}": torch.randn(6)}
        hub.put("mntss/clt-gemma-2-2b-426k", f"W_enc_{layer}.safetensors", save(wide))
        hub.put(
            "mntss/clt-gemma-2-2b-426k", f"W_dec_{layer}.safetensors", save({f"W_dec_{layer}": torch.randn(16, 3 - layer, 6)})
        )
    hub.put("mntss/clt-gemma-2-2b-426k", "config.yaml", b"model_name: google/gemma-2-2b\nfeature_input_hook: hook_resid_mid\n")
    coder, about = references.read(references.locate(ref))
    assert (coder.d_in, coder.d_sae, coder.d_out) == (6, 16, 12)
    assert about["model"] == {"name": "google/gemma-2-2b"}
    assert set(hub.downloads()) == {"W_enc_1.safetensors", "W_dec_1.safetensors", "config.yaml"}


def test_a_scale_that_only_the_release_knows(hub, tmp_path):
    formats.write(ours("relu"), tmp_path / "sl", "saelens")
    cfg = json.loads((tmp_path / "sl/cfg.json").read_text())
    repo, path = "tommmcgrath/gpt2-small-mlp-out-saes", "sae_group_gpt2_blocks.11.hook_mlp_out_24576:v2"
    hub.put(repo, f"{path}/cfg.json", json.dumps(cfg | {"normalize_activations": "expected_average_only_in"}).encode())
    hub.put(repo, f"{path}/sae_weights.safetensors", (tmp_path / "sl/sae_weights.safetensors").read_bytes())
    coder, about = references.read(references.locate("gpt2-small-mlp-tm/blocks.11.hook_mlp_out"))
    assert about["imported"]["scale"] == pytest.approx(0.2851548652550073)
    assert any("TransformerLens" in note for note in about["imported"]["notes"])
    x = torch.randn(4, coder.d_in)
    scaled = ours("relu")(x * 0.2851548652550073) / 0.2851548652550073
    assert torch.allclose(coder(x), scaled, atol=1e-4)
    assert same(assay.load("gpt2-small-mlp-tm/blocks.11.hook_mlp_out"), coder)


def test_a_directory_of_several_coders_is_not_fetched_whole(hub, release):
    with pytest.raises(BadInput, match=r"holds 2 files of weights.*average_l0_176/params.npz"):
        references.locate(f"hf:{REPO}")
    assert hub.downloads() == []
    hub.put("owner/extras", "sae/sae_weights.safetensors", save({"x": torch.ones(1)}))
    for name in ("sparsity.safetensors", "optimizer_0.pt", "trainer_state.pt", "cfg.json", "notes.txt"):
        hub.put("owner/extras", f"sae/{name}", b"{}")
    found = references.locate("hf:owner/extras/sae")
    assert set(hub.downloads()) == {"sae/sae_weights.safetensors", "sae/cfg.json"}
    assert found.path.name == "sae"


@pytest.mark.parametrize(
    ("ref", "error", "words"),
    [
        ("hf:owner", BadInput, "names no repository"), ("hf:", BadInput, "names no repository"),
        ("hf:owner/name/../../etc", BadInput, "no path inside"), ("hf:owner/../x", BadInput, "names no repository"),
        ("hf:owner/none", UnknownName, "no repository"), ("hf:owner/empty", MissingFile, "holds no coder"),
        ("no/such/place", MissingFile, "names no release"), ("gemma-scope-2b-pt-res/none", UnknownName, "Closest"),
    ],
)  # fmt: skip
def test_references_that_lead_nowhere(hub, ref, error, words):
    hub.put("owner/empty", "README.md", b"nothing")
    with pytest.raises(error, match=words):
        references.locate(ref)


def test_one_line_opens_files_names_and_references(tmp_path, monkeypatch):
    """A path first, where it is a coder; then a store's name, where a store is there; and each error is about what was meant."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ASSAY_STORE", raising=False)
    for name in ("unknown.pt", "./unknown.pt"):
        (tmp_path / "unknown.pt").write_bytes(b"x")
        with pytest.raises(BadInput, match=r"^unknown\.pt is a coder of no known format"):
            assay.load(name)
    with pytest.raises(MissingFile, match=r"There is no 'kept': it is no path, and assay-store is no store"):
        assay.load("kept")
    store = assay.Store("assay-store")
    with store.draft("coders", "kept") as draft:
        assay.save(ours("topk"), draft.path)
        draft.finish(inputs={}, about={}, made=provenance.made())
    assert same(assay.load("kept"), ours("topk"))
    (tmp_path / "kept").mkdir()
    assert same(assay.load("kept"), ours("topk")), "a directory that is no coder stands in nobody's way"
    formats.write(ours("relu"), tmp_path / "kept", "saelens")
    assert same(assay.load("kept"), ours("relu"))
    with pytest.raises(BadInput, match="no known format"):
        assay.load("unknown.pt")
    with pytest.raises(UnknownName, match="Did you mean 'kept'"):
        assay.load("kep")
    with pytest.raises(BadInput, match="which leaves nothing open; got layer=1"):
        assay.load("assay-store/coders/kept", layer=1)
    several = circuit_tracer_clt(tmp_path / "clt", (0, 1))
    assert same(assay.load("clt", layer=1), formats.load(several / "W_enc_1.safetensors"))


@pytest.mark.parametrize(("path", "name"), [
    ("a b/theirs", "theirs"), ("a b", "a-b"), ("a b/theirs/cfg.json", "theirs-cfg"), (".", "work"), ("a b/theirs/..", "a-b"),
])  # fmt: skip
def test_what_results_call_a_coder_of_files(tmp_path, monkeypatch, path, name):
    (tmp_path / "work/a b/theirs").mkdir(parents=True)
    (tmp_path / "work/a b/theirs/cfg.json").touch()
    monkeypatch.chdir(tmp_path / "work")
    assert references.locate(path).name == name


def test_what_results_call_a_coder_of_a_release(hub, release):
    assert references.locate(REF).name == f"gemma-scope-2b-pt-res-{PATH.replace('/', '-')}"
    assert references.locate(f"hf:{REPO}/{PATH}").name == f"google-gemma-scope-2b-pt-res-{PATH.replace('/', '-')}"


def test_names_and_paths_are_no_references(tmp_path):
    assert references.named("hf:owner/name")
    assert references.named(REF)
    for text in ("topk-k32", "gemma-scope-2b-pt-res", "./gemma-scope-2b-pt-res/x", "some/path", str(tmp_path)):
        assert not references.named(text)


def test_openai_is_not_on_the_hub_but_in_mirrors(tmp_path, cache):
    ref = "openai-gpt2-small-resid_post_mlp/v5_32k/8"
    with pytest.raises(
        Unavailable,
        match=r"fetch https://openaipublic\.blob\S+/resid_post_mlp_v5_32k/autoencoders/8\.pt\. Then put",
    ):
        references.locate(ref)
    home = tmp_path / "m/openai/sparse-autoencoder/gpt2-small/resid_post_mlp_v5_32k/autoencoders"
    formats.write(ours("normalised"), home, "openai")
    next(home.iterdir()).rename(home / "8.pt")
    coder, about = references.read(references.locate(ref, tmp_path / "m"))
    assert about["site"] == "resid_post.8"
    assert same(coder, ours("normalised"))
