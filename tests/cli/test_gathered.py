"""Several gathered sources in one training: beside each other, and mixed."""

from __future__ import annotations

import json

import pytest

from assay.cli import main
from assay.formats import native
from assay.models.embedded import TINY
from assay.store import Store

QUICK = "--d-sae 64 --tokens 2k --batch 256 --threads 1 --quiet"


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A directory with two sets of activations of the same text, and their keys."""
    home = tmp_path_factory.mktemp("two")
    patch = pytest.MonkeyPatch()
    patch.chdir(home)
    paragraphs = (TINY / "austen.txt").read_text(encoding="utf-8").split("\n\n")
    (home / "text.jsonl").write_text("".join(json.dumps({"text": p}) + "\n" for p in paragraphs[:60]), encoding="utf-8")
    keys = []
    for site in ("resid_post.1", "mlp_out.2"):
        assert main(f"gather tiny --corpus text.jsonl --site {site} --context 32 --tokens 1k --quiet".split()) == 0
        there = {p.name for p in (home / "assay-store/activations").iterdir() if not p.name.startswith(".")}
        keys += sorted(there - set(keys))
    patch.undo()
    return home, keys


def test_a_crosscoder_over_what_two_gathers_kept(two, run, monkeypatch):
    home, (a, b) = two
    monkeypatch.chdir(home)
    assert run(f"train crosscoder --of topk --settings k=4 --activations {a} --side-by-side {b} {QUICK}").code == 0
    coder = native.read(home / "assay-store/coders/crosscoder")
    assert coder.site_norms().shape == (64, 2)
    about = Store("assay-store").manifest("coders", "crosscoder")["about"]
    assert about["source"]["read"] == ["0:resid_post.1", "1:mlp_out.2"]
    assert about["text"]["bos"] == "auto" and about["starts_with_bos"] is True
    assert "model" not in about, "it is of no one site of a model: evals cannot take it for such"


def test_old_activations_are_mixed_in(two, run, monkeypatch):
    home, (a, b) = two
    monkeypatch.chdir(home)
    assert run(f"train topk --k 4 --activations {a} {QUICK}").code == 0
    assert (
        run(
            f"train --init topk --name tuned --activations {b} --mix {a} --mix-share .25 {QUICK.replace('--d-sae 64', '')}"
        ).code
        == 0
    )
    about = Store("assay-store").manifest("coders", "tuned")["about"]["source"]
    assert about["kind"] == "mixed" and [part["share"] for part in about["parts"]] == [0.75, 0.25]


@pytest.mark.parametrize("flags", ["--mix-share .2", "--mix x --side-by-side y", "--mix x --mix-share 1"])
def test_what_makes_no_sense_is_refused(run, home, flags):
    ran = run(f"train topk --activations a {flags} {QUICK}")
    assert ran.code == 1 and "--mix-share is a share between 0 and 1" in ran.err
