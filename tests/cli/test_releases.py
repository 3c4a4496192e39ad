"""assay list releases, import of references, push: from a release into the store, onto the hub, and back."""

from __future__ import annotations

import json
import re

import pytest
import torch

import assay
from assay import codec, formats, provenance, results
from assay.releases.published import MARK
from assay.results import Record, Score
from assay.store import Store
from tests.formats import published as files
from tests.formats.dialects import codes, ours
from tests.releases.conftest import cache, hub, offline  # noqa: F401

REF = "gemma-scope-2b-pt-res/layer_12/width_16k/canonical"
PATH = "layer_12/width_16k/average_l0_82"


def test_releases_are_listed_and_searched_without_a_hub(run):
    rows = run("list releases --model gemma-2-2b --layer 12 --width 16k --l0 50..120 --json").json
    assert [row["coder"] for row in rows] == [
        f"gemma-scope-2b-pt-{p}/layer_12/width_16k/average_l0_{n}" for p, n in (("res", 82), ("mlp", 108), ("att", 85))
    ]
    assert rows[0]["also"] == "layer_12/width_16k/canonical"
    ran = run("list releases qwen-scope")
    assert ran.out.splitlines()[1].split()[:3] == ["qwen-scope-3-1.7b-base-w32k-l50", "Qwen/Qwen3-1.7B-Base", "resid_post"]
    assert "544 coders. Narrow down to 60" in ran.err
    assert len(run("list releases qwen-scope --all --json").json) == 544
    assert "0 to 27" in ran.out
    assert run("list release").err.strip() == "error: No list named 'release'. Did you mean 'releases'?"
    assert run("list releases --model nobody").err.startswith("error: No model with coders named 'nobody'. 43 are known.")
    nothing = run("list releases gemma-scope --model gemma-2-2b --layer 99").err
    assert "all of this: gemma-scope --model gemma-2-2b --layer 99. Leave one out" in nothing
    assert run("list releases --l0 many").code == 1


@pytest.fixture
def release(home):
    """A coder in a mirror, as Gemma Scope's repository has it, with a result of SAEBench in its directory."""
    there = home / "mirror/google/gemma-scope-2b-pt-res" / PATH
    formats.write(ours("jumprelu"), there, "gemma_scope")
    return there


def test_a_release_comes_into_the_store_with_what_was_published_of_it(run, home, release):
    ran = run(f"import {REF} --name gs --mirror mirror")
    assert ran.code == 0, ran.err
    about = Store("assay-store").manifest("coders", "gs")["about"]
    assert (about["model"], about["site"]) == ({"name": "google/gemma-2-2b"}, "resid_post.12")
    assert about["imported"]["reference"] == f"gemma-scope-2b-pt-res/{PATH}"
    assert (about["imported"]["repo"], about["imported"]["format"]) == ("google/gemma-scope-2b-pt-res", "gemma_scope")
    assert torch.allclose(codes(assay.load("gs"))[1], codes(ours("jumprelu"))[1], atol=1e-4)
    rows = run("results export --format csv --eval core").out
    assert f"{MARK}gs,jumprelu,False,core" in rows
    assert ",l0,82.0," in rows
    assert "82" in run("results table").out
    before = sorted(p.name for p in (home / "assay-store/results/core").iterdir())
    assert run(f"import {REF} --name gs --mirror mirror").code == 0
    assert sorted(p.name for p in (home / "assay-store/results/core").iterdir()) == before, "importing again adds nothing"


def test_results_beside_local_files_come_along(run, home):
    formats.write(
        ours("topk"),
        home / "theirs",
        "dictionary_learning",
        {"model": {"name": "EleutherAI/pythia-70m"}, "site": "resid_post.3"},
    )
    (home / "theirs/eval_results.json").write_text(json.dumps({"l0": 3.0, "frac_recovered": 0.9}))
    (home / "theirs/a_eval_results.json").write_text(json.dumps(files.core()))
    (home / "theirs/b_eval_results.json").write_text("{}")
    ran = run("import theirs --name one")
    assert ran.code == 0, ran.err
    assert "b_eval_results.json" in ran.err
    found = {r.about["origin"]: r.value("l0") for r in results.load(Store("assay-store"), "core", f"{MARK}one")}
    assert found == {"dictionary_learning": 3.0, "SAEBench": 377.0}


@pytest.fixture
def kept(run, home):
    """A coder trained here, with a record, in the store."""
    from assay.evaluate import describe
    from assay.formats import native
    from assay.splice import coder_hash

    coder, store = ours("topk"), Store("assay-store")
    about = {
        "kind": "trained", "architecture": "topk", "config": {"d_in": 6, "d_sae": 16, "d_out": None, "k": 3}, "site": "resid_post.3",
        "model": {"name": "/home/someone/models/secret-dir/EleutherAI/pythia-70m"}, "train": {"tokens": 1000, "lr": 0.001},
        "text": {"corpus": "/home/someone/corpus.jsonl", "context": 64, "bos": "auto", "split": "train"},
    }  # fmt: skip
    with store.draft("coders", "mine") as draft:
        native.write(coder, draft.path, {})
        draft.finish(inputs={}, about=about, made=provenance.made())
    scores = [Score(metric="l0", value=3.0, low=2.9, high=3.1, n=33), Score(metric="fvu", value=0.25, low=0.2, high=0.3, n=33)]
    record = Record(
        schema=1, key="b" * 16, coder="mine", coder_hash=coder_hash(coder), eval="core", eval_version=2, config={"tokens": 6000},
        inputs={"model": "x"}, about=describe(coder) | {"model": "/home/someone/models/m", "site": "resid_post.3"}, scores=scores,
        details={"tokens": 6000, "latents": {"density": [0.1] * 16}}, made=provenance.made(),
    )  # fmt: skip
    results.write(store, record)
    return coder


