"""Reading ahead: the next block of vectors is made in a thread while the one at hand is used."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Generic, TypeVar

import torch

from assay.shapes import Tensor

Job = TypeVar("Job")
Tell = Callable[[int], None]
"""Called now and then by work under way, with how much more is done. Where it raises, the work is no longer wanted."""


def quiet(more: int) -> None:
    """Tells nobody."""


class _NotWanted(BaseException):
    """Ends work in a thread whose result nobody waits for."""


def ahead(
    jobs: Iterable[Job], make: Callable[[Job, Tell], Sequence[Tensor]], on: torch.device | None
) -> Generator[tuple[Job, Sequence[Tensor]], None, None]:
    """Each job and what `make` gives for it, in order, one job ahead: two results exist at a time. `on` is the device that `make` works
    on; with None nothing is ahead, and there is one result and no thread.

    What `make` raises surfaces here when its turn comes. When the iterator is closed, by an exception of its reader or by Ctrl-C too,
    the thread ends as soon as `make` tells how far it is. On a GPU the thread works in a stream of its own.
    """
    if on is None:
        for job in jobs:
            yield job, make(job, quiet)
        return
    unwanted, stream = threading.Event(), None
    if on.type == "cuda":
        stream = torch.cuda.Stream(on)
        stream.wait_stream(torch.cuda.current_stream(on))
    works = (_Work(job, make, unwanted, stream) for job in jobs)
    under_way = next(works, None)
    try:
        while under_way is not None:
            job, made = under_way.job, under_way.result()
            under_way = next(works, None)
            yield job, made
            del made  # before the one after the next is begun
    finally:
        unwanted.set()
        if under_way is not None:
            under_way.join()


class _Work(threading.Thread, Generic[Job]):
    """One job, under way from the start."""

    def __init__(
        self,
        job: Job,
        make: Callable[[Job, Tell], Sequence[Tensor]],
        unwanted: threading.Event,
        stream: torch.cuda.Stream | None,
    ):
        super().__init__(name="assay reads ahead")
        self.job, self._make, self._unwanted, self._stream = job, make, unwanted, stream
        self._made: Sequence[Tensor] = ()
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            with torch.cuda.stream(self._stream):  # None: nothing
                self._made = self._make(self.job, self._tell)
            if self._stream is not None:
                self._stream.synchronize()
        except _NotWanted:
            pass
        except BaseException as error:  # raised again by `result`
            self._error = error

    def _tell(self, more: int) -> None:
        if self._unwanted.is_set() or not threading.main_thread().is_alive():
            raise _NotWanted

    def result(self) -> Sequence[Tensor]:
        """What was made, once: it is not kept."""
        self.join()
        if self._error is not None:
            raise self._error
        made, self._made = self._made, ()
        for x in made:
            if x.is_cuda:  # its memory goes back to the thread's stream only when the reader's work on it is done
                x.record_stream(torch.cuda.current_stream(x.device))
        return made
