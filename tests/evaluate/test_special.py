"""core with special positions ablated too: the losses are those of a model that gets zeros everywhere, and nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from assay.evals.core import Core, CoreConfig
from assay.evaluate import evaluate
from tests.evaluate.tiny import SITE, core


def test_zero_everywhere_by_naive_loops(model, text, some, store, tmp_path):
    one, settings = {"topk": some["topk"]}, {"model": model, "site": SITE, "text": text}
    (plain,) = evaluate(one, [core()], store=store, **settings)
    (record,) = evaluate(one, [Core(CoreConfig(tokens=10_000, special=True))], store=store, **settings)
    ids = torch.from_numpy(np.array(text.tokens)).long()
    edit = {SITE: lambda x, where: torch.zeros_like(x)}
    logp = {name: model.run(ids, edit=e).logits.double().log_softmax(-1) for name, e in (("clean", {}), ("ablated", edit))}
    ce = kl = n = 0.0
    for row in range(len(text)):
        for t in range(15):
            if text.mask[row, t] and text.mask[row, t + 1] and text.document[row, t] == text.document[row, t + 1]:
                n += 1
                ce -= float(logp["ablated"][row, t, ids[row, t + 1]])
                kl += float((logp["clean"][row, t].exp() * (logp["clean"][row, t] - logp["ablated"][row, t])).sum())
    where = "[ablation=zero_everywhere]"
    assert record.value(f"ce_loss_ablated{where}") == pytest.approx(ce / n, rel=1e-5)
    assert record.value(f"kl_ablated{where}") == pytest.approx(kl / n, rel=1e-4)
    assert record.value(f"ce_loss_ablated{where}") == pytest.approx(np.log(61), rel=1e-5), (
        "no bias: zeros stay zeros, and all tokens are alike"
    )
    recovered = (ce / n - record.value("ce_loss_spliced")) / (ce / n - record.value("ce_loss_clean"))
    assert record.value(f"loss_recovered{where}") == pytest.approx(recovered, rel=1e-4)
    assert record.value(f"ce_loss_ablated{where}") != pytest.approx(record.value("ce_loss_ablated[ablation=zero]"), rel=1e-3)
    assert plain.score(f"loss_recovered{where}") is None
    assert {s.spec: s for s in plain.scores}.items() <= {s.spec: s for s in record.scores}.items()
