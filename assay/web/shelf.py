"""Shelf: what the pages read, opened once and kept: the store's coders, results and features, and a live model if there is one."""

from __future__ import annotations

import threading
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, Request

from assay import results
from assay.errors import Unavailable
from assay.results import Record
from assay.store import Store, entry_hash

if TYPE_CHECKING:
    from assay.coders.base import SparseCoder
    from assay.features import Features
    from assay.models.base import Model

KEPT = 8
"""Coders, and features, that are held open at once."""


class Shelf:
    """A store as the pages read it. What has changed on disk is read again."""

    def __init__(self, store: Store, live: Model | None = None):
        self.store = store
        self.model_lock = threading.Lock()
        self._live = live
        self._records: tuple[tuple[tuple[str, int], ...], list[Record]] = ((), [])
        self._reading = threading.Lock()
        self._manifest = lru_cache(1024)(lambda name, stamp: store.manifest("coders", name))
        self._coder = lru_cache(KEPT)(self._load)
        self._features = lru_cache(KEPT)(self._open)

    @property
    def live(self) -> Model | None:
        """The live model; None where the server has none."""
        return self._live

    @property
    def model(self) -> Model:
        """The live model, or the error that says how to have one. Hold `model_lock` while it runs."""
        if self._live is None:
            raise Unavailable("No model is loaded. Start the server with one: `assay serve STORE --live MODEL`.")
        return self._live

    def coders(self) -> list[str]:
        """Names of all coders, baselines too."""
        return self.store.names("coders")

    def manifest(self, coder: str) -> dict[str, Any]:
        """A coder's manifest; `UnknownName` names the closest."""
        return self._manifest(coder, _stamp(self.store.find("coders", coder) / "manifest.json"))

    def coder(self, name: str) -> SparseCoder[Any]:
        """A coder with its weights, in eval mode, on the live model's device."""
        return self._coder(name, entry_hash(self.store.find("coders", name)))

    def features(self, coder: str) -> Features:
        """The newest harvest of a coder; `MissingFile` says how to make one."""
        from assay import features

        self.manifest(coder)
        entries = features.names(self.store, coder)
        if not entries:
            return features.open(self.store, coder)  # raises
        return self._features(coder, entries[0], _stamp(self.store.find("features", entries[0]) / "manifest.json"))

    def records(self) -> list[Record]:
        """All results."""
        files = sorted(self.store.root.glob("results/*/*.json"))
        stamp = tuple((str(path), path.stat().st_mtime_ns) for path in files)
        with self._reading:
            if stamp != self._records[0]:
                self._records = (stamp, results.load(self.store))
            return self._records[1]

    def _load(self, name: str, hash_: str) -> SparseCoder[Any]:
        import assay

        coder = assay.load(name, store=self.store.root, device=str(self._live.device) if self._live else "cpu")
        return coder.eval().requires_grad_(False)

    def _open(self, coder: str, entry: str, stamp: int) -> Features:
        from assay import features

        return features.open(self.store, coder)


def _stamp(path: Path) -> int:
    return path.stat().st_mtime_ns


def _shelf(request: Request) -> Shelf:
    return request.app.state.shelf


Shelved = Annotated[Shelf, Depends(_shelf)]
"""The parameter of a route that reads the store."""
