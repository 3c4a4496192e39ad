"""Saving: stored coders say what was done, to which coder."""

from __future__ import annotations

import json

import torch

from assay import surgery
from assay.formats import native


def test_saved_coders_say_what_was_done(made, x, store):
    parent = made["batch_topk"]
    keep = ~surgery.dead(surgery.firing(parent, x))
    coder, report = surgery.prune(parent, keep, x)
    about = {"site": "resid_post.1", "run": "old", "kind": "trained", "architecture": "batch_topk"}
    path = surgery.save("small", coder, report, store, parent=parent, about=about, data={"fingerprint": "f" * 16}, key="k")
    manifest = store.manifest("coders", "small")
    assert manifest["about"]["kind"] == "trained"
    assert manifest["about"]["site"] == "resid_post.1"
    assert manifest["about"]["run"] == "k"
    assert manifest["about"]["config"]["d_sae"] == int(keep.sum())
    assert manifest["inputs"] == {"coder": manifest["about"]["surgery"][0]["coder"], "activations": "f" * 16}
    assert json.loads((path / "surgery.json").read_text())["kept"] == keep.nonzero()[:, 0].tolist()
    torch.testing.assert_close(native.read(path)(x), coder(x), rtol=0, atol=0)
    again, report = surgery.to_jumprelu(coder, x)
    surgery.save("jump", again, report, store, parent=coder, about=manifest["about"])
    about = store.manifest("coders", "jump")["about"]
    assert [done["operation"] for done in about["surgery"]] == ["prune", "convert"]
    assert about["architecture"] == "jumprelu"
