"""What all evaluations here are of: one model, its text, three coders."""

from __future__ import annotations

import pytest

from assay.corpora.pack import Tokens
from assay.models import HFModel
from tests.evaluate.tiny import make_coders, make_model, make_text


@pytest.fixture(scope="session")
def model() -> HFModel:
    return make_model()


@pytest.fixture(scope="session")
def text(model) -> Tokens:
    return make_text(model)


@pytest.fixture(scope="session")
def some(model, text) -> dict:
    return make_coders(model, text)
