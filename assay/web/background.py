"""background: work that takes longer than a page waits for. It is asked for again and again until it is there; unasked, it stops."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from assay.errors import AssayError
from assay.progress import Progress

KEPT = 8
"""Results that are held."""
PATIENCE = 15.0
"""Seconds after which work that nobody asks for any more is given up."""


@dataclass
class Job:
    """One piece of work, and how far it is."""

    asked: float
    done: int = 0
    total: int | None = None
    unit: str = ""
    ended: threading.Event = field(default_factory=threading.Event)
    result: Any = None
    error: BaseException | None = None


class _GivenUp(Exception):
    """Nobody waits for this any more."""


class Background:
    """Runs one piece of work at a time, each in a thread of its own, and keeps the last results."""

    def __init__(self, kept: int = KEPT, patience: float = PATIENCE):
        self.kept, self.patience = kept, patience
        self._jobs: OrderedDict[Hashable, Job] = OrderedDict()
        self._lock, self._turn = threading.Lock(), threading.Lock()

    def ask(self, key: Hashable, work: Callable[[Progress], Any], wait: float = 0.0) -> Job:
        """The job of this key, begun now if it was not before; returns when it has ended, or after `wait` seconds.

        `work(progress)` must call `progress` often: that is where it stops when nobody asks any more. Its error is raised to all who ask.
        """
        with self._lock:
            job = self._jobs.get(key)
            if job is None:
                job = self._jobs[key] = Job(time.monotonic())
                threading.Thread(target=self._run, args=(key, job, work), daemon=True).start()
            job.asked = time.monotonic() + wait
            self._jobs.move_to_end(key)
            for old in [k for k, j in self._jobs.items() if j.ended.is_set()][: max(0, len(self._jobs) - self.kept)]:
                del self._jobs[old]
        job.ended.wait(wait)
        if job.error is not None:
            raise job.error
        return job

    def _run(self, key: Hashable, job: Job, work: Callable[[Progress], Any]) -> None:
        def progress(done: int, total: int | None, unit: str) -> None:
            if time.monotonic() - job.asked > self.patience:
                raise _GivenUp
            job.done, job.total, job.unit = done, total, unit

        try:
            with self._turn:
                progress(0, None, "")
                job.result = work(progress)
        except (AssayError, MemoryError) as error:
            job.error = error
            self._forget(key, job)
        except _GivenUp:
            self._forget(key, job)
        finally:
            job.ended.set()

    def _forget(self, key: Hashable, job: Job) -> None:
        with self._lock:
            if self._jobs.get(key) is job:
                del self._jobs[key]
