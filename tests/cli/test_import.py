"""assay import and assay export: coders of other libraries come in, are evaluated, and go out."""

from __future__ import annotations

import json

import pytest
import torch

import assay
from assay import formats
from assay.cli.origin import read_coders
from assay.errors import BadInput
from assay.models.embedded import TINY
from assay.splice import coder_hash
from assay.store import Store
from tests.formats.dialects import circuit_tracer_clt, codes, gemma_scope, openai, ours

ABOUT = {
    "model": {"name": "EleutherAI/pythia-70m-deduped"},
    "site": "resid_post.3",
    "packing": {"context": 64, "bos": "always"},
}


@pytest.fixture
def theirs(home):
    """A SAELens directory."""
    formats.write(ours("jumprelu"), home / "theirs", "saelens", ABOUT)
    return home / "theirs"


def test_what_is_imported_lies_in_the_store(run, home, theirs):
    ran = run("import theirs --name one")
    assert ran.code == 0, ran.err
    assert ran.out.split("\n")[0].split() == ["coder", "format", "architecture", "d_in", "d_sae", "model", "site"]
    assert torch.equal(codes(assay.load("one"))[0], codes(formats.load(theirs))[0])
    manifest = Store("assay-store").manifest("coders", "one")
    about = manifest["about"]
    assert (about["kind"], about["architecture"]) == ("imported", "jumprelu")
    assert (about["model"], about["site"], about["packing"]) == (ABOUT["model"], ABOUT["site"], ABOUT["packing"])
    origin = about["imported"]
    assert (origin["format"], origin["version"], origin["dtype"]) == ("saelens", "6.0.0", "float32")
    assert manifest["inputs"]["files"] == origin["files"]
    assert set(origin["files"]) == {"cfg.json", "sae_weights.safetensors"}
    assert all(len(digest) == 64 for digest in origin["files"].values())


def test_importing_again_is_no_loss(run, home, theirs):
    assert run("import theirs --name one").code == 0
    before = (home / "assay-store/coders/one/manifest.json").read_text()
    assert run("import theirs --name one").code == 0
    assert (home / "assay-store/coders/one/manifest.json").read_text() == before
    formats.write(ours("topk"), home / "other", "saelens", ABOUT)
    ran = run("import other --name one")
    assert ran.code == 1
    assert "--again always" in ran.err
    assert run("import other --name one --again always").code == 0
    assert Store("assay-store").manifest("coders", "one")["about"]["architecture"] == "topk"


@pytest.mark.parametrize(("first", "then", "said"), [
    ("", "--scale 3", "scale not said, now 3"), ("--scale 3", "--scale 0.5", "scale 3, now 0.5"), ("--k 3", "", "k 3, now not said"),
    ("", "--layer 1", "layer not said, now 1"), ("", "--model org/other", "model EleutherAI/pythia-70m-deduped, now org/other"),
    ("", "--format twin", "format saelens, now twin"),
])  # fmt: skip
def test_importing_again_otherwise_is_no_silence(run, home, theirs, monkeypatch, first, then, said):
    """The same files read in another way are another coder."""
    monkeypatch.setattr(formats, "dialect", lambda name, real=formats.dialect: real("saelens" if name == "twin" else name))
    assert run(f"import theirs --name one {first}").code == 0
    assert run(f"import theirs --name one {first}").code == 0, "said alike, it is the same"
    before = (home / "assay-store/coders/one/manifest.json").read_text()
    ran = run(f"import theirs --name one {then}")
    assert ran.code == 1
    assert f"from these files already, imported otherwise: {said}." in ran.err
    assert "--again always" in ran.err
    assert (home / "assay-store/coders/one/manifest.json").read_text() == before
    assert run(f"import theirs --name one {then} --again always").code == 0
    x = torch.randn(4, 6)
    factor = float(then.split()[1]) if "--scale" in then else 1.0
    assert torch.allclose(assay.load("one")(x), ours("jumprelu")(x * factor) / factor, atol=1e-5)


def test_what_files_do_not_say_can_be_said(run, home):
    path = gemma_scope(home).rename(home / "lost")
    ran = run(f"import {path} --name gs --model org/model --site blocks.4.hook_resid_post")
    assert ran.code == 0, ran.err
    assert "its path names no release" in ran.err
    about = Store("assay-store").manifest("coders", "gs")["about"]
    assert (about["model"], about["site"]) == ({"name": "org/model"}, "resid_post.4")
    assert run(f"import {openai(home)} --name gpt2").code == 0
    assert Store("assay-store").manifest("coders", "gpt2")["about"]["site"] == "resid_post.8"


def test_out_and_in_again(run, home, theirs):
    run("import theirs --name one")
    ran = run("export one --format dictionary_learning --out there --json")
    assert ran.code == 0, ran.err
    assert ran.json["files"] == "ae.pt, config.json"
    config = json.loads((home / "there/config.json").read_text())
    assert config["trainer"]["lm_name"] == "EleutherAI/pythia-70m-deduped"
    assert config["trainer"]["submodule_name"] == "resid_post_layer_3"
    ran = run("export ./there --format saelens --out back --dtype bfloat16")
    assert ran.code == 0, ran.err
    assert formats.read(home / "back")[1]["imported"]["dtype"] == "bfloat16"
    ran = run("export one --format saelens --out back")
    assert ran.code == 1
    assert "not empty" in ran.err
    ran = run("export one --format openai --out no")
    assert ran.code == 1
    assert "OpenAI's files hold" in ran.err
    assert not (home / "no").exists()
    assert "Did you mean 'saelens'" in run("export one --format sealens --out x").err


