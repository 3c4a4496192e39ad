"""Rates, times, and where they are shown."""

from __future__ import annotations

import io

import pytest

from assay.cli.flags import Common
from assay.cli.progress import Bars, Display, Lines, Nowhere, Rate, progress, si, span, state
from assay.train import Row


class Clock:
    """A clock that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def rated(*points: tuple[float, int]) -> float | None:
    clock = Clock()
    rate = Rate(clock)
    for clock.now, done in points:
        rate.add(done)
    return rate.per_second()


def test_rate_counts_from_the_first_report():
    assert rated((5, 1_000_000)) is None
    assert rated((5, 1_000_000), (7, 1_000_200)) == 100


def test_rate_forgets_what_is_long_ago():
    assert rated(*((t, min(t, 50) * 1000) for t in range(100))) is None  # nothing in the last half minute
    assert rated(*((t, t * 10 if t < 50 else 500 + (t - 50) * 100) for t in range(100))) == pytest.approx(100)


def test_rate_starts_anew_when_work_does():
    assert rated((0, 0), (10, 100), (11, 0), (12, 50)) == 50


def test_state():
    assert state(40_960, 300_000, "tokens", 3100) == "41k of 300k tokens · 3.1k/s · 1 min 24 s left"
    assert state(5, None, "rows", None) == "5 rows"
    assert state(10, 10, "rows", 2.0) == "10 of 10 rows · 2/s"


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (999, "999"), (1234, "1.23k"), (2.5e6, "2.5M"), (3e9, "3G")])
def test_si(value, text):
    assert si(value) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")])
def test_span(seconds, text):
    assert span(seconds) == text


def test_lines_come_every_ten_seconds_and_at_the_end(capsys):
    clock = Clock()
    lines = Lines(clock)
    for clock.now in range(26):
        lines.update("gather", int(clock.now), 25, f"at {clock.now}")
    assert capsys.readouterr().err.split("\n") == ["gather: at 10", "gather: at 20", "gather: at 25", ""]


def test_quiet_and_json_are_silent(capsys):
    for common in (Common(quiet=True), Common(json=True)):
        with progress("x", common) as display:
            assert isinstance(display.screen, Nowhere)
            display(1, 1, "tokens")
            display.stage("title")(1, 1, "tokens")
    assert capsys.readouterr().err == ""


def test_training_rows_are_heard(capsys):
    display = Display("train", Lines())
    display.total = 100
    display.listen(Row(0, 50, "a", {"fvu": 0.5}))
    display.listen(Row(0, 100, "b", {"fvu": 0.25}))
    assert "100 of 100 vectors" in (said := capsys.readouterr().err)
    assert "fvu 0.250 to 0.500" in said


def test_bars_draw(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", screen := Terminal())
    with progress("gather", Common()) as display:
        assert isinstance(display.screen, Bars)
        display(5, 10, "tokens")
    assert "5 of 10 tokens" in screen.getvalue()
