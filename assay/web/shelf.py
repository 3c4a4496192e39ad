"""Shelf: what the pages read, opened once and kept: the store's coders, results and features, and a live model if there is one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from fastapi import Depends, Request

from assay import results
from assay.errors import Busy, Unavailable
from assay.results import Record
from assay.store import Store, entry_hash

if TYPE_CHECKING:
    from assay.coders.base import SparseCoder
    from assay.features import Features
    from assay.models.base import Model
    from assay.models.pieces import Pieces

T = TypeVar("T")
KEPT = 8
"""Coders, and features, that are held open at once."""
READINGS = 8
"""Texts that are read, or wait to be, at once: each holds one of the server's threads, and pages need some too."""


class Shelf:
    """A store as the pages read it. What has changed on disk is read again."""

    def __init__(self, store: Store, live: Model | None = None):
        self.store = store
        self.model_lock = threading.Lock()
        self._readings = threading.BoundedSemaphore(READINGS)
        self._live = live
        self._records: dict[Path, tuple[int, Record]] = {}
        self._kept: dict[str, tuple[Any, Any]] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._manifest = lru_cache(1024)(lambda name, stamp: store.manifest("coders", name))
        self._coder = lru_cache(KEPT)(self._load)
        self._features = lru_cache(KEPT)(self._open)
        self._pieces = lru_cache(KEPT)(self._spell)

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

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Leave to read a text with the live model; `Busy` where too many do."""
        if not self._readings.acquire(blocking=False):
            raise Busy(f"{READINGS} texts are being read. Try again in a moment.")
        try:
            yield
        finally:
            self._readings.release()

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
        made = self.store.find("coders", coder), self.store.find("features", entries[0])
        return self._features(coder, *(_stamp(path / "manifest.json") for path in made))

    def pieces(self, coder: str) -> Pieces:
        """Strings of the tokens of a coder's model; ids where its tokenizer is not on this machine. No weights are loaded."""
        model = self.manifest(coder)["about"].get("model") or {}
        return self._pieces(str(model.get("name") if isinstance(model, dict) else model))

    def records(self) -> list[Record]:
        """All results; the same list while none has changed."""
        homes = [self.store.path("results", name) for name in self.store.names("results")]
        stamps = {path: _stamp(path) for home in homes for path in sorted(home.glob("[!.]*.json"))}
        return self.kept("records", stamps, lambda: self._read(stamps))

    def stamps(self) -> tuple[tuple[str, int], ...]:
        """All coders, and when each was made: for `kept`."""
        each = [(name, _stamp(self.store.path("coders", name) / "manifest.json")) for name in self.coders()]
        return tuple((name, stamp) for name, stamp in each if stamp)

    def kept(self, name: str, stamp: Any, make: Callable[[], T]) -> T:
        """What `make` gave when the stamp was this one; else it is made again, once for all who ask."""
        with self._locks.setdefault(name, threading.Lock()):
            if name not in self._kept or self._kept[name][0] != stamp:
                self._kept[name] = stamp, make()
            return self._kept[name][1]

    def _read(self, stamps: dict[Path, int]) -> list[Record]:
        """Records of files; those that were read before are not read again."""
        before, self._records = self._records, {}
        for path, stamp in stamps.items():
            old = before.get(path)
            record = old[1] if old is not None and old[0] == stamp else results.find(self.store, path.parent.name, path.stem)
            if record is not None:
                self._records[path] = stamp, record
        return sorted((r for _, r in self._records.values()), key=lambda r: (r.eval, r.coder, r.key))

    def _load(self, name: str, hash_: str) -> SparseCoder[Any]:
        import assay

        coder = assay.load(name, store=self.store.root, device=str(self._live.device) if self._live else "cpu")
        return coder.eval().requires_grad_(False)

    def _open(self, coder: str, *stamps: int) -> Features:
        from assay import features

        return features.open(self.store, coder)

    def _spell(self, model: str) -> Pieces:
        from assay.models import pieces

        if self._live is not None and self._live.name == model:
            return pieces.Pieces(self._live.tokenizer)
        return pieces.named(model)


def _stamp(path: Path) -> int:
    """When a file was written last; 0 of one that is not there (any more)."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _shelf(request: Request) -> Shelf:
    return request.app.state.shelf


Shelved = Annotated[Shelf, Depends(_shelf)]
"""The parameter of a route that reads the store."""
