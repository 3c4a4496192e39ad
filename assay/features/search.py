"""Search: where a phrase, or a kind of token, stands in the text of a harvest; and what a harvest knows of one latent there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from assay.corpora.pack import Tokens
from assay.errors import BadInput
from assay.features.reader import Example
from assay.models.pieces import Pieces


def phrases(pieces: Pieces, text: str) -> list[list[int]]:
    """How a phrase may be tokenised: as it is, and as it would follow a space."""
    return [list(ids) for ids in dict.fromkeys(tuple(pieces.encode(start + text)) for start in ("", " ")) if ids]


def tokens_like(pieces: Pieces, pattern: str) -> list[list[int]]:
    """Single tokens whose text a regular expression (RE2's) matches somewhere. RE2 takes no more than linear time."""
    try:
        hit = pc.match_substring_regex(pa.array(pieces.all, pa.string()), pattern)  # pyright: ignore[reportAttributeAccessIssue]
    except (pa.ArrowInvalid, UnicodeEncodeError) as error:
        raise BadInput(f"{pattern!r} is no regular expression ({str(error).splitlines()[0]}).") from None
    return [[int(i)] for i in np.flatnonzero(hit.to_numpy(zero_copy_only=False))]


def find(text: Tokens, sequences: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """(positions, lengths) of all places where one of these sequences of ids stands, in the order of the text.

    All of its tokens count, and lie within one row and one document. Where two begin at one place, the longest is kept.
    """
    context, flat, mask, document = text.tokens.shape[1], *(x.reshape(-1) for x in (text.tokens, text.mask, text.document))
    single = np.array(sorted({s[0] for s in sequences if len(s) == 1}), np.int64)
    starts, lengths = [_any(flat, single)], [1]
    for sequence in (s for s in sequences if len(s) > 1):
        at = np.flatnonzero(flat == sequence[0])
        at = at[at % context + len(sequence) <= context]
        for j, token in enumerate(sequence[1:], 1):
            at = at[(flat[at + j] == token) & (document[at + j] == document[at])]
        starts.append(at)
        lengths.append(len(sequence))
    start, length = np.concatenate(starts), np.repeat(lengths, [len(at) for at in starts])
    start, length = start[mask[start]], length[mask[start]]  # a document's tokens count, and the others are of none
    order = np.lexsort((-length, start))
    start, length = start[order], length[order]
    new = np.ones(len(start), np.bool_)
    new[1:] = start[1:] != start[:-1]
    return start[new], length[new]


def _any(flat: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Where any of these tokens stands."""
    if len(tokens) < 2:
        return np.flatnonzero(flat == tokens[0]) if len(tokens) else np.zeros(0, np.int64)
    wanted = np.zeros(max(int(flat.max()), int(tokens[-1])) + 1, np.bool_)
    wanted[tokens] = True
    return np.flatnonzero(wanted[flat])


def around(text: Tokens, position: int, before: int, after: int) -> tuple[int, int]:
    """A window around a position, within its row and document."""
    row, column = divmod(position, text.tokens.shape[1])
    document = np.asarray(text.document[row])
    elsewhere = np.flatnonzero(document != document[column])
    low = int(elsewhere[elsewhere < column].max(initial=-1)) + 1
    high = int(elsewhere[elsewhere > column].min(initial=len(document)))
    first = position - column
    return first + max(low, column - before), first + min(high, column + after + 1)


def known(examples: Iterable[Example], start: int, stop: int) -> np.ndarray:
    """Activations [stop − start] as far as the examples of a latent show them; NaN elsewhere."""
    found = np.full(stop - start, np.nan, np.float32)
    for one in examples:
        low, high = max(start, one.start), min(stop, one.stop)
        if low < high:
            whole = np.zeros(one.stop - one.start, np.float32)
            whole[one.at] = one.values
            found[low - start : high - start] = whole[low - one.start : high - one.start]
    return found


def told(examples: Iterable[Example], at: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The largest activation at each of some places (rising) as far as examples show it; NaN elsewhere."""
    found = np.full(len(at), np.nan, np.float32)
    for one in examples:
        low, high = np.searchsorted(at, [one.start, one.stop])
        for i in range(low, high):
            stop = int(at[i] + sizes[i])
            if stop <= one.stop:
                found[i] = np.fmax(found[i], known([one], int(at[i]), stop).max())
    return found
