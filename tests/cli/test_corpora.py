"""assay corpora: what is in texts, and copies of them."""

from __future__ import annotations

import json


def test_corpora_are_checked_copied_and_listed(run, tmp_path):
    path = tmp_path / "some.jsonl"
    rows = [("a cat", "x"), ("a dog", "y"), ("a cat", "x"), ("a cow", "x"), ("a cow", "y"), ("an owl", "y")]
    path.write_text("\n".join(json.dumps({"text": text, "label": label}) for text, label in rows), encoding="utf-8")
    ran = run(f"corpora check labelled:{path} austen nowhere --json")
    assert ran.code == 1 and "1 of 3 corpora cannot be read" in ran.err
    good, austen, bad = ran.json
    assert good["classes"] == "x 1, y 2" and good["leak"] == 0.5
    assert austen["classes"] is None and "nowhere" in bad["problem"]
    got = run(f"corpora fetch labelled:{path} --out {tmp_path / 'kept'} --json").json
    assert run(f"corpora check {got[0]['reference']} --json").json[0]["classes"] == "x 1, y 2"
    assert "Name at least one corpus" in run("corpora check").err
    names = {row["name"] for row in run("corpora list --json").json}
    assert {"demo", "austen", "probe:92"} <= names and "probe:4" not in names
