"""scr on planted texts: who knows both labels' features scores near 1, who has learnt them less, a permuted decoder about 0."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from assay import compare, registry
from assay.errors import BadInput
from assay.evals import scr
from assay.evals.needs import Labelled, LabelledInput
from assay.evals.scr import SCR, SCRConfig
from assay.results import Record
from tests.evals.planted_texts import QUADRANTS, TOPICS, build, cast, texts

SIZES = (90, 70, 80, 100)
KINDS = ("oracle", "trained", "random", "permuted")
QUICK = {"n": "2,5,20", "epochs": 10, "lr": 0.01}


def run(coder, data: list[LabelledInput], one: SCR | None = None, **config):
    names = [d.name for d in data]
    one = one or SCR(SCRConfig(**{"datasets": ",".join(names), **QUICK, **config}))
    with torch.no_grad():
        scores, details = one.run(coder, dict(zip(names, data, strict=True)))
    return {s.spec: s for s in scores}, details


def test_oracle_beats_trained_beats_random_and_permuted():
    """Of who has the four features as latents, who has learnt them for 120 steps, and who cannot know them. Means over four seeds:
    .88, .48, .03 (random), −.08 (permuted); beside, PCA .50 (from .05 to .97) and neurons .14."""
    found = {kind: [] for kind in KINDS}
    for seed in range(4):
        for kind in KINDS:
            scores, _ = run(cast(seed)[kind], [texts(seed, SIZES)])
            found[kind].append(scores["scr[n=2]"].value)
    oracle, trained, random, permuted = (np.array(found[kind]) for kind in KINDS)
    assert oracle.min() > 0.7
    assert (oracle > trained).all()
    assert (trained > random).all()
    assert (trained > permuted).all()
    assert oracle.mean() - trained.mean() > 0.2
    assert trained.mean() - random.mean() > 0.25
    assert abs(random).max() < 0.25
    assert abs(permuted).mean() < 0.25


def test_a_coder_that_ablates_nothing_scores_exactly_zero():
    """SAEBench draws test examples anew for each accuracy, so its zero is noise."""
    coder = cast(0)["oracle"].clone()
    coder.W_dec.zero_()
    scores, details = run(coder, [texts(0, SIZES)])
    for n in (2, 5, 20):
        assert [scores[f"{m}[n={n}]"].value for m in ("scr", "scr_dir1", "scr_dir2")] == [0.0] * 3
        assert [scores[f"scr[n={n}]"].low, scores[f"scr[n={n}]"].high] == [0.0] * 2
    assert details["planted"]["dir1"]["latents"] == []


def test_nothing_is_chosen_on_test_examples():
    """Other labels and vectors there leave probes, latents and direction as they were."""
    data = texts(0, SIZES)
    x, example = (np.concatenate(part) for part in zip(*((x.numpy(), e) for x, e in data.vectors()), strict=True))
    x[~data.train[example]] *= -3
    labels = np.where(data.train, data.labels, np.roll(data.labels, 7))
    other = build(torch.from_numpy(x), example, labels, data.train, QUADRANTS)
    coder = cast(0)["trained"]
    (one, a), (two, b) = run(coder, [data]), run(coder, [other])
    assert one["scr[n=5]"] != two["scr[n=5]"]
    for key in ("direction", "epochs"):
        assert a["planted"][key] == b["planted"][key]
    for way in ("dir1", "dir2"):
        assert a["planted"][way]["latents"] == b["planted"][way]["latents"]


def test_the_biased_probe_is_biased_and_its_worse_side_is_asked():
    data = texts(0, SIZES)
    scores, details = run(cast(0)["oracle"], [data])
    found = details["planted"]
    for way in ("dir1", "dir2"):
        assert found[way]["biased"] < found[way]["unbiased"] - 0.05
    lower = min(("dir1", "dir2"), key=lambda way: found[way]["biased"])
    assert scores["scr[n=5]"].value == scores[f"scr_{lower}[n=5]"].value
    for way in ("dir1", "dir2"):
        gain = found[way]["unbiased"] - found[way]["biased"]
        want = (found[way]["n=5"] - found[way]["biased"]) / gain
        assert scores[f"scr_{way}[n=5]"].value == pytest.approx(want)
    assert found["train"] == [45, 35, 40, 50]
    assert found["classes"] == list(QUADRANTS)


def test_direction_one_is_the_first_label_without_the_second():
    """A dictionary of the second label's features alone can only serve direction 1, and the other way round."""
    for kept, good, bad in (((2, 3), "scr_dir1", "scr_dir2"), ((0, 1), "scr_dir2", "scr_dir1")):
        coder = cast(0)["oracle"].clone()
        gone = [i for i in range(coder.d_sae) if i not in kept]
        coder.W_dec[gone] = coder.W_dec[gone] * 1e-6
        coder.W_dec[list(kept)] = cast(0)["oracle"].W_dec[list(kept)]
        coder.k = 2
        scores, _ = run(coder, [texts(0, SIZES)])
        assert scores[f"{good}[n=2]"].value > 0.4
        assert scores[f"{bad}[n=2]"].value < 0.1


