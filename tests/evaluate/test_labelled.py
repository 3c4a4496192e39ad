"""evaluate: labelled corpora, chosen in balance, and probing on them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from assay.corpora.base import Document
from assay.errors import BadInput
from assay.evals.sparse_probing import SparseProbing, SparseProbingConfig
from assay.evaluate import evaluate
from assay.inputs.labelled import choose
from tests.evaluate.tiny import SITE, scored


@dataclass(frozen=True)
class Letters:
    """Class 0 texts have many a, class 1 many b; the first text occurs again, and one text has both labels."""

    name: str = "letters"
    fingerprint: str = "00000000000000aa"
    classes: tuple[str, ...] = ("a", "b")

    def documents(self):
        rng = np.random.default_rng(0)
        texts = [("ab"[i % 2] * 6 + "".join(rng.choice(list("cdefgh"), size=6)), i % 2) for i in range(160)]
        for text, label in [*texts, texts[0], (texts[1][0], 0)]:
            yield Document(text, label)


def test_choose_splits_unique_texts_in_balance():
    chosen = choose(Letters(), 60, 40)
    texts = [d.text for d in chosen.documents()]
    assert len(texts) == len(set(texts)) == 100
    assert chosen.train.sum() == 60
    for side in (chosen.train, ~chosen.train):
        assert chosen.labels[side].mean() == 0.5
    assert [d.label for d in chosen.documents()] == chosen.labels.tolist()
    assert chosen.leak == pytest.approx(2 / 162)
    assert chosen.conflicts == 2
    again = choose(Letters(), 60, 40)
    assert (again.numbers == chosen.numbers).all()
    assert (again.train == chosen.train).all()
    assert choose(Letters(), 60, 38).fingerprint != chosen.fingerprint


def test_choose_takes_less_of_too_little():
    chosen = choose(Letters(), 1000, 1000)
    assert chosen.train.sum() == pytest.approx((~chosen.train).sum(), abs=2)
    assert 150 <= len(chosen.numbers) <= 160


def test_choose_refuses_unlabelled_and_single_class():
    class Plain(Letters):
        def documents(self):
            return (Document(d.text) for d in super().documents())

    class Single(Letters):
        def documents(self):
            return (Document(d.text, 0) for d in super().documents())

    with pytest.raises(BadInput, match="no label"):
        choose(Plain(), 10, 10)
    with pytest.raises(BadInput, match="1 class"):
        choose(Single(), 10, 10)


def test_probing_end_to_end(model, some, store):
    probing = SparseProbing(SparseProbingConfig(datasets="letters", train=60, test=60, context=13, k="1,2"))
    two = {k: some[k] for k in ("identity", "topk")}
    records = evaluate(two, [probing], model=model, site=SITE, store=store, labelled={"letters": Letters()})
    for record in records:
        assert record.value("accuracy[k=all,on=activations]") > 0.95
        assert record.inputs["letters"] == Letters().fingerprint
    assert records[0].value("accuracy[k=all,on=latents]") > 0.95
    one = evaluate(
        {"topk": two["topk"]}, [probing], model=model, site=SITE, store=store, labelled=lambda name: Letters(), again="always"
    )
    assert scored(one) == scored(records[1:])
