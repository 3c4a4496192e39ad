"""evaluate: the regimes of probing end to end, last tokens alone, rows as published."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from assay.corpora.base import Document
from assay.errors import BadInput
from assay.evals.needs import Labelled
from assay.evals.probing import Probing, ProbingConfig
from assay.evaluate import evaluate
from assay.inputs.base import Bench
from assay.inputs.labelled import LabelledSupply, first_rows
from tests.evaluate.tiny import SITE, Counted, scored


@dataclass(frozen=True)
class Letters:
    """Class 0 texts end in many a, class 1 in many b; two texts occur again, with both labels, where `copies`."""

    name: str = "letters"
    fingerprint: str = "00000000000000aa"
    classes: tuple[str, ...] = ("a", "b")
    letters: str = "cdefgh"
    copies: bool = False

    def documents(self):
        rng = np.random.default_rng(0)
        n = 6 + np.arange(160) % 3
        texts = [("".join(rng.choice(list(self.letters), size=n[i])) + "ab"[i % 2] * 4, i % 2) for i in range(160)]
        for text, label in [*texts, *texts[:2], (texts[1][0], 0), (texts[0][0], 1)] if self.copies else texts:
            yield Document(text, label)

    def published(self):
        return Letters(copies=True, fingerprint="00000000000000ab")


OTHER = Letters(name="other", fingerprint="00000000000000ac", letters="mnopqr")
CORPORA = {"letters": Letters(), "other": OTHER}
SMALL = {
    "datasets": "letters",
    "shift": "letters=other",
    "train": 80,
    "test": 60,
    "context": 13,
    "k": "8",
    "strengths": 2,
    "methods": "logreg",
}


def make(**config) -> Probing:
    return Probing(ProbingConfig(**(SMALL | {"sizes": "8", "ratios": "0.2", "rates": "0.2"} | config)))


def test_all_regimes_end_to_end(model, some, store):
    two = {k: some[k] for k in ("identity", "topk")}
    records = evaluate(two, [make()], model=model, site=SITE, store=store, labelled=CORPORA)
    for record in records:
        regimes = {s.where["regime"] for s in record.scores}
        assert regimes == {"standard", "scarcity", "imbalance", "noise", "shift", "tokens"}
        assert record.value("auc[regime=standard,method=logreg]") > 0.95
        assert set(record.inputs) >= {"letters", "shift:other"}
        assert record.scores[0].metric == "gain"
        documents = [row["document"] for row in record.details["letters"]["doubtful"]]
        assert all(0 <= d < 160 for d in documents)
    alone = evaluate(
        {"topk": two["topk"]}, [make()], model=model, site=SITE, store=store, labelled=CORPORA.__getitem__, again="always"
    )
    assert scored(alone) == scored(records[1:])


def test_last_tokens_alone_are_those_of_the_whole(model, store):
    bench = Bench(store, given_model=model, given_site=SITE, labelled=CORPORA)
    found = {}
    for last in (False, True):
        supply = LabelledSupply(Labelled("letters", 20, 20, 13, last=last), bench)
        supply.gather({})
        found[last] = supply.given("any")
    assert sum(len(e) for _, e in found[True].vectors()) == 40 < sum(len(e) for _, e in found[False].vectors())
    assert np.allclose(found[True].last, found[False].last, atol=1e-6)
    assert found[True].documents == found[False].documents
    texts = [d.text for d in Letters().documents()]
    ends = [texts[i][-1] for i in found[True].documents or ()]
    assert ends == ["ab"[label] for label in found[True].labels]


def test_the_model_runs_once_for_all_coders(model, some, store):
    counted = Counted(model)
    one = make(regimes="standard,noise,tokens")
    evaluate({"a": some["topk"]}, [one], model=counted, site=SITE, store=store, labelled=CORPORA)
    runs = counted.full + counted.stopped
    evaluate({"b": some["random"], "a": some["topk"]}, [one], model=counted, site=SITE, store=store, labelled=CORPORA)
    assert counted.full + counted.stopped == runs > 0


def test_original_rows_with_their_copies(model, store):
    bench = Bench(store, given_model=model, given_site=SITE, labelled=CORPORA)
    supply = LabelledSupply(Labelled("letters", 100, 100, 13, split="original", last=True), bench)
    assert supply.fingerprint("any") != LabelledSupply(Labelled("letters", 100, 100, 13), bench).fingerprint("any")
    supply.gather({})
    data = supply.given("any")
    assert len(data.labels) == 164
    assert data.labels.tolist() == [d.label for d in Letters(copies=True).documents()]
    assert data.documents == list(range(164))
    assert data.train.sum() == 82
    chosen = first_rows(Letters(copies=True), 20, 10)
    assert [d.text for d in chosen.documents()] == [d.text for d in Letters().documents()][:30]
    assert first_rows(Letters(copies=True), 100, 100).conflicts == 6

    class Plain(Letters):
        def documents(self):
            return (Document(d.text, 0) for d in super().documents())

    with pytest.raises(BadInput, match="1 class"):
        first_rows(Plain(), 10, 10)


def test_original_split_end_to_end(model, some, store):
    """Row by row as sae-probes draws them: training rows whose copies are in the test, which the grouped split cannot have."""
    one = make(split="original", regimes="standard", shift="", train=100, test=100, seed=42)
    with torch.no_grad():
        record = evaluate({"topk": some["topk"]}, [one], model=model, site=SITE, store=store, labelled=CORPORA)[0]
    trial = one._sheets["letters"].trials[0]
    assert (len(trial.train), len(trial.test)) == (64, 99)
    assert record.value("auc[regime=standard,method=logreg]") > 0.95
