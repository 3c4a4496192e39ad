"""One planted coder of each architecture, and vectors of their source."""

from __future__ import annotations

import pytest

from tests.surgery.planted import SETTINGS, SOURCE, planted


@pytest.fixture(scope="session")
def made():
    return {name: planted(name) for name in SETTINGS}


@pytest.fixture(scope="session")
def x():
    return SOURCE.codes(8192, 1)[0]


@pytest.fixture(scope="session")
def fresh():
    return SOURCE.codes(32_768, 2)[0]