def test_a_card_says_what_how_and_how_well_and_uploads_nothing(run, home, kept):
    ran = run("push mine me/my-saes --card-only there --licence cc-by-4.0")
    assert ran.code == 0, ran.err
    assert "Nothing was uploaded" in ran.err
    assert sorted(p.name for p in (home / "there").iterdir()) == [
        "README.md",
        "config.json",
        "results.json",
        "weights.safetensors",
    ]
    card = (home / "there/README.md").read_text()
    head, _, body = card.removeprefix("---\n").partition("\n---\n")
    assert 'license: "cc-by-4.0"' in head
    assert 'library_name: "assay"' in head
    for words in (
        "A `topk` sparse autoencoder with 16 latents of the activations at `resid_post.3` of pythia-70m", "| L0 | 3 (2.9 to 3.1) |",
        'assay.load("hf:me/my-saes")', "| `fvu` | 0.25 (0.2 to 0.3) | 33 |", "| tokens | 1000 |", "| corpus | corpus.jsonl |",
        "The weights are under cc-by-4.0. What they were learnt from, pythia-70m, has terms of its own.",
    ):  # fmt: skip
        assert words in body, words
    everything = "".join(p.read_text(errors="replace") for p in (home / "there").iterdir())
    assert "someone" not in everything, "no path of this machine leaves it"
    assert re.search(r"`weights.safetensors` \| [\d,]+ \| `[0-9a-f]{64}`", body)
    assert "density" not in (home / "there/results.json").read_text()
    again = run("push mine me/my-saes --card-only there")
    assert again.code == 1
    assert "not empty" in again.err


def test_onto_the_hub_and_back(run, home, kept, hub, offline):  # noqa: F811
    ran = run("push mine me/my-saes --path layer_3/k3 --private --json")
    assert ran.code == 0, ran.err
    assert ran.json["at"].startswith(f"{hub.url}/me/my-saes/commit/")
    assert hub.created[0]["name"] == "my-saes"
    assert hub.created[0].get("private") or hub.created[0].get("visibility") == "private"
    there = hub.repos["me/my-saes"]
    assert sorted(there) == [f"layer_3/k3/{n}" for n in ("README.md", "config.json", "results.json", "weights.safetensors")]
    assert b"No licence was stated" in there["layer_3/k3/README.md"]
    ran = run("import hf:me/my-saes/layer_3/k3 --name back")
    assert ran.code == 0, ran.err
    about = Store("assay-store").manifest("coders", "back")["about"]
    assert (about["site"], about["packing"]) == ("resid_post.3", {"context": 64, "bos": "auto"})
    assert (about["imported"]["format"], about["imported"]["repo"]) == ("native", "me/my-saes")
    assert torch.equal(codes(assay.load("back"))[0], codes(kept)[0])
    (record,) = results.load(Store("assay-store"), "core", f"{MARK}back")
    assert (record.value("fvu"), record.about["origin"], record.score("fvu").low) == (0.25, "Assay", 0.2)
    offline()
    ran = run("push mine me/my-saes")
    assert ran.code == 1
    assert "HF_HUB_OFFLINE" in ran.err


def test_a_pushed_coder_may_be_in_another_librarys_format(run, home, kept):
    ran = run("push mine me/x --format saelens --card-only sl")
    assert ran.code == 0, ran.err
    card = (home / "sl/README.md").read_text()
    assert "from sae_lens import SAE" in card
    cfg = json.loads((home / "sl/cfg.json").read_text())
    assert cfg["metadata"]["hook_name"] == "blocks.3.hook_resid_post"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("push mine nowhere --card-only x", "names no repository"), ("push none me/x --card-only x", "No coders entry"),
        ("push mine me/x --card-only x --licence ../etc", "no licence's name"), ("push mine me/x --path ../up --card-only x", "no path inside"),
        ("push mine me/x --format nothing --card-only x", "No format named"),
    ],
)  # fmt: skip
def test_what_cannot_be_pushed(run, kept, words, said):
    ran = run(words)
    assert ran.code == 1
    assert said in ran.err


def test_an_imported_coders_card_says_where_it_is_from(run, home, release):
    run(f"import {REF} --name gs --mirror mirror")
    assert run("push gs me/gs --card-only there").code == 0
    card = (home / "there/README.md").read_text()
    assert f"| reference | gemma-scope-2b-pt-res/{PATH} |" in card
    assert "Published before, by others" in card
    assert str(home) not in card
    assert codec.read_json(home / "there/results.json")["records"][0]["about"]["origin"] == "release"