def test_declared_scored_deterministic_in_any_order_and_probes_once(monkeypatch):
    data = [texts(0, SIZES, name="one"), texts(1, SIZES, name="two")]
    fits = []
    real = scr.erasure.fit
    monkeypatch.setattr(scr.erasure, "fit", lambda *a: fits.append(1) or real(*a))
    one = SCR(SCRConfig(datasets="one,two", **QUICK))
    run(cast(0)["random"], data, one)
    after, _ = run(cast(0)["trained"], data, one)
    assert len(fits) == 6  # three probes a set, for both coders
    alone, _ = run(cast(0)["trained"], data)
    backwards, _ = run(cast(0)["trained"], data[::-1], SCR(SCRConfig(datasets="two,one", **QUICK)))
    assert after == alone
    assert {k: v for k, v in after.items() if "dataset" in k} == {k: v for k, v in backwards.items() if "dataset" in k}
    assert {s.metric for s in alone.values()} == set(SCR.metrics)
    assert all(s.low <= s.value <= s.high and s.n for s in alone.values())
    parts = [alone[f"scr[dataset={name},n=5]"].value for name in ("one", "two")]
    assert alone["scr[n=5]"].value == pytest.approx(np.mean(parts))


def test_too_few_texts_have_a_reason():
    few, _ = run(cast(0)["oracle"], [texts(0, (90, 12, 80, 100), name="few"), texts(0, SIZES, name="good")])
    assert few["scr[dataset=few,n=5]"].value is None
    assert "no & v has 6 training and 6 test examples" in few["scr[dataset=few,n=5]"].reason
    assert few["scr[n=5]"].value == few["scr[dataset=good,n=5]"].value  # a mean of what there is
    only, details = run(cast(0)["oracle"], [texts(0, (90, 12, 80, 100))])
    assert only["scr[n=5]"].value is None
    assert "no set" in only["scr[n=5]"].reason
    assert details["units"] == {}


def test_no_gain_is_none_with_a_reason():
    """Texts that say nothing of either label: an unbiased probe guesses as the biased one does. SAEBench scores 0."""
    data = texts(0, SIZES)
    x, example = (np.concatenate(part) for part in zip(*((x.numpy(), e) for x, e in data.vectors()), strict=True))
    silent = build(torch.ones(len(x), x.shape[1]), example, data.labels, data.train, QUADRANTS)
    scores, _ = run(cast(0)["oracle"], [silent])
    assert scores["scr_dir1[dataset=planted,n=5]"].value is None
    assert "not certainly 0.001 better" in scores["scr_dir1[dataset=planted,n=5]"].reason


def record(scores, details, name: str, config: dict) -> Record:
    made = registry  # unused by compare
    return Record(
        schema=1, key=name, coder=name, coder_hash=name, eval="scr", eval_version=1, config=config, inputs={}, about={},
        scores=list(scores.values()), details=details, made=made,  # type: ignore[arg-type]
    )  # fmt: skip


def test_two_coders_are_paired_on_test_examples():
    data = [texts(0, SIZES)]
    oracle, permuted = (record(*run(cast(0)[kind], data), kind, {}) for kind in ("oracle", "permuted"))
    kept = compare.units(oracle, "scr[n=5]")
    assert kept["units"].n == 170
    gap = compare.against(oracle, permuted, "scr[n=5]")
    assert gap.value == pytest.approx(oracle.value("scr[n=5]") - permuted.value("scr[n=5]"), abs=1e-6)
    assert gap.low > 0.3
    assert gap.p < 0.01


def test_taking_out_the_difference_of_means_needs_no_coder():
    data = [texts(0, SIZES)]
    found = [run(cast(0)[kind], data)[0]["scr_mean_difference"] for kind in ("oracle", "random")]
    assert found[0] == found[1]
    assert found[0].value > 0.6


def test_needs_and_bad_settings():
    assert SCR(SCRConfig(datasets="joint:a+b, joint:c+d", train=40)).needs() == {
        name: Labelled(name, 40, 400, 128) for name in ("joint:a+b", "joint:c+d")
    }
    with pytest.raises(BadInput, match="whole numbers"):
        SCR(SCRConfig(n="2,many"))
    with pytest.raises(BadInput, match="at least one dataset"):
        SCR(SCRConfig(datasets=" ,")).needs()
    with pytest.raises(BadInput, match=r"two labels of two classes each.*joint:A\[x/y\]"):
        run(cast(0)["oracle"], [texts(0, SIZES, TOPICS, ("a", "b", "c", "d"))])
    with pytest.raises(BadInput, match="two labels of two classes each"):
        run(cast(0)["oracle"], [texts(0, SIZES, TOPICS, ("a & x", "b & x", "c & x", "d & x"))])


def test_the_paper_preset_is_a_configuration():
    config = SCRConfig(**registry.constant(registry.EVALS.files["scr"], "PRESETS")["paper"])
    names = list(SCR(config).needs())
    assert len(names) == 8
    assert names[0] == (
        "joint:hub:LabHC/bias_in_bios::train:hard_text:profession[21/13]+hub:LabHC/bias_in_bios::train:hard_text:gender[0/1]"
    )
