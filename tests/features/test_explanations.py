"""Explanations: many a latent, in files that grow in number; what is not there is left out, what is broken is named."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assay.errors import BadInput, DamagedFile
from assay.features import explanations
from assay.features.explanations import Explanation


def one(latent: int, text: str, **more) -> Explanation:
    return Explanation(latent=latent, text=text, method="rule", **more)


def test_several_runs_and_scores(store):
    assert explanations.read(store, "a") == []
    explanations.write(
        store, "a", "first", [one(7, "later", scores={"detection": 0.5}), one(3, "<i>"), one(3, "too", model="m")], "f00"
    )
    explanations.write(store, "a", "second", [one(3, "other", scores={"fuzzing": 0.25, "detection": 1.0})])
    explanations.write(store, "b", "first", [one(3, "not mine")])
    found = explanations.read(store, "a", 3)
    assert [(e.text, e.run, e.coder_hash) for e in found] == [
        ("<i>", "first", "f00"),
        ("too", "first", "f00"),
        ("other", "second", ""),
    ]
    assert [dict(e.scores) for e in found] == [{}, {}, {"fuzzing": 0.25, "detection": 1.0}] and found[1].model == "m"
    assert [e.latent for e in explanations.read(store, "a")] == [3, 3, 7, 3]
    explanations.write(store, "a", "first", [])
    assert [e.text for e in explanations.read(store, "a")] == ["other"]


def test_files_of_others(store):
    here = explanations.folder(store, "a")
    here.mkdir(parents=True)
    pq.write_table(pa.table({"latent": [1], "text": ["bare"], "score_x": [float("nan")], "more": [1]}), here / "theirs.parquet")
    assert explanations.read(store, "a", 1) == [Explanation(latent=1, text="bare", method="", run="theirs")]
    pq.write_table(pa.table({"latent": [1]}), here / "wrong.parquet")
    with pytest.raises(DamagedFile, match="no column text"):
        explanations.read(store, "a")
    (here / "wrong.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DamagedFile, match="cannot be read"):
        explanations.read(store, "a")


def test_names_stay_within_the_folder(store):
    for coder, run in (("..", "x"), ("a/../b", "x"), ("a", "../x"), ("a", "")):
        with pytest.raises(BadInput):
            explanations.write(store, coder, run, [])
