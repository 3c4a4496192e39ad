"""Records survive the disk; tables, leaderboard, comparisons and exports say what the records say."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest

from assay import codec, provenance, results
from assay.errors import BadFile, BadInput, NewerSchema, UnknownName
from assay.results import Record, Score

LR = "loss_recovered[ablation=mean]"
BLOCKS = 16


def make_record(name="a", architecture="topk", l0=32.0, lost=0.1, baseline=False, seed=0, version=1, inputs=None) -> Record:
    """A core record whose blocks of documents give exactly the loss recovered 1 − lost."""
    rng = np.random.default_rng(7)  # the same text for all
    tokens, clean = rng.integers(50, 100, BLOCKS), rng.random(BLOCKS) * 100 + 100
    gap = rng.random(BLOCKS) * 50 + 50
    wobble = np.random.default_rng(seed).normal(size=BLOCKS) * 0.02
    spliced = clean + gap * (lost + wobble - (gap * wobble).sum() / gap.sum())
    columns = {
        "predicted": tokens,
        "clean": clean,
        "spliced": spliced,
        "mean": clean + gap,
        "se": tokens * lost,
        "variance": tokens,
    }
    scores = [
        Score(metric="l0", value=l0, n=BLOCKS, low=l0 * 0.99, high=l0 * 1.01),
        Score(metric="loss_recovered", value=1 - lost, where={"ablation": "mean"}, n=BLOCKS, low=0.97 - lost, high=1.02 - lost),
        Score(metric="fvu", value=lost, n=BLOCKS, low=lost * 0.9, high=lost * 1.1),
        Score(metric="average_max_encoder_cosine_sim", value=None, reason="no encoder"),
    ]
    inputs = inputs or {"model": "m", "text": "t"}
    return Record(
        schema=1, key=results.key(name, "core", version, {}, inputs), coder=name, coder_hash=name, eval="core", eval_version=version,
        config={}, inputs=inputs, about={"architecture": architecture, "baseline": baseline}, scores=scores,
        details={"blocks": {k: v.tolist() for k, v in columns.items()}}, made=provenance.made(),
    )  # fmt: skip


def sweep() -> list[Record]:
    """topk beats batch_topk beats pca at equal L0; random has more L0 than either."""
    return [
        make_record("topk-16", "topk", 16, 0.20, seed=1), make_record("topk-64", "topk", 64, 0.08, seed=2),
        make_record("batch-32", "batch_topk", 32, 0.16, seed=3), make_record("batch-128", "batch_topk", 128, 0.05, seed=4),
        make_record("pca-10", "pca", 10, 0.60, True, seed=5), make_record("pca-100", "pca", 100, 0.30, True, seed=6),
        make_record("random-64", "random", 64, 0.90, True, seed=7),
    ]  # fmt: skip


def test_round_trip(store):
    records = [make_record("b"), make_record("a")]
    for record in records:
        results.write(store, record)
    assert results.load(store) == results.load(store, "core") == records[::-1]
    assert results.load(store, coder="b") == records[:1]
    assert results.load(store, "absorption") == []
    assert results.find(store, "core", records[0].key) == records[0]
    assert results.find(store, "core", "0" * 16) is None
    path = store.root / "results" / "core" / f"{records[0].key}.json"
    before = path.read_bytes()
    results.write(store, results.find(store, "core", records[0].key))
    assert path.read_bytes() == before


def test_key_names_everything_that_decides():
    base = ("hash", "core", 1, {"tokens": 5}, {"model": "m"})
    other = [("other", *base[1:]), (*base[:2], 2, *base[3:]), (*base[:3], {"tokens": 6}, base[4]), (*base[:4], {"model": "n"})]
    keys = {results.key(*parts) for parts in [base, *other]}
    assert len(keys) == 5
    assert all(len(k) == 16 for k in keys)


def test_bad_files_are_named(store):
    record = make_record()
    results.write(store, record)
    path = store.root / "results" / "core" / f"{record.key}.json"
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | {"schema": 99}))
    with pytest.raises(NewerSchema, match="schema 99"):
        results.load(store)
    path.write_text(json.dumps(data | {"extra": 1}))
    with pytest.raises(BadInput, match="extra"):
        results.load(store)
    path.write_text(path.read_text()[:50])
    with pytest.raises(BadFile, match=record.key):
        results.load(store)


def test_table_and_export():
    records = [make_record("a"), make_record("b", lost=0.3)]
    rows = results.table(records, ["l0", LR])
    assert [r["coder"] for r in rows] == ["a", "b"]
    assert rows[1][LR].value == pytest.approx(0.7)
    with pytest.raises(UnknownName, match="fvu"):
        results.table(records, ["fuv"])
    lines = list(csv.DictReader(io.StringIO(results.export(records, "csv"))))
    assert len(lines) == 8
    assert float(next(x for x in lines if x["coder"] == "b" and x["metric"] == LR)["value"]) == records[1].value(LR)
    missing = next(x for x in lines if x["metric"].startswith("average_max"))
    assert (missing["value"], missing["reason"]) == ("", "no encoder")
    assert codec.from_data(Record, json.loads(results.export(records, "json"))[0]) == records[0]
    assert "| b | topk | core | 32 (31.7 to 32.3) | 0.7 (0.67 to 0.72) |" in results.export(records, "markdown", ["l0", LR])
    with pytest.raises(UnknownName, match="markdown"):
        results.export(records, "markdwn")


def test_versions_never_stand_together():
    old, new = make_record("a", version=1), make_record("a", version=2)
    assert results.latest([old, new]) == [new]
    assert old.setting != new.setting


def test_paired_comparison():
    a, b = make_record("a", lost=0.10, seed=1), make_record("b", lost=0.15, seed=2)
    minus = lambda v: v[..., 0] - v[..., 1]  # noqa: E731
    gap = results.combination([a, b], minus)
    assert gap.value == pytest.approx(0.05)
    assert 0 < gap.low < gap.high < 0.1
    assert gap.n == BLOCKS
    assert results.combination([a, a], minus).high == pytest.approx(0)
    assert results.combination([a, b], minus, results.fvu).value == pytest.approx(-0.05)
    with pytest.raises(BadInput, match="one setting"):
        results.combination([a, make_record("c", inputs={"model": "other"})], minus)


def test_leaderboard_compares_at_the_coders_own_l0():
    places = {p.record.coder: p for p in results.leaderboard(sweep())}
    topk = places["topk-16"]
    share = (np.log(16) - np.log(10)) / (np.log(100) - np.log(10))
    assert topk.rival == "pca"
    assert topk.rival_value == pytest.approx(0.4 + 0.3 * share)
    assert topk.advantage.value == pytest.approx(0.8 - topk.rival_value)
    assert topk.advantage.low > 0
    assert places["topk-64"].rival == "pca"  # random reaches that L0 too, but is weaker
    assert places["batch-128"].advantage is None  # no baseline has so high an L0
    assert places["random-64"].rival == "pca"
    assert places["random-64"].advantage.value < 0
    order = [p.record.coder for p in results.leaderboard(sweep())]
    assert order.index("batch-128") > max(order.index(n) for n in ("topk-16", "topk-64", "batch-32"))
    assert set(order[4:]) == {"pca-10", "pca-100", "random-64"}
    assert order == [p.record.coder for p in results.leaderboard(sweep()[::-1])]


def test_leaderboard_keeps_settings_apart():
    other = replace(make_record("x", "pca", 16, 0.01, True, inputs={"model": "other"}))
    places = {p.record.coder: p for p in results.leaderboard([make_record("a", l0=16), other])}
    assert places["a"].rival is None


def test_a_replaced_coder_leaves_the_tables():
    def scored(name, weights, day):
        record = make_record(name)
        return replace(record, coder_hash=weights, made=replace(record.made, at=f"2026-01-0{day}T00:00:00+00:00"))

    old, new, other = scored("a", "one", 1), scored("a", "two", 2), scored("b", "one", 1)
    assert results.latest([new, old, other]) == [new, other]
