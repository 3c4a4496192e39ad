"""assay import and assay export: coders of other libraries come in, are evaluated, and go out."""

from __future__ import annotations

import json

import pytest
import torch

import assay
from assay import formats
from assay.cli.origin import read_coders
from assay.models.embedded import TINY
from assay.splice import coder_hash
from assay.store import Store
from tests.formats.dialects import codes, gemma_scope, openai, ours

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
    loaded, said = read_coders(["one", "./theirs"], Store("assay-store"))
    assert coder_hash(loaded["one"]) == coder_hash(loaded["theirs"])
    assert said["one"]["site"] == said["theirs"]["site"] == "resid_post.1"
