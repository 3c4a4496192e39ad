"""A stand-in for the hub, an empty cache, and a network that is there or not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.releases.standin import StandIn


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """The hub's cache, empty."""
    here = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(here))
    monkeypatch.delenv("ASSAY_MIRROR", raising=False)
    return here


@pytest.fixture
def hub(cache, monkeypatch) -> Iterator[StandIn]:
    """A hub that is reachable, until `offline`."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with StandIn() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


@pytest.fixture
def offline(monkeypatch):
    """Call it to lose the network."""
    return lambda: monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