def test_losses_are_said(run, home):
    formats.write(ours("batch_topk"), home / "theirs", "dictionary_learning", ABOUT)
    run("import theirs --name b")
    assert "k is not kept" in run("export b --format saelens --out s").err


def test_own_coders_need_no_import(run, home):
    assay.save(ours("topk"), home / "mine")
    ran = run("import mine --name m")
    assert ran.code == 1
    assert "Assay's own format" in ran.err


def test_an_imported_coder_is_evaluated_like_any_other(run, home):
    """Model, site and rows as the file says; the text has to be named. The files themselves are the same coder."""
    (home / "text.jsonl").write_text("\n".join(json.dumps({"text": f"Some words of document {i}. " * 6}) for i in range(80)))
    about = {"model": {"name": str(TINY)}, "site": "resid_post.1", "packing": {"context": 32, "bos": "always"}}
    coder = assay.new("topk", d_in=assay.model(TINY).d("resid_post.1"), d_sae=64, k=4)
    formats.write(coder, home / "theirs", "saelens", about)
    assert run("import theirs --name one").code == 0
    ran = run("eval core one --threads 1")
    assert ran.code == 1
    assert "--corpus" in ran.err
    ran = run("eval core one --corpus text.jsonl --tokens 300 --corpus-tokens 600 --threads 1 --json")
    assert ran.code == 0, ran.err
    (record,) = ran.json
    assert next(s["value"] for s in record["scores"] if s["metric"] == "l0") == pytest.approx(4, abs=0.1)
    (resolved,) = (home / "assay-store/results/core").glob("*.toml")
    assert "context = 32" in resolved.read_text()
    loaded, said = read_coders(["one", "./theirs", "theirs/cfg.json"], Store("assay-store"))
    assert list(loaded) == ["one", "theirs", "theirs-cfg"]
    assert coder_hash(loaded["one"]) == coder_hash(loaded["theirs"]) == coder_hash(loaded["theirs-cfg"])
    assert said["one"]["site"] == said["theirs"]["site"] == "resid_post.1"
    ran = run(
        "eval core theirs theirs/sae_weights.safetensors --corpus text.jsonl --tokens 300 --corpus-tokens 600 --threads 1 --json"
    )
    assert ran.code == 0, ran.err
    assert [one["coder"] for one in ran.json] == ["theirs", "theirs-sae_weights"], (
        "a path without a slash is one where no coder has the name"
    )
    assert [one["scores"] for one in ran.json] == [record["scores"]] * 2, "the same coder, measured once"


def test_what_files_leave_open_is_asked_for_with_the_command_that_says_it(run, home):
    path = circuit_tracer_clt(home / "my clt", (0, 1))
    with pytest.raises(BadInput, match=r"Here: assay import './my clt' --name NAME --layer NUMBER, then that name\.$"):
        read_coders(["./my clt"], Store("assay-store"))
    path.rename(home / "mine")
    for command in ("check mine --corpus x", "export mine --format saelens --out o"):
        ran = run(command)
        assert ran.code == 1
        assert "layer=" in ran.err
    assert "error: google/gemma-2-2b is neither" in run("check mine --layer 1 --corpus x").err, "that was all it asked"
    assert run("export mine --layer 1 --format gemma_scope_2 --out o").code == 0
    assert torch.equal(codes(assay.load("mine", layer=1))[0], codes(assay.load("./o"))[0])


def test_a_name_of_the_store_counts_before_a_path_without_a_slash(run, home, theirs):
    """What was said at import would be lost otherwise."""
    assert run("import theirs --name theirs --scale 2").code == 0
    assert run("export theirs --format gemma_scope_2 --out kept").code == 0
    assert run("export ./theirs --format gemma_scope_2 --out raw").code == 0
    x = torch.randn(4, 6)
    assert torch.allclose(assay.load("kept")(x), assay.load("raw")(2 * x) / 2, atol=1e-5)
    ran = run("export theirs --scale 3 --format gemma_scope_2 --out no")
    assert ran.code == 1
    assert "theirs is in Assay's own format, which leaves nothing open; got scale=3.0" in ran.err
    assert "--again always" in ran.err


def test_files_and_references_are_exported_without_a_store(run, home, theirs):
    assert run("export theirs/cfg.json --format dictionary_learning --out one --scale 2").code == 0
    x = torch.randn(4, 6)
    assert torch.allclose(assay.load("one")(x), ours("jumprelu")(2 * x) / 2, atol=1e-5)
    (home / "mirror/owner").mkdir(parents=True)
    theirs.rename(home / "mirror/owner/sae")
    ran = run("export hf:owner/sae --mirror mirror --format dictionary_learning --out two --json")
    assert ran.code == 0, ran.err
    assert ran.json["coder"] == "owner-sae"
    ran = run("export owner-sae --format saelens --out three")
    assert ran.code == 1
    assert "There is no 'owner-sae': it is no path, and assay-store is no store" in ran.err
    assert "No format named 'nothing'" in run("export ./two --format saelens --out four --read-as nothing").err
    assert not (home / "assay-store").exists()
