"""Training curves show the rows of train.jsonl, and tokens belong to the weights that were scored."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from assay import figures, provenance
from assay.errors import BadInput, DamagedFile, UnknownName
from assay.figures.training import trained
from assay.store import Store
from tests.figures.suite import core


def put(
    store: Store, name: str, rows: list[dict], *, architecture: str = "topk", vectors: str = "v", tokens: int = 900
) -> None:
    """A coder as `assay train` leaves it, without weights."""
    about = {"architecture": architecture, "config": {"k": 8, "d_sae": 64}, "kind": "trained", "train": {"tokens": tokens}}
    about |= {"model": {"name": "tiny"}, "site": "resid_post.1"}
    with store.draft("coders", name) as draft:
        (draft.path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        draft.finish(inputs={"activations": vectors}, about=about, made=provenance.made())


def course(n: int = 12) -> list[dict]:
    return [
        {"step": 10 * i, "tokens": 100 * (i + 1), "fvu": 1 / (i + 1), "l0": 40.0 - i, "dead": 0.0, "density": [1, 2], "held_out_fvu": 1.1 / (i + 1)}
        for i in range(n)
    ]  # fmt: skip


@pytest.fixture
def filled(store):
    put(store, "a", course())
    put(store, "b", course(5), architecture="relu")
    return store


def test_curves_are_the_rows(filled):
    drawn = figures.curves(trained(filled))
    assert drawn.panels == [("tokens", "held_out_fvu"), ("tokens", "l0"), ("tokens", "dead")]
    assert [line.label for line in drawn.lines] == ["a", "b"]
    for i, rows in enumerate((course(), course(5))):
        shown = [(p.values["tokens"].value, {k: v.value for k, v in p.values.items()}) for p in drawn.points if p.line == i]
        assert shown == [(row["tokens"], {k: row[k] for k in row if k not in ("step", "density")}) for row in rows]
    assert all(v.low is None for p in drawn.points for v in p.values.values()), "one measurement has no interval"
    assert drawn.axes["fvu"].better == "lower" and drawn.axes["fvu"].label == "FVU of the training batch"
    assert [y for _, y in figures.curves(trained(filled), ["fvu"]).panels] == ["fvu"]
    with pytest.raises(UnknownName, match="held_out_fvu"):
        figures.curves(trained(filled), ["held_out_fv"])


def test_of_long_trainings_no_spike_is_lost(store):
    rows = course(5000)
    rows[3217]["dead"] = 0.9
    put(store, "long", rows)
    drawn = figures.curves(trained(store))
    assert len(drawn.points) < 1000
    assert max(p.values["dead"].value for p in drawn.points) == 0.9
    assert drawn.points[-1].values["tokens"].value == 500_000


def test_coders_that_learnt_from_other_vectors_are_apart(filled):
    put(filled, "c", course(), vectors="w")
    with pytest.raises(BadInput, match="several sets of vectors"):
        figures.curves(trained(filled))
    with pytest.raises(BadInput, match="no trainings"):
        figures.curves([])


def test_a_damaged_row_is_named(filled):
    path = filled.path("coders", "a") / "train.jsonl"
    path.write_text(path.read_text()[:100])
    with pytest.raises(DamagedFile, match="coders/a/train"):
        figures.curves(trained(filled))


def test_tokens_belong_to_the_weights_that_were_scored(filled):
    scored = core("a", 8, 0.2, 0, config={"k": 8, "d_sae": 64})
    later = replace(scored, coder_hash="weights", made=replace(scored.made, at="9999-01-01T00:00:00+00:00"))
    earlier = replace(later, made=replace(scored.made, at="2000-01-01T00:00:00+00:00"))
    other = replace(later, about=scored.about | {"config": {"k": 9, "d_sae": 64}})
    assert [t.coder_hash for t in trained(filled, [later])] == ["weights", ""]
    assert [t.coder_hash for t in trained(filled, [earlier])] == ["", ""], "scored before this coder was there"
    assert [t.coder_hash for t in trained(filled, [other])] == ["", ""], "another configuration"
    assert {t.coder_hash: t.tokens for t in trained(filled, [later])}["weights"] == 900
