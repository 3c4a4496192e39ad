"""Every registered architecture keeps the contract. A new file in assay/coders is tested here with no test written."""

from __future__ import annotations

import pytest

from assay import coders
from assay.registry import CODERS
from assay.testing import CODER_CHECKS


@pytest.mark.parametrize("check", CODER_CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("name", CODERS.names())
def test_contract(name, check):
    check(lambda seed: coders.new(name, seed=seed, d_in=16, d_sae=32))


@pytest.mark.parametrize("name", [n for n in CODERS.names() if any(s.name == "k" for s in CODERS.settings(n))])
def test_contract_of_small_k(name):
    for check in CODER_CHECKS:
        check(lambda seed: coders.new(name, seed=seed, d_in=16, d_sae=32, k=4))


COMPOSED = {"topk": "k=4", "batch_topk": "k=4", "matryoshka": "k=4", "jumprelu": "", "relu": "", "gated": "", "p_anneal": ""}


@pytest.mark.slow
@pytest.mark.parametrize("of", COMPOSED)
@pytest.mark.parametrize("name", ["transcoder", "skip_transcoder", "crosscoder"])
def test_contract_of_what_is_composed(name, of):
    other = {"widths": (5, 11)} if name == "crosscoder" else {"d_out": 12}
    for extra in ({}, other):
        settings = {"d_in": 16, "d_sae": 32, "of": of, "settings": COMPOSED[of]} | extra
        for check in CODER_CHECKS:
            check(lambda seed, settings=settings: coders.new(name, seed=seed, **settings))
