"""Tables fit, numbers stay whole, JSON is JSON."""

from __future__ import annotations

import json
import math

import pytest

from assay.cli.flags import Common
from assay.cli.output import show, table

ROWS = [
    {"coder": f"batch-topk-{i}", "L0": 32.0 + i, "loss recovered": f"0.9{i} (0.9{i} to 0.9{i + 1})", "fvu": 0.123456789 * i, "none": None,
     "about": "a sentence of words that is much too long for one line of any terminal that people use nowadays, surely"}
    for i in range(3)
]  # fmt: skip


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_lines_fit_and_numbers_are_never_broken(width):
    text = table(ROWS, width)
    assert max(map(len, text.split("\n"))) <= width
    for row in ROWS:
        assert str(row["loss recovered"]) in text
        assert f"{row['fvu']:.4g}" in text


def test_columns_that_do_not_fit_go_below_beside_the_first():
    panels = table([{"name": "a", "x": "1" * 30, "y": "2" * 30}], 40).split("\n\n")
    assert [panel.split("\n")[0].split() for panel in panels] == [["name", "x"], ["name", "y"]]


def test_without_a_terminal_there_is_no_width_and_no_art():
    text = table(ROWS, None)
    assert text.isascii() or set(text) - set(map(chr, range(128))) == {"–"}
    assert text.split("\n")[0].split()[:2] == ["coder", "L0"]


def test_empty(capsys):
    show([], Common(), empty="Nothing here.")
    assert capsys.readouterr().out == "Nothing here.\n"


def test_json_has_no_nan(capsys):
    show([{"a": math.nan, "b": [math.inf, 1.5], "c": {"d": "é"}}], Common(json=True))
    assert json.loads(capsys.readouterr().out) == [{"a": None, "b": [None, 1.5], "c": {"d": "é"}}]
