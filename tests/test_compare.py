"""Coders side by side: pairing on what records keep, matched L0, seeds, fronts and scales, on records whose truth is planted."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest

from assay import compare, provenance, results
from assay.cli import main
from assay.errors import BadInput, UnknownName
from assay.evals.base import Metric
from assay.results import Record, Score
from assay.store import Store

LR = "loss_recovered[ablation=mean]"
BLOCKS = 32


def core(name, architecture="topk", l0=32.0, lost=0.1, *, width=512, seed=0, inputs=None, noise=0, blocks=True) -> Record:
    """A core record of loss recovered 1 − lost and FVU lost (of all sums, exactly), on documents that differ in difficulty."""
    text, own = np.random.default_rng(7), np.random.default_rng([noise, seed])
    tokens, clean = text.integers(50, 100, BLOCKS), text.random(BLOCKS) * 100 + 100
    gap, wobble = text.random(BLOCKS) * 50 + 50, own.normal(size=BLOCKS) * 0.02
    columns = {
        "predicted": tokens, "clean": clean, "mean": clean + gap, "spliced": clean + gap * (lost + wobble - (gap * wobble).sum() / gap.sum()),
        "vectors": tokens, "variance": tokens, "se": tokens * lost, "l0": tokens * l0,
    }  # fmt: skip
    scores = [
        Score(metric="l0", value=l0), Score(metric="loss_recovered", value=1 - lost, where={"ablation": "mean"}),
        Score(metric="fvu", value=lost, low=lost - 0.01, high=lost + 0.02), Score(metric="frac_alive", value=0.9),
    ]  # fmt: skip
    inputs = inputs or {"model": "m", "text": "t"}
    about = {
        "architecture": architecture,
        "baseline": False,
        "d_sae": width,
        "seed": seed,
        "model": "tiny",
        "site": "resid_post.1",
    }
    return Record(
        schema=1, key=results.key(name, "core", 1, {}, inputs), coder=name, coder_hash=name, eval="core", eval_version=1, config={},
        inputs=inputs, about=about | {"config": {"k": l0}}, scores=scores, made=provenance.made(),
        details={"blocks": {k: v.tolist() for k, v in columns.items()}} if blocks else {},
    )  # fmt: skip


def probing(name, accuracies, correct=None) -> Record:
    """A sparse_probing record: {dataset: {class: accuracy}}, and which examples were right where that is kept."""
    base = core(name)
    where = {"k": "1", "on": "latents"}
    scores = [
        Score(metric="accuracy", value=float(np.mean([np.mean([*c.values()]) for c in accuracies.values()])), where=where)
    ]
    for dataset, classes in accuracies.items():
        scores.append(Score(metric="accuracy", value=float(np.mean([*classes.values()])), where={"dataset": dataset} | where))
        scores += [
            Score(metric="accuracy", value=v, where={"dataset": dataset, "class": c} | where) for c, v in classes.items()
        ]
    details = {} if correct is None else {"units": {"accuracy[k=1,on=latents]": correct}}
    key = results.key(name, "sparse_probing", 1, {}, base.inputs)
    return replace(base, key=key, eval="sparse_probing", scores=scores, details=details)


ACCURACY = "accuracy[k=1,on=latents]"


# ---- pairing -------------------------------------------------------------------------------------------------------------------


def test_documents_pair_in_core():
    a, b = core("a", lost=0.10, seed=1), core("b", lost=0.12, seed=2)
    gap = compare.against(a, b, LR)
    assert gap.value == pytest.approx(0.02)
    assert 0 < gap.low < gap.value < gap.high < 0.04
    assert gap.p <= 0.05
    assert gap.n == BLOCKS
    assert compare.against(b, a, LR).value == pytest.approx(-0.02)
    assert compare.against(a, a, LR).p == 1.0
    assert compare.against(a, b, "fvu").value == pytest.approx(-0.02)
    none = compare.against(core("a", lost=0.1, seed=1), core("b", lost=0.1, seed=2), LR)
    assert none.low < 0 < none.high
    assert none.p > 0.05


def test_where_nothing_is_kept_there_is_no_difference():
    a, b = core("a", seed=1), core("b", seed=2)
    assert compare.against(a, b, "frac_alive") is None  # no sums say it
    assert compare.against(a, core("c", blocks=False), LR) is None
    with pytest.raises(BadInput, match="several settings"):
        compare.against(a, core("b", inputs={"model": "other"}), LR)


def classes(gap):
    rng = np.random.default_rng(0)
    hard = rng.uniform(0.6, 0.9, size=(4, 3))
    return {f"d{i}": {f"c{j}": float(hard[i, j] + gap + 0.005 * rng.normal()) for j in range(3)} for i in range(4)}


def test_classes_pair_where_records_keep_finer_scores():
    a, b = probing("a", classes(0.03)), probing("b", classes(0.0))
    gap = compare.against(a, b, ACCURACY)
    assert gap.value == pytest.approx(a.value(ACCURACY) - b.value(ACCURACY))
    assert gap.n == 12
    assert 0 < gap.low < gap.high < 0.05
    assert gap.p <= 0.01
    one = compare.against(a, b, "accuracy[dataset=d1,k=1,on=latents]")
    assert one.n == 3
    assert one.p is None  # three classes can say nothing
    fewer = probing("c", {d: dict(list(c.items())[:2]) for d, c in classes(0.0).items()})
    assert compare.against(a, fewer, ACCURACY) is None


def examples(seed, right):
    rng = np.random.default_rng(5)
    easy = rng.random(200)  # the same examples for both
    hits = easy + 0.05 * np.random.default_rng(seed).normal(size=200) < right
    return "".join("01"[int(h)] for h in hits)


def test_examples_pair_where_they_are_kept():
    correct = [{"d": {"c": examples(seed, right)}} for seed, right in ((1, 0.85), (2, 0.75))]
    share = [np.mean([int(h) for h in c["d"]["c"]]) for c in correct]
    a, b = (probing(n, {"d": {"c": float(s)}}, c) for n, s, c in zip("ab", share, correct, strict=True))
    gap = compare.against(a, b, ACCURACY)
    assert gap.n == 200
    assert gap.value == pytest.approx(share[0] - share[1])
    assert gap.low > 0
    assert gap.p < 0.01
    old = probing("old", {"d": {"c": 0.7}})  # made before examples were kept: classes remain, and there is one
    assert compare.against(a, old, ACCURACY).low is None
    wrong = probing("wrong", {"d": {"c": 0.2}}, correct[0])  # what does not average to the score is not its units
    assert set(compare.units(wrong, ACCURACY)) == {"scores"}


def test_a_reference_is_looked_up():
    records = [core("a"), core("b"), core("b", inputs={"model": "other"})]
    assert len(compare.reference(records, "b")) == 2
    with pytest.raises(UnknownName, match="Did you mean 'topk'"):
        compare.reference([core("topk")], "topkk")


# ---- sweeps, seeds, fronts, scales ---------------------------------------------------------------------------------------------


def lost(l0, worse=1.0):
    return worse * (0.5 - 0.08 * np.log(l0))


def test_value_at_a_matched_l0_is_the_planted_one():
    records = [core(f"topk-{k}", "topk", k, lost(k), noise=k) for k in (16, 40, 100)]
    records += [core(f"wide-{k}", "topk", k, lost(k, 0.8), width=1024, noise=k) for k in (16, 100)]
    records += [core("relu-20", "relu", 20, lost(20)), core("permuted", "permuted_decoder", 50, 0.9)]
    l0, found = results.sparsities(records), compare.sweeps(records)
    assert [key[1:] for key in found] == [("relu", 512), ("topk", 512), ("topk", 1024)]
    at = [compare.at_l0(sweep, l0, 50, LR) for sweep in found.values()]
    assert at[0] is None  # one coder of L0 20 says nothing of 50
    assert at[1].value == pytest.approx(1 - lost(50))
    assert at[2].value == pytest.approx(1 - lost(50, 0.8))
    assert all(i.low < i.value < i.high and i.n == BLOCKS for i in at[1:])
    assert compare.at_l0(records[:3], l0, 105, LR) is None
    assert compare.at_l0(records[:3], l0, 100.5, LR) is not None
    assert compare.at_l0(records[:3], l0, 50, "frac_alive").low is None


def test_coders_that_differ_in_the_seed_alone_are_summed_up():
    group = [core(f"s{seed}", seed=seed, lost=0.1 + 0.01 * seed) for seed in range(3)]
    found = compare.seeds([*group, core("other", l0=64.0), core("elsewhere", inputs={"model": "other"}, seed=3)])
    assert found == [group]
    at = compare.spread(group, "fvu")
    assert (at.mean.value, at.sd.value, at.cv.value) == pytest.approx((0.11, 0.01, 1 / 11))
    assert compare.seeds([*group, core("again", seed=2)]) == []  # two of one seed: they differ in something else


def test_the_front_takes_the_direction_from_the_metric():
    records = [core("a", l0=10, lost=0.5), core("b", l0=20, lost=0.3), core("c", l0=30, lost=0.4), core("d", l0=40, lost=0.1)]
    l0 = results.sparsities(records)
    keys = {r.key for r in records if r.coder in "abd"}
    assert compare.front(records, l0, "fvu") == keys  # lower is better
    assert compare.front(records, l0, LR) == keys  # higher is better
    assert compare.front(records, l0, "ce_loss_clean") == set()
    elsewhere = core("e", l0=5, lost=0.01, inputs={"model": "other"})
    assert compare.front([*records, elsewhere], l0 | {"e": 5.0}, "fvu") == keys | {elsewhere.key}


def test_scores_on_their_scale():
    fvu = Score(metric="fvu", value=0.2, low=0.1, high=0.4, n=9)
    at = compare.normalised(fvu, compare.declared("core")["fvu"])  # floor 1, ceiling 0
    assert (at.value, at.low, at.high, at.n) == pytest.approx((0.8, 0.6, 0.9, 9))
    accuracy = Score(metric="accuracy", value=0.75, low=0.7, high=0.8)
    assert compare.normalised(accuracy, compare.declared("sparse_probing")["accuracy"]).low == pytest.approx(0.4)
    assert compare.normalised(fvu, Metric(doc="", better="lower", ceiling=0.0)) is None
    assert compare.normalised(replace(fvu, value=None), compare.declared("core")["fvu"]) is None
    assert compare.declared("no_such_eval") == {}


# ---- command line --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def said(tmp_path, monkeypatch, capsys):
    """`said("results table …")` over a store with two sweeps, two widths and three seeds: (exit code, stdout, stderr)."""
    store = Store(tmp_path / "store")
    records = [core(f"topk-{k}", "topk", float(k), lost(k), noise=k) for k in (16, 40, 100)]
    records += [core(f"relu-{k}", "relu", float(k), lost(k, 1.2), width=1024, noise=k + 1) for k in (16, 100)]
    records += [core(f"topk-40-s{seed}", "topk", 40.0, lost(40) + 0.01 * seed, seed=seed) for seed in (1, 2)]
    for record in records:
        results.write(store, record)

    def call(words: str):
        code = main([*words.split(), "--store", str(store.root)])
        return code, *capsys.readouterr()

    return call


def test_tables_set_coders_side_by_side(said):
    code, out, _ = said("results table --against topk-40 --metrics fvu --l0 90.. --json")
    (relu, topk) = json.loads(out)
    assert code == 0
    assert (relu["coder"], topk["coder"]) == ("relu-100", "topk-100")
    assert topk["fvu − topk-40"]["value"] == pytest.approx(lost(100) - lost(40))
    assert topk["fvu − topk-40"]["p"] < 0.01
    assert " p 0." in said("results table --against topk-40 --metrics fvu")[1]

    lines = said("results table --at-l0 50 --metrics fvu")[1].splitlines()
    assert [line.split()[:4] for line in lines[2:]] == [["relu", "1024", "2", "50"], ["topk", "512", "5", "50"]]
    assert f"{lost(50, 1.2):.3g}" in lines[2]
    assert "Nothing can be compared" in said("results table --at-l0 500")[1]

    lines = said("results table --seeds --metrics fvu")[1].splitlines()
    assert lines[2].startswith("topk-40, topk-40-s1, topk-40-s2")
    assert "± 0.01, CV" in lines[2]

    out = said("results table --pareto --normalised --metrics fvu")[1]
    assert "fvu on front" in out.splitlines()[1]
    assert {line.split()[0] for line in out.splitlines()[2:] if " yes " in line} == {"topk-16", "topk-40", "topk-100"}
    assert "choose one" in said("results table --seeds --at-l0 50")[2]


@pytest.mark.parametrize(
    ("options", "coders"),
    [
        ("--width 1k", {"relu-16", "relu-100"}),
        ("--architecture topk --l0 ..20", {"topk-16"}),
        ("--l0 16..16", {"topk-16", "relu-16"}),
        ("--model tiny --site resid_post.1 --architecture relu", {"relu-16", "relu-100"}),
    ],
)
def test_filters(said, options, coders):
    rows = json.loads(said(f"results table --json {options}")[1])
    assert {row["coder"] for row in rows} == coders
    assert rows[0]["fvu"]["value"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--l0 300..", "They go from 16 to 100"), ("--l0 50", "is no range"), ("--width 2k", "No width with results named '2048'"),
        ("--architecture topkk", "Did you mean 'topk'"), ("--against topk", "No coder with results named 'topk'"),
    ],
)  # fmt: skip
def test_filters_say_what_there_is(said, options, message):
    code, _, err = said(f"results table {options}")
    assert code == 1
    assert message in err


def test_csv_has_the_columns(said):
    lines = list(csv.DictReader(io.StringIO(said("results export --metrics fvu,l0 --against topk-40")[1])))
    line = next(x for x in lines if x["coder"] == "topk-100" and x["metric"] == "fvu")
    assert float(line["l0"]) == 100
    assert (line["better"], line["pareto"]) == ("lower", "True")
    assert float(line["normalised"]) == pytest.approx(1 - float(line["value"]))
    assert float(line["difference_low"]) < float(line["difference_value"]) == pytest.approx(lost(100) - lost(40))
    assert float(line["difference_p"]) < 0.01
    assert next(x for x in lines if x["coder"] == "relu-16" and x["metric"] == "fvu")["pareto"] == "False"
    assert "csv only" in said("results export --format markdown --against topk-40")[2]


def test_core_keeps_what_comparisons_need():
    from assay.evals.core import KEPT, formulas

    def possible(formula):
        try:
            formula(dict.fromkeys(KEPT, np.ones(1)))
        except KeyError:
            return False
        return True

    with np.errstate(divide="ignore", invalid="ignore"):
        kept = {metric for metric, formula, _ in formulas() if possible(formula)}
    assert kept >= {"loss_recovered", "ce_loss_increase", "kl", "kl_div_score", "fvu", "relative_reconstruction_bias", "l0"}
