"""turns: long uses of the live model, one after the other, in the order in which they were asked for."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from assay.errors import Busy

MOST = 8
"""That wait at once."""


class Turns:
    """A queue. Whoever gives up waiting leaves it."""

    def __init__(self) -> None:
        self._queue: deque[object] = deque()
        self._moved = threading.Condition()

    def __len__(self) -> int:
        """How many have a turn or wait for one."""
        return len(self._queue)

    @contextmanager
    def one(self, patience: float = 0.5) -> Iterator[Iterator[int]]:
        """A place in the queue until the block is left. Iterate over what is given to wait: how many are ahead, every `patience`
        seconds and whenever it changes; it ends when the turn has come. `Busy` at once where too many wait."""
        me = object()
        with self._moved:
            if len(self._queue) > MOST:
                raise Busy(f"{MOST} others wait for the live model. Try again when they are done.")
            self._queue.append(me)
        try:
            yield self._ahead(me, patience)
        finally:
            with self._moved:
                self._queue.remove(me)
                self._moved.notify_all()

    def _ahead(self, me: object, patience: float) -> Iterator[int]:
        while ahead := self._queue.index(me):
            yield ahead
            with self._moved:
                self._moved.wait_for(lambda: self._queue.index(me) < ahead, patience)
