"""Numbers as people write them."""

from __future__ import annotations

import pytest

from assay.cli.flags import count, short, width
from assay.errors import BadInput


@pytest.mark.parametrize(
    ("text", "value"),
    [("4096", 4096), ("500k", 500_000), ("1.5M", 1_500_000), ("2B", 2_000_000_000), ("1e9", 10**9), ("1e+3", 1000), ("300_000", 300_000),
     ("300,000", 300_000), ("1T", 10**12), ("0", 0)],
)  # fmt: skip
def test_counts(text, value):
    assert count(text) == value


@pytest.mark.parametrize(("text", "value"), [("16k", 16384), ("1M", 2**20), ("4096", 4096), ("1.5k", 1536)])
def test_widths(text, value):
    assert width(text) == value


@pytest.mark.parametrize("text", ["", "k", "-1", "1.5", "ten", "1kk", "0x10", "1e-3", "nan", "inf", "1 k"])
def test_what_is_no_whole_number(text):
    with pytest.raises(BadInput, match="no whole number"):
        count(text)


@pytest.mark.parametrize("value", [0, 7, 1000, 1001, 1_000_000, 1_500_000, 2 * 10**9])
def test_short_reads_back(value):
    assert count(short(value)) == value
    assert width(short(value * 1024, 1024)) == value * 1024
