"""Progress: a bar with rate and time left on a terminal, a line every ten seconds elsewhere, nothing with --quiet or --json."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from assay.cli.flags import Common
from assay.progress import Progress

if TYPE_CHECKING:
    from assay.train import Row

LINE_SECONDS = 10.0
WINDOW_SECONDS = 30.0
Clock = Callable[[], float]


class Rate:
    """Speed over the last half minute. What a resumed job has behind it at the first report does not count."""

    def __init__(self, clock: Clock = time.monotonic):
        self.clock = clock
        self.seen: deque[tuple[float, int]] = deque()

    def add(self, done: int) -> None:
        now = self.clock()
        if self.seen and done < self.seen[-1][1]:  # something new has begun
            self.seen.clear()
        self.seen.append((now, done))
        while len(self.seen) > 2 and now - self.seen[0][0] > WINDOW_SECONDS:
            self.seen.popleft()

    def per_second(self) -> float | None:
        """None until two reports lie apart."""
        if len(self.seen) < 2:
            return None
        (then, before), (now, after) = self.seen[0], self.seen[-1]
        return (after - before) / (now - then) if now > then and after > before else None


def state(done: int, total: int | None, unit: str, rate: float | None) -> str:
    """`40.96k of 300k tokens · 3.10k/s · 1 min 24 s left`."""
    parts = [f"{si(done)} of {si(total)} {unit}" if total is not None else f"{si(done)} {unit}"]
    if rate:
        parts.append(f"{si(rate)}/s")
        if total is not None and total > done:
            parts.append(f"{span((total - done) / rate)} left")
    return " · ".join(parts)


def si(value: float) -> str:
    """Three figures and k, M, G."""
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g}{suffix}"
    return f"{value:.3g}"


def span(seconds: float) -> str:
    """`45 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class Screen(Protocol):
    """Where reports go."""

    def update(self, task: str, done: int, total: int | None, text: str) -> None: ...
    def say(self, title: str) -> None: ...
    def close(self) -> None: ...


class Nowhere:
    """--quiet, --json."""

    def update(self, task: str, done: int, total: int | None, text: str) -> None:
        return

    def say(self, title: str) -> None:
        return

    def close(self) -> None:
        return


class Lines:
    """A log: one line every ten seconds, and one when a task is done."""

    def __init__(self, clock: Clock = time.monotonic):
        self.clock, self.last, self.said = clock, clock(), ""

    def update(self, task: str, done: int, total: int | None, text: str) -> None:
        due = self.clock() - self.last >= LINE_SECONDS or (total is not None and done >= total)
        if due and text != self.said:
            print(f"{task}: {text}", file=sys.stderr, flush=True)
            self.last, self.said = self.clock(), text

    def say(self, title: str) -> None:
        print(title, file=sys.stderr, flush=True)

    def close(self) -> None:
        return


class Bars:
    """A terminal: one bar a task."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TaskID, TextColumn
        from rich.progress import Progress as Rich

        columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[text]}"))
        self.rich = Rich(*columns, console=Console(stderr=True), refresh_per_second=4)
        self.tasks: dict[str, TaskID] = {}
        self.rich.start()

    def update(self, task: str, done: int, total: int | None, text: str) -> None:
        if task not in self.tasks:
            self.tasks[task] = self.rich.add_task(task, total=total, text=text)
        self.rich.update(self.tasks[task], completed=done, total=total, text=text)

    def say(self, title: str) -> None:
        self.update(title, 0, None, "")

    def close(self) -> None:
        self.rich.stop()


class Display:
    """What long library calls are given: the display itself is a `Progress`, `display.listen` takes training rows.

    `total`: vectors that training will take, where that is known.
    """

    def __init__(self, what: str, screen: Screen):
        self.what, self.screen = what, screen
        self.total: int | None = None
        self.rates: dict[str, Rate] = {}
        self.fvu: dict[str, float] = {}

    def __call__(self, done: int, total: int | None, unit: str) -> None:
        self.report(self.what if unit == "tokens" else f"{self.what} ({unit})", done, total, unit)

    def stage(self, title: str) -> Progress:
        """Start of a part of the work: its own bar from here on."""
        self.screen.say(title)
        return lambda done, total, unit: self.report(title, done, total, unit)

    def report(self, task: str, done: int, total: int | None, unit: str, more: str = "") -> None:
        rate = self.rates.setdefault(f"{task} {unit}", Rate())
        rate.add(done)
        text = state(done, total, unit, rate.per_second())
        self.screen.update(task, done, total, f"{text} · {more}" if more else text)

    def listen(self, row: Row) -> None:
        """Hears the rows of training: says how far it is, and the unexplained variance of the best and the worst coder."""
        if row.stopped:
            self.fvu.pop(row.coder, None)
            self.screen.say(row.stopped)
            return
        self.fvu[row.coder] = row.metrics["fvu"]
        best, worst = min(self.fvu.values()), max(self.fvu.values())
        more = f"fvu {best:.3f}" if best == worst else f"fvu {best:.3f} to {worst:.3f}"
        self.report(self.what, row.tokens, self.total, "vectors", more)


@contextmanager
def progress(what: str, common: Common) -> Iterator[Display]:
    """`with progress("gather", common) as display: library_call(…, progress=display)`."""
    screen: Screen = Nowhere() if common.silent else Bars() if sys.stderr.isatty() else Lines()
    if isinstance(screen, Bars):
        screen.say(what)  # something to see while models load
    try:
        yield Display(what, screen)
    finally:
        screen.close()
