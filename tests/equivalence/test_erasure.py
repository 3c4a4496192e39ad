"""Latents that sae-bench 0.6.0 chooses for SCR and TPP, and what probes say after its token-by-token ablation (freeze_erasure.py)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from assay import coders
from assay.evals.needs import LabelledInput
from assay.probing import erasure
from assay.probing.erasure import Erased, Probe
from tests.equivalence.freeze_erasure import LATENTS, NS, TEXTS, TOKENS, WIDTH, setting

FROZEN = json.loads((Path(__file__).parent / "frozen_erasure.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("kind", ["scr", "tpp"])
@torch.no_grad()
def test_same_latents_same_margins(kind):
    s = setting()
    coder = coders.new("relu", d_in=WIDTH, d_sae=LATENTS).eval()
    for name, value in {"W_dec": s["W_dec"], "W_enc": s["W_dec"].T, "b_enc": s["b_enc"], "b_dec": s["b_dec"]}.items():
        getattr(coder, name).copy_(torch.from_numpy(value))
    pieces = [
        (torch.from_numpy(s["x"][i : i + 8].reshape(-1, WIDTH)), np.repeat(np.arange(i, i + 8), TOKENS))
        for i in range(0, TEXTS, 8)
    ]
    data = LabelledInput(
        name="frozen", labels=s["labels"], train=np.zeros(TEXTS, dtype=bool), classes=["0", "1"], leak=0.0, conflicts=0,
        vectors=lambda: iter(pieces),
    )  # fmt: skip
    probes = [Probe(w.astype(np.float64), float(b), 1) for w, b in zip(s["weight"], s["bias"], strict=True)]
    means = erasure.class_means(coder, data, s["labels"], 2)
    if kind == "scr":
        effect = np.abs((means[0] - means[1]) * erasure.along(coder, probes[0]))
    else:
        effect = np.maximum(means[1] - means[0], 0) * erasure.along(coder, probes[1])
    order = erasure.strongest(effect, max(NS))
    erased = Erased(coder, data, {kind: order}, probes)
    for n in NS:
        want = FROZEN[kind][str(n)]
        if len(order) < n:  # theirs goes on with latents of no or negative effect
            assert set(order) <= set(want["latents"])
        else:
            assert sorted(order[:n]) == want["latents"]
            np.testing.assert_allclose(erased.margins(kind, n), want["margins"], atol=3e-5)
    assert len(order) >= NS[1]
