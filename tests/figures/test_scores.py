"""Figures of results show the records' own numbers, only comparable ones side by side, and say what they leave out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from assay import compare, figures
from assay.errors import BadInput, UnknownName
from assay.figures.base import COLOURS, KNOWN, Figure, colour, label, written
from assay.figures.correlations import spearman
from assay.figures.scores import steps
from assay.randomness import numpy_generator
from assay.results import sparsities
from assay.statistics import Interval
from tests.figures.suite import core, make, probing, suite

LR, FVU = "core/loss_recovered[ablation=mean]", "core/fvu"
K1 = "sparse_probing/accuracy[k=1,on=latents]"


@pytest.fixture(scope="module")
def records():
    return suite()


@pytest.fixture(scope="module")
def figure(records) -> Figure:
    return figures.against_l0(records, at=20)


def test_every_number_is_the_records_own(records, figure):
    by_name = {(r.coder, r.eval): r for r in records}
    seen = 0
    for p in (p for p in figure.points if not p.interpolated):
        for key, value in p.values.items():
            if key == "d_sae":
                assert value.value == by_name[p.name, "core"].about["d_sae"]
                continue
            name, _, spec = ("core", "", "l0") if key == "l0" else key.partition("/")
            s = by_name[p.name, name].score(spec)
            assert value == Interval(s.value, s.low, s.high, s.n), (p.name, key)
            seen += 1
        mine = {r.eval for r in records if r.coder == p.name}
        assert ({LR, FVU, "l0"} <= set(p.values)) and (K1 in p.values) == ("sparse_probing" in mine)
    assert seen > 200
    assert len({p.name for p in figure.points if not p.interpolated}) == len({r.coder for r in records})


def test_panels_are_the_headline_of_each_eval(records, figure):
    assert figure.panels == [("l0", LR), ("l0", FVU), ("l0", K1)]
    assert figure.axes[LR].better == "higher" and figure.axes[FVU].better == "lower"
    assert not any("dataset" in key for key in figure.axes), "parts of a mean are shown only when asked for"
    part = "accuracy[dataset=set3,k=1,on=latents]"
    asked = figures.against_l0(records, [part, "sparse_probing/accuracy[k=5,on=latents]", "fvu"])
    assert [y for _, y in asked.panels] == [f"sparse_probing/{part}", "sparse_probing/accuracy[k=5,on=latents]", FVU]
    with pytest.raises(UnknownName, match="fvu"):
        figures.against_l0(records, ["fvuu"])


def test_what_needs_no_coder_is_a_level(figure):
    assert figure.axes[K1].reference == ("activations themselves", Interval(0.6, 0.55, 0.68, 7))
    assert figure.axes[LR].reference is None


def test_lines_say_what_they_are(figure):
    labels = [line.label for line in figure.lines]
    assert labels[:3] == ["gated 256 (n = 3)", "gated 512 (n = 3)", "gated 1k (n = 3)"]
    assert labels[-2:] == ["pca (baseline, n = 2)", "permuted_decoder (baseline, n = 2)"]
    assert [line.colour is None for line in figure.lines] == [False] * 9 + [True] * 2
    assert not figure.lines[-1].joined, "twins of several architectures are no sweep"
    assert len({(line.colour, line.marker) for line in figure.lines}) == len(figure.lines)


def test_a_colour_stays_with_its_architecture(records):
    some = [r for r in records if r.about["architecture"] == "topk"]
    for drawn in (records, some):
        lines = figures.against_l0(drawn).lines
        assert {line.colour for line in lines if line.label.startswith("topk")} == {KNOWN.index("topk")}
    assert len({colour(a, [*KNOWN[:4], "new", "other"]) for a in [*KNOWN[:4], "new", "other"]}) == 6
    assert len(set(COLOURS)) == len(KNOWN) == len(COLOURS)


def test_interpolated_points_are_those_of_the_tables(records, figure):
    l0 = sparsities(records)
    cores = [r for r in records if r.eval == "core"]
    found = {figure.lines[p.line].label.partition(" (")[0]: p.values for p in figure.points if p.interpolated}
    assert len(found) == 10, "all but the permuted decoders"
    for (_, architecture, width), sweep in compare.sweeps(cores).items():
        name = architecture if architecture == "pca" else f"{architecture} {'1k' if width == 1024 else width}"
        assert found[name][LR] == compare.at_l0(sweep, l0, 20, LR.partition("/")[2])
        assert found[name]["l0"].value == 20
    assert not [
        p for p in figures.against_l0(records, at=45).points if p.interpolated and figure.lines[p.line].colour is not None
    ]


def test_the_front_is_that_of_the_tables(records, figure):
    cores = [r for r in records if r.eval == "core"]
    for key in (LR, FVU):
        front = compare.front(cores, sparsities(records), key.partition("/")[2])
        assert {p.name for p, *_ in figure.best("l0", key)} == {r.coder for r in cores if r.key in front}
    assert figure.best("l0", "core/ce_loss_clean") == [], "no direction, no front"


def test_settings_are_never_mixed(records):
    other = core("x", 20, 0.2, 0, d_sae=256)
    text = replace(other, inputs={"model": "m", "text": "another"})
    with pytest.raises(BadInput, match=r"several models, texts or settings.*--setting"):
        figures.against_l0([*records, text])
    elsewhere = probing("x", 0.7, model="large")
    with pytest.raises(BadInput, match="large, resid_post"):
        figures.against_l0([*(r for r in records if r.eval == "core"), elsewhere])
    with pytest.raises(BadInput, match="several"):
        figures.against_width([*records, text])
    with pytest.raises(BadInput, match="several"):
        figures.correlation([*records, text])


def test_old_versions_leave(records):
    newer = [
        replace(r, eval_version=2, scores=[r.scores[1], replace(r.scores[2], value=0.5)]) for r in records if r.eval == "core"
    ]
    drawn = figures.against_l0([*records, *newer], [LR.partition("/")[2]])
    assert {p.values[LR].value for p in drawn.points if LR in p.values} == {0.5}
    assert "core (version 2" in drawn.notes[0]


def test_imported_results_are_marked_and_apart(records):
    theirs = [
        replace(core(f"saebench:{l0}", l0, 0.2, l0, d_sae=512, origin="SAEBench", training_tokens=500), eval_version=0)
        for l0 in (10, 20)
    ]
    drawn = figures.against_l0(theirs)
    assert drawn.title.endswith("imported from SAEBench")
    bare = [replace(r, scores=[replace(s, low=None, high=None) for s in r.scores]) for r in theirs]
    assert figures.against_l0(bare).notes[-1] == "These records have no intervals."
    assert {p.values["tokens"].value for p in drawn.points} == {500.0}
    with pytest.raises(BadInput, match="imported from SAEBench"):
        figures.against_l0([*theirs, *(r for r in records if r.eval == "sparse_probing")])
    with pytest.raises(BadInput, match="imported from SAEBench"):
        figures.against_l0([*theirs, *records])


def test_l0_is_looked_up(records):
    probes = [r for r in records if r.eval == "sparse_probing"]
    with pytest.raises(BadInput, match="eval core"):
        figures.against_l0(probes)
    drawn = figures.against_l0(probes, everything=records)
    known = sparsities(records)
    assert all(p.values["l0"] == Interval(known[p.name], None, None, 0) for p in drawn.points)
    silent = core("silent", 0.0, 0.9, 0, d_sae=256)
    assert "Left out: 1 coder that" in " ".join(figures.against_l0([*records, silent]).notes)
    with pytest.raises(BadInput, match="no results"):
        figures.against_l0([])


def test_what_has_no_value_is_said(records):
    with pytest.raises(BadInput, match="No coder has a value of frac_alive: not counted"):
        figures.against_l0(records, ["frac_alive"])
    with pytest.raises(BadInput, match="nothing to draw over L0"):
        figures.against_l0(records, ["l0"])
    assert [y for _, y in figures.against_width(records, ["l0", "fvu"], at=20).panels] == [FVU]


def test_width_compares_at_one_l0(records):
    drawn = figures.against_width(records, at=20)
    l0 = sparsities(records)
    for (_, architecture, width), sweep in compare.sweeps([r for r in records if r.eval == "core"]).items():
        (p,) = [
            p for p in drawn.points
            if p.values["d_sae"].value == width and drawn.lines[p.line].label.startswith(architecture)
        ]  # fmt: skip
        assert p.values[FVU] == compare.at_l0(sweep, l0, 20, "fvu")
    topk = [p.values[LR].value for p in drawn.points if drawn.lines[p.line].label.startswith("topk")]
    assert len(topk) == 3 and topk == sorted(topk), "wider is better here"
    missing = figures.against_width(records, at=41.0)
    assert missing.notes[-1].endswith(
        "L0: gated 256, gated 512, gated 1k, relu 256, relu 512, relu 1k, topk 256, topk 512, topk 1k."
    )
    with pytest.raises(BadInput, match="No sweep reaches L0 500"):
        figures.against_width(records, at=500)
    assert ", L0 20" in figures.against_width([r for r in records if r.about["architecture"] == "topk"]).title


def test_tokens_join_what_differs_in_nothing_else():
    made = [
        core(f"{k}-{tokens}", k, 0.5 / k + 1 / tokens, k + tokens, d_sae=256, config={"k": k, "d_sae": 256})
        for k in (10, 20)
        for tokens in (100, 300, 900)
    ]
    known = {r.coder_hash: int(r.coder.partition("-")[2]) for r in made}
    drawn = figures.against_tokens([*made, core("unknown", 10, 0.2, 0, d_sae=256)], tokens=known)
    assert [line.label for line in drawn.lines] == ["topk k=10 (n = 3)", "topk k=20 (n = 3)"]
    assert [x.value for _, x, _ in drawn.shown("tokens", LR)] == [100, 300, 900] * 2
    assert "Left out: 1 coder of which" in " ".join(drawn.notes)
    with pytest.raises(BadInput, match="how many tokens"):
        figures.against_tokens(made, tokens={})


def test_seeds_share_a_place():
    assert steps([10.0, 40.2, 10.1, 40.0, 20.0]) == [0, 2, 0, 2, 1]
    assert steps([1.0, 1.03, 1.06]) == [0, 1, 2]


def test_words_and_numbers():
    assert label("accuracy", {"k": "1", "on": "latents"}) == "accuracy (k 1, on latents)"
    assert label("ce_loss_spliced", {}) == "cross-entropy loss spliced"
    cases = {
        (16384, "width"): "16k",
        (576, "width"): "576",
        (1.5e6, "count"): "1.5M",
        (0.9675, "plain"): "0.9675",
        (12345, "plain"): "12,345",
    }
    assert {case: written(*case) for case in cases} == cases


# ---- correlations --------------------------------------------------------------------------------------------------------------


def test_correlations_are_over_trained_coders(records):
    drawn = figures.correlation(records)
    cells = drawn.matrix.cells
    assert drawn.matrix.keys == ("l0", LR, FVU, K1, K1.replace("k=1", "k=5"))
    assert drawn.panels == [(LR, K1)]
    trained = [r for r in records if not r.about["baseline"]]
    a = [r.value("fvu") for r in trained if r.eval == "core"]
    b = [r.value(K1.partition("/")[2]) for r in trained if r.eval == "sparse_probing"]
    assert cells[FVU, K1] == cells[K1, FVU] == spearman(b, a)
    assert cells[FVU, K1].n == 27 and cells[LR, FVU].value == -1
    counted = figures.correlation(records, ["fvu", K1], baselines=True)
    assert counted.matrix.cells[FVU, K1].n == 29
    assert {line.joined for line in drawn.lines} == {False}
    with pytest.raises(BadInput, match="at least 5 coders"):
        figures.correlation(records[:8])


def test_rank_correlation_is_right():
    from scipy import stats

    x, y = numpy_generator("a test of ranks").normal(size=(2, 30))
    y = y + x
    assert spearman(x, y).value == pytest.approx(stats.spearmanr(x, y)[0])
    assert spearman(x, np.exp(x)) == Interval(1.0, None, None, 30)
    assert spearman(x[:4], y[:4]) is None and spearman(x, np.ones(30)) is None


@pytest.mark.parametrize(("n", "rho"), [(8, 0.0), (8, 0.8), (20, 0.5), (40, 0.8)])
def test_its_interval_holds_what_it_promises(n, rho):
    random = numpy_generator("coverage of rank correlation", n, rho)
    truth, hits = 6 / np.pi * np.arcsin(rho / 2), 0
    for _ in range(400):
        x, noise = random.normal(size=(2, n))
        found = spearman(x, rho * x + (1 - rho**2) ** 0.5 * noise)
        hits += found.low is None or found.low <= truth <= found.high
    assert hits / 400 > 0.91, "95 % within three standard errors"


def test_a_metric_without_a_declaration_has_no_direction():
    made = [make("elsewhere", f"c{i}", [_score(i)], architecture="topk", d_sae=64) for i in range(3)]
    drawn = figures.against_l0(made + [core(f"c{i}", 10 + i, 0.1, i, d_sae=64) for i in range(3)])
    assert drawn.axes["elsewhere/oddity"].better == "neither"
    assert ("l0", "elsewhere/oddity") in drawn.panels


def _score(i):
    from assay.results import Score

    return Score(metric="oddity", value=float(i))
