"""Places in a text: the same as a scan by hand finds, and what examples say there and no more."""

from __future__ import annotations

import numpy as np
import pytest

from assay.corpora.pack import Tokens
from assay.errors import BadInput
from assay.features import search
from assay.features.reader import Example
from assay.models.pieces import Pieces, named
from assay.randomness import numpy_generator


def text(rows: int = 20, context: int = 11) -> Tokens:
    """Rows of few different tokens; some of them do not count, and documents end within rows."""
    r = numpy_generator("test search")
    mask = r.uniform(size=(rows, context)) < 0.9
    return Tokens.from_arrays(
        r.integers(0, 4, (rows, context)), mask, np.cumsum(r.uniform(size=(rows, context)) < 0.1).reshape(rows, context)
    )


@pytest.mark.parametrize("wanted", [[[1]], [[1], [3]], [[1, 2]], [[1, 2, 1], [1, 2], [2]], [[0], [0, 0], [0, 0, 0]], [[9]], []])
def test_every_place_and_no_other(wanted):
    these, expected = text(), []
    for row in range(20):
        for column in range(11):
            fits = [
                len(s)
                for s in wanted
                if these.tokens[row, column : column + len(s)].tolist() == s
                and these.mask[row, column : column + len(s)].all()
                and len(set(these.document[row, column : column + len(s)].tolist())) == 1
            ]
            if fits:
                expected.append((row * 11 + column, max(fits)))
    assert list(zip(*(x.tolist() for x in search.find(these, wanted)), strict=True)) == expected
    assert expected or wanted in ([], [[9]])


def test_a_place_whose_longest_reading_ends_on_a_special_token_keeps_the_shorter():
    these = Tokens.from_arrays(np.array([[1, 2, 1, 2]]), np.array([[True, False, True, True]]))
    at, sizes = search.find(these, [[1], [1, 2]])
    assert at.tolist() == [0, 2] and sizes.tolist() == [1, 2]


def test_windows_stay_in_row_and_document():
    these = Tokens.from_arrays(np.zeros((2, 6)), document=np.array([[0, 0, 0, 1, 1, 1], [1, 1, 2, 2, 2, 2]]))
    assert search.around(these, 1, 9, 9) == (0, 3)
    assert search.around(these, 4, 9, 9) == (3, 6)
    assert search.around(these, 7, 9, 9) == (6, 8)
    assert search.around(these, 10, 1, 1) == (9, 12)


def example(start: int, values: list[float]) -> Example:
    at = np.flatnonzero(values).astype(np.uint8)
    return Example(
        latent=0, group="top", interval=None, position=start, start=start, stop=start + len(values), at=at,
        values=np.asarray(values, np.float32)[at], weight=None,
    )  # fmt: skip


def test_examples_tell_what_is_inside_their_windows():
    mine = [example(2, [0, 5, 0]), example(8, [1, 0])]
    assert np.array_equal(search.known(mine, 0, 10), [*[np.nan] * 2, 0, 5, 0, *[np.nan] * 3, 1, 0], equal_nan=True)
    at, sizes = np.array([1, 3, 4, 8, 9]), np.array([2, 1, 2, 2, 1])
    assert np.array_equal(search.told(mine, at, sizes), [np.nan, 5, np.nan, 1, 0], equal_nan=True)
    assert np.isnan(search.known([], 0, 3)).all()


def test_phrases_and_patterns():
    pieces = named("tiny")
    assert ["".join(pieces.row(ids)) for ids in search.phrases(pieces, "the")] == ["the", " the"]
    assert search.phrases(pieces, " the") == [pieces.encode(" the"), pieces.encode("  the")]
    found = ["".join(pieces.row(ids)) for ids in search.tokens_like(pieces, r"^ th[ae]")]
    assert " the" in found and " that" in found and all(t.startswith((" tha", " the")) for t in found)
    assert search.tokens_like(pieces, "no such thing") == [] and search.phrases(Pieces(), "a") == []
    for wrong in ("(", "(?=x)", "\ud800"):
        with pytest.raises(BadInput, match="no regular expression"):
            search.tokens_like(pieces, wrong)
    assert search.tokens_like(pieces, "(a+)+$") is not None  # in linear time
