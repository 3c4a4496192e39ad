"""evaluate: scores of coders that are known beforehand, whatever else is measured with them."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from assay import coders, passes, results
from assay.coders.base import Batch
from assay.corpora.pack import Tokens
from assay.errors import BadInput, NotFinite, WidthMismatch
from assay.evaluate import evaluate
from assay.splice import ablate, splice
from assay.store import Store
from tests.evaluate.tiny import SITE, WIDTH, Counted, core, scored, vectors


def test_perfect_coder_recovers_all_and_others_less(model, text, some, store):
    records = {r.coder: r for r in evaluate(some, ["core"], model=model, site=SITE, text=text, store=store)}
    for ablation in ("mean", "zero"):
        assert records["identity"].value(f"loss_recovered[ablation={ablation}]") == pytest.approx(1, abs=1e-4)
    assert records["identity"].value("kl") == pytest.approx(0, abs=1e-6)
    assert records["identity"].value("fvu") == pytest.approx(0, abs=1e-8)
    assert records["random"].value("loss_recovered[ablation=mean]") < 0.99
    assert records["identity"].value("ce_loss_clean") < records["identity"].value("ce_loss_ablated[ablation=mean]")
    assert records["topk"].about["architecture"] == "topk"
    assert records["random"].about["baseline"]
    assert not records["topk"].about["baseline"]


def test_coder_that_says_the_mean_recovers_nothing(model, text, store):
    """An identity coder without a gain gives its b_dec; with the mean of the measured text that is mean ablation."""
    coder = coders.new("identity", d_in=WIDTH, d_sae=2 * WIDTH)
    coder.initialise(Batch.of(vectors(model, text)))
    coder.gain.zero_()
    (record,) = evaluate({"mean": coder}, [core()], model=model, site=SITE, text=text, store=store)
    assert record.value("loss_recovered[ablation=mean]") == pytest.approx(0, abs=1e-4)
    assert record.value("fvu") == pytest.approx(1, abs=1e-5)


def test_losses_by_naive_loops(model, text, some, store):
    """Cross-entropy and KL of every pass, position by position: t counts when t and t + 1 are text of one document."""
    (record,) = evaluate({"topk": some["topk"]}, [core()], model=model, site=SITE, text=text, store=store)
    x = vectors(model, text)
    views = {"clean": model, "spliced": splice(model, {SITE: some["topk"]}), "ablated": ablate(model, SITE, x.mean(0))}
    ids, mask = torch.from_numpy(np.array(text.tokens)).long(), torch.from_numpy(np.array(text.mask))
    logp = {name: view.run(ids, mask=mask).logits.double().log_softmax(-1) for name, view in views.items()}
    ce, kl, n = dict.fromkeys(views, 0.0), 0.0, 0
    for row in range(len(text)):
        for t in range(15):
            if mask[row, t] and mask[row, t + 1] and text.document[row, t] == text.document[row, t + 1]:
                n += 1
                for name in views:
                    ce[name] -= float(logp[name][row, t, ids[row, t + 1]])
                p = logp["clean"][row, t]
                kl += float((p.exp() * (p - logp["spliced"][row, t])).sum())
    assert record.details["predicted"] == n
    assert record.value("ce_loss_clean") == pytest.approx(ce["clean"] / n, rel=1e-5)
    assert record.value("ce_loss_spliced") == pytest.approx(ce["spliced"] / n, rel=1e-5)
    assert record.value("ce_loss_ablated[ablation=mean]") == pytest.approx(ce["ablated"] / n, rel=1e-5)
    assert record.value("kl") == pytest.approx(kl / n, rel=1e-4)
    expected = (ce["ablated"] - ce["spliced"]) / (ce["ablated"] - ce["clean"])
    assert record.value("loss_recovered[ablation=mean]") == pytest.approx(expected, rel=1e-4)


def test_small_pieces_give_the_same(model, text, some, store, tmp_path, monkeypatch):
    """Splitting vocabulary and batches for memory changes rounding at most."""
    (whole,) = evaluate({"topk": some["topk"]}, [core()], model=model, site=SITE, text=text, store=store)
    monkeypatch.setattr(passes.reference, "SOFTMAX_ENTRIES", 61 * 3)
    monkeypatch.setattr(passes.text, "LOGITS_BYTES", 16 * 61 * 4 * 2)
    (parts,) = evaluate({"topk": some["topk"]}, [core()], model=model, site=SITE, text=text, store=type(store)(tmp_path / "b"))
    for a, b in zip(whole.scores, parts.scores, strict=True):
        assert a.value == pytest.approx(b.value, rel=1e-4, abs=1e-6), a.spec


def test_scores_do_not_depend_on_company(model, text, some, store, tmp_path):
    together = evaluate(some, [core()], model=model, site=SITE, text=text, store=store)
    for record in together:
        other = type(store)(tmp_path / record.coder)
        alone = evaluate({record.coder: some[record.coder]}, [core()], model=model, site=SITE, text=text, store=other)
        assert scored(alone) == scored([record])


def test_other_needs_do_not_change_scores(model, text, some, store, tmp_path):
    """Two evals with needs of different size share passes, but each sees its own text and mean."""
    one = {"topk": some["topk"]}
    small, large = evaluate(one, [core(100), core()], model=model, site=SITE, text=text, store=store)
    assert small.details["tokens"] < large.details["tokens"]
    for tokens, record in ((100, small), (10_000, large)):
        other = type(store)(tmp_path / str(tokens))
        assert scored(evaluate(one, [core(tokens)], model=model, site=SITE, text=text, store=other)) == scored([record])


def test_other_text_is_another_record(model, text, some, store):
    one = {"topk": some["topk"]}
    (first,) = evaluate(one, [core()], model=model, site=SITE, text=text, store=store)
    half = Tokens.from_arrays(text.tokens[:20], text.mask[:20], text.document[:20])
    (second,) = evaluate(one, [core()], model=model, site=SITE, text=half, store=store)
    assert first.key != second.key
    assert first.setting != second.setting
    assert len(results.load(store, "core")) == 2


def test_bad_input(model, text, some, store):
    narrow = {"narrow": coders.new("topk", d_in=12, d_sae=24, k=3)}
    with pytest.raises(WidthMismatch, match="width 16"):
        evaluate(narrow, [core()], model=model, site=SITE, text=text, store=store)
    with pytest.raises(BadInput, match="held-out text"):
        evaluate(some, [core()], model=model, site=SITE, store=store)
    nothing = Tokens.from_arrays(text.tokens, np.zeros_like(text.mask))
    with pytest.raises(BadInput, match="no tokens"):
        evaluate(some, [core()], model=model, site=SITE, text=nothing, store=store)
    with pytest.raises(BadInput, match="labelled corpus"):
        evaluate(some, ["sparse_probing"], model=model, site=SITE, store=store)
    assert not (store.root / "passes").exists()


def test_nan_says_where(model, text, some, store):
    class Poisoned(Counted):
        def run(self, tokens, read=(), **rest):
            out = self._model.run(tokens, read, **rest)
            for x in out.read.values():
                x[0, 3, 7] = float("nan")
            return out

    with pytest.raises(NotFinite, match=re.escape(f"site {SITE}")):
        evaluate(some, [core()], model=Poisoned(model), site=SITE, text=text, store=store)


def test_rows_that_hold_nothing_but_the_constant_are_run_once(model, text, some, store, monkeypatch):
    """Without special positions an ablated row does not depend on its tokens; beside rows with BOS each gets its own logits."""
    bare = np.random.default_rng(0).integers(3, 29, size=(24, 16))
    mixed = np.concatenate([bare, np.asarray(text.tokens)])
    mask = np.concatenate([np.ones_like(bare, dtype=bool), np.asarray(text.mask)])
    for rows in (Tokens.from_arrays(bare), Tokens.from_arrays(mixed, mask)):
        (short,) = evaluate({"topk": some["topk"]}, [core()], model=model, site=SITE, text=rows, store=store, again="always")
        with monkeypatch.context() as patch:
            patch.setattr(passes.Text, "_logits", lambda self, view, *given: passes.text._run(view, *given))
            patch.setattr(passes.text, "VERSION", passes.VERSION + 1)  # nothing of the passes above is taken
            (long,) = evaluate({"topk": some["topk"]}, [core()], model=model, site=SITE, text=rows, store=store, again="always")
        for a, b in zip(short.scores, long.scores, strict=True):
            assert a.value == pytest.approx(b.value, rel=1e-5, abs=1e-6), a.spec
    counted = Counted(model)
    evaluate(
        {"topk": some["topk"]},
        [core()],
        model=counted,
        site=SITE,
        text=Tokens.from_arrays(bare),
        store=Store(store.root / "new"),
    )
    assert counted.full == 2 * 2 + 2 * 2, "two chunks, clean and spliced; two rows of each ablation"
