"""Selection on CUDA without a sort, in Triton: the k largest of each row, the k-th largest of all, everything above a threshold.

Numbers are compared as integers: the bits of a float, those of negative numbers turned round, stand in the same order, and
the k-th largest of them is found bit by bit. Exact; equal numbers go to the lower index; every sum is one of integers, so
nothing depends on the order of programs. Import this where Triton is (with torch's CUDA build), never on the way to `assay`.
"""

from __future__ import annotations

from typing import no_type_check

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]

from assay.errors import BadInput
from assay.kernels.launch import launch
from assay.shapes import Tensor

LOWEST = tl.constexpr(-(2**31))
MAGNITUDE = tl.constexpr(2**31 - 1)
DIGITS = 256  # values of a digit in the radix search over a whole tensor
LANES = 2048  # entries of a row that a program handles at once, 16 a thread
MOST = 8192  # the same where k is large


@triton.jit
@no_type_check
def key_of(x):
    """int32 in the order of the floats. −0 counts as 0; NaN is above infinity, or below everything if its sign bit is set."""
    x = x.to(tl.float32)
    bits = tl.where(x == 0, 0.0, x).to(tl.int32, bitcast=True)
    return tl.maximum(bits ^ ((bits >> 31) & MAGNITUDE), LOWEST + 1)  # LOWEST itself is for what is no entry


@triton.jit
@no_type_check
def number_of(key):
    """The float of a key."""
    return (key ^ ((key >> 31) & MAGNITUDE)).to(tl.float32, bitcast=True)


@triton.jit
@no_type_check
def keys_at(row, at, S):
    """Keys of a row's entries `at`, below every number past its end."""
    return tl.where(at < S, key_of(tl.load(row + at, mask=at < S, other=0.0)), LOWEST)


@triton.jit
@no_type_check
def kth(keys, k):
    """The k-th largest of a block of keys: from the highest bit down, a bit stands if k keys still reach it."""
    found = tl.where(tl.sum((keys >= 0).to(tl.int32), 0) >= k, 0, LOWEST)
    for low in range(31):
        trial = found | (1 << (30 - low))
        found = tl.where(tl.sum((keys >= trial).to(tl.int32), 0) >= k, trial, found)
    return found


@triton.jit
@no_type_check
def tally(row, S, key, LANES: tl.constexpr):
    """How many entries of a row are above a key."""
    counts = tl.zeros((LANES,), tl.int32)
    for start in range(0, S, LANES):
        counts += (keys_at(row, start + tl.arange(0, LANES), S) > key).to(tl.int32)
    return tl.sum(counts, 0)


@triton.jit
@no_type_check
def chosen(keys, key, room, level_before):
    """Which of a block: all above `key`, and of those equal to it the first `room`, `level_before` of them gone by."""
    level = keys == key
    rank = level_before + tl.cumsum(level.to(tl.int32), 0)
    return (keys > key) | (level & (rank <= room))


@triton.jit
@no_type_check
def pack(row, S, key, room, values, indices, cap, LANES: tl.constexpr, LEVEL: tl.constexpr):
    """Write a row's entries above `key`, and the first `room` equal to it, in order, `cap` at most. How many there are."""
    count = tl.full((), 0, tl.int32)
    level = tl.full((), 0, tl.int32)
    for start in range(0, S, LANES):
        at = start + tl.arange(0, LANES)
        keys = keys_at(row, at, S)
        reach = (keys > key).to(tl.int32)
        if LEVEL:
            reach += (keys == key).to(tl.int32)
        if tl.sum(reach, 0) > 0:  # most blocks have none, and a scan is dear
            take = keys > key
            if LEVEL:
                take = chosen(keys, key, room, level)
                level += tl.sum((keys == key).to(tl.int32), 0)
            slot = count + tl.cumsum(take.to(tl.int32), 0) - 1
            count += tl.sum(take.to(tl.int32), 0)
            tl.store(values + slot, number_of(keys), mask=take & (slot < cap))
            tl.store(indices + slot, at, mask=take & (slot < cap))
    return count


@triton.jit
@no_type_check
def _rows_topk(pre, values, indices, near, near_at, bounds, counts, S, k, LANES: tl.constexpr, CAP: tl.constexpr):
    """One program a row. It is read once for a bound, once more (from L2) for the few entries that reach the bound."""
    n = tl.program_id(0).to(tl.int64)
    row, near, near_at = pre + n * S, near + n * CAP, near_at + n * CAP
    peaks = tl.full((LANES,), LOWEST, tl.int32)
    for start in range(0, S, LANES):
        peaks = tl.maximum(peaks, keys_at(row, start + tl.arange(0, LANES), S))
    bound = kth(peaks, k)  # k lanes have an entry this high: the k-th largest is no lower, and few entries are higher
    count = pack(row, S, tl.maximum(bound, LOWEST + 1) - 1, 0, near, near_at, CAP, LANES, False)
    tl.store(bounds + n, bound)
    tl.store(counts + n, count)
    tl.debug_barrier()  # what other threads of the program have just written is read here
    if count <= CAP:
        slots = tl.arange(0, CAP)
        keys = keys_at(near, slots, count)
        key = kth(keys, k)
        take = chosen(keys, key, k - tl.sum((keys > key).to(tl.int32), 0), 0) & (slots < count)
        slot = tl.cumsum(take.to(tl.int32), 0) - 1
        take &= slot < k
        tl.store(values + n * k + slot, number_of(keys), mask=take)
        tl.store(indices + n * k + slot, tl.load(near_at + slots, mask=take, other=0), mask=take)


@triton.jit
@no_type_check
def _crowded_rows(pre, values, indices, bounds, counts, S, k, LANES: tl.constexpr, CAP: tl.constexpr):
    """The rows where more than CAP entries reach the bound: searched bit by bit, a reading of the row for each."""
    n = tl.program_id(0).to(tl.int64)
    if tl.load(counts + n) > CAP:
        row, key = pre + n * S, tl.load(bounds + n)
        if tally(row, S, key, LANES) >= k:  # otherwise the bound is the k-th itself, as in rows full of equal numbers
            key = tl.where(tally(row, S, -1, LANES) >= k, 0, LOWEST)
            for low in range(31):
                trial = key | (1 << (30 - low))
                key = tl.where(tally(row, S, trial - 1, LANES) >= k, trial, key)
        pack(row, S, key, k - tally(row, S, key, LANES), values + n * k, indices + n * k, k, LANES, True)


@triton.jit
@no_type_check
def _digits(flat, state, parts, size, SHIFT: tl.constexpr, BLOCK: tl.constexpr, DIGITS: tl.constexpr):
    """Of the keys that begin as the one sought: how many have each next digit. One row of `parts` for each program."""
    prefix = tl.load(state)
    counts = tl.zeros((DIGITS,), tl.int32)
    programs = tl.num_programs(0)
    for turn in range(0, tl.cdiv(size, programs * BLOCK)):
        at = (turn * programs + tl.program_id(0)).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        inside = at < size
        bits = key_of(tl.load(flat + at, mask=inside, other=0.0)) ^ LOWEST  # from here the order of unsigned numbers
        if SHIFT < 24:
            inside &= ((bits ^ prefix) >> (SHIFT + 8)) == 0
        if tl.sum(inside.to(tl.int32), 0) > 0:  # others count as 0, and how many have the lowest digit decides nothing
            counts += tl.histogram(tl.where(inside, (bits >> SHIFT) & (DIGITS - 1), 0), DIGITS)
    tl.store(parts + tl.program_id(0) * DIGITS + tl.arange(0, DIGITS), counts)


@triton.jit
@no_type_check
def _descend(state, left, parts, out, programs, SHIFT: tl.constexpr, DIGITS: tl.constexpr):
    """Fix the next digit: the highest that `left` of the keys reach. After the last, `out` is the number."""
    before, wanted = tl.load(state), tl.load(left)
    digits = tl.arange(0, DIGITS)
    counts = tl.zeros((DIGITS,), tl.int64)
    for program in range(0, programs):
        counts += tl.load(parts + program * DIGITS + digits)
    reach = tl.cumsum(counts, 0, reverse=True)
    digit = tl.sum((reach >= wanted).to(tl.int32), 0) - 1
    prefix = before | (digit << SHIFT)
    tl.store(state, prefix)
    tl.store(left, wanted - tl.sum(tl.where(digits > digit, counts, 0), 0))
    if SHIFT == 0:
        tl.store(out, number_of(prefix ^ LOWEST))


@triton.jit
@no_type_check
def _levels(pre, level, above, equal, S, LANES: tl.constexpr):
    """Entries of each row above a number, and those equal to it."""
    n = tl.program_id(0).to(tl.int64)
    key = key_of(tl.load(level))
    more, same = tl.zeros((LANES,), tl.int32), tl.zeros((LANES,), tl.int32)
    for start in range(0, S, LANES):
        keys = keys_at(pre + n * S, start + tl.arange(0, LANES), S)
        more += (keys > key).to(tl.int32)
        same += (keys == key).to(tl.int32)
    tl.store(above + n, tl.sum(more, 0))
    tl.store(equal + n, tl.sum(same, 0))


@triton.jit
@no_type_check
def _pack_rows(pre, level, room, offsets, values, indices, S, LANES: tl.constexpr):
    """Each row's entries above a number, and the first `room` equal to it, to their place."""
    n = tl.program_id(0).to(tl.int64)
    start, end = tl.load(offsets + n), tl.load(offsets + n + 1)
    if end > start:
        key = key_of(tl.load(level))
        pack(pre + n * S, S, key, tl.load(room + n), values + start, indices + start, end - start, LANES, True)


@triton.jit
@no_type_check
def _above(pre, threshold, counts, offsets, indices, S, EACH: tl.constexpr, WRITE: tl.constexpr, LANES: tl.constexpr):
    """Count a row's entries above the threshold (of EACH column or of all), or WRITE their columns."""
    n = tl.program_id(0).to(tl.int64)
    pre += n * S
    place = tl.load(offsets + n) if WRITE else tl.full((), 0, tl.int64)
    counted = tl.zeros((LANES,), tl.int32)
    for start in range(0, S, LANES):
        at = start + tl.arange(0, LANES)
        limit = tl.load(threshold + at, mask=at < S, other=0.0) if EACH else tl.load(threshold)
        above = (tl.load(pre + at, mask=at < S, other=0.0).to(tl.float32) > limit.to(tl.float32)) & (at < S)
        if WRITE:
            some = tl.sum(above.to(tl.int32), 0)
            if some > 0:
                tl.store(indices + place + tl.cumsum(above.to(tl.int32), 0) - 1, at, mask=above)
                place += some
        else:
            counted += above.to(tl.int32)
    if not WRITE:
        tl.store(counts + n, tl.sum(counted, 0))


def _lanes(wanted: int) -> dict[str, int]:
    """So many lanes, as far as a program can have them, and its warps."""
    lanes = max(64, min(MOST, triton.next_power_of_2(wanted)))
    return {"LANES": lanes, "num_warps": max(1, lanes // 512)}


def rows_topk(pre: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(values, indices) [n, k] of each row's k largest, in the order of their columns.

    Fast up to k ≈ 1,000. A row whose large entries crowd into few columns modulo LANES is searched bit by bit over its whole
    length: as exact, some ten times as slow. Rows full of equal numbers are not such.
    """
    n, S = pre.shape
    if not 0 <= k <= S:
        raise BadInput(f"The {k} largest of rows of {S} were asked for; give a k between 0 and {S}.")
    values, indices = pre.new_empty(n, k), torch.empty(n, k, dtype=torch.long, device=pre.device)
    if n and k:
        pre, cap = pre.contiguous(), max(16, min(MOST, triton.next_power_of_2(2 * k)))
        shape = _lanes(min(S, max(LANES, 8 * k))) | {"CAP": cap}
        near, near_at = pre.new_empty(n, cap, dtype=torch.float32), indices.new_empty(n, cap, dtype=torch.int32)
        bounds, counts = near_at.new_empty(n), near_at.new_empty(n)
        launch(_rows_topk, (n,), pre, pre, values, indices, near, near_at, bounds, counts, S, k, **shape)
        launch(_crowded_rows, (n,), pre, pre, values, indices, bounds, counts, S, k, **shape)
    return values, indices


def kth_largest(flat: Tensor, count: int) -> Tensor:
    """The count-th largest number of a whole tensor, exactly; no dimensions, no wait for the GPU. Four readings."""
    if not 1 <= count <= flat.numel():
        raise BadInput(f"The {count}-th largest of {flat.numel()} numbers was asked for; give 1 to {flat.numel()}.")
    size, block = flat.numel(), min(4096, max(64, triton.next_power_of_2(flat.numel())))
    programs = min(triton.cdiv(size, block), 4 * _multiprocessors(flat))
    state, left = (
        torch.full((), start, dtype=kind, device=flat.device) for start, kind in [(0, torch.int32), (count, torch.long)]
    )
    parts, out = state.new_empty(programs, DIGITS), flat.new_empty(())
    flat = flat.contiguous()
    shape = {"BLOCK": block, "DIGITS": DIGITS, "num_warps": max(1, block // 512)}
    for shift in (24, 16, 8, 0):
        launch(_digits, (programs,), flat, flat, state, parts, size, SHIFT=shift, **shape)
        launch(_descend, (1,), flat, state, left, parts, out, programs, SHIFT=shift, DIGITS=DIGITS)
    return out


def batch_topk(pre: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """(values, indices, offsets): CSR of the `count` largest of all rows together, equal ones to the earlier; no wait."""
    n, S = pre.shape
    values, indices = pre.new_empty(count), torch.empty(count, dtype=torch.long, device=pre.device)
    offsets = indices.new_zeros(n + 1)
    if count:
        pre, level, shape = pre.contiguous(), kth_largest(pre, count), _lanes(min(S, LANES))
        above, equal = indices.new_empty(n), indices.new_empty(n)
        launch(_levels, (n,), pre, pre, level, above, equal, S, **shape)
        room = (count - above.sum() - (equal.cumsum(0) - equal)).clamp_min(0).minimum(equal)
        torch.cumsum(above + room, 0, out=offsets[1:])
        launch(_pack_rows, (n,), pre, pre, level, room, offsets, values, indices, S, **shape)
    return values, indices, offsets


def count_above(pre: Tensor, threshold: Tensor | float) -> Tensor:
    """[n]: entries of each row above the threshold, [S] or one number; compared in fp32."""
    n, S = pre.shape
    counts = torch.zeros(n, dtype=torch.long, device=pre.device)
    if pre.numel():
        threshold, each = _threshold(pre, threshold)
        pre, shape = pre.contiguous(), _lanes(min(S, LANES)) | {"EACH": each, "WRITE": False}
        launch(_above, (n,), pre, pre, threshold, counts, counts, counts, S, **shape)
    return counts


def compact_above(pre: Tensor, threshold: Tensor | float) -> tuple[Tensor, Tensor]:
    """(indices, offsets): CSR of the entries above the threshold. The host waits once, for how many there are."""
    n, S = pre.shape
    counts = count_above(pre, threshold)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    indices = counts.new_empty(int(offsets[-1]))
    if len(indices):
        threshold, each = _threshold(pre, threshold)
        pre, shape = pre.contiguous(), _lanes(min(S, LANES)) | {"EACH": each, "WRITE": True}
        launch(_above, (n,), pre, pre, threshold, counts, offsets, indices, S, **shape)
    return indices, offsets


def _threshold(pre: Tensor, threshold: Tensor | float) -> tuple[Tensor, bool]:
    """On the device, and whether there is one for each column."""
    if not isinstance(threshold, Tensor):
        threshold = torch.full((1,), threshold, dtype=torch.float32, device=pre.device)
    if threshold.numel() not in (1, pre.shape[1]) or threshold.ndim > 1:
        raise BadInput(f"A threshold is one number or one for each of {pre.shape[1]} columns, got {tuple(threshold.shape)}.")
    return threshold.contiguous(), threshold.numel() > 1


def _multiprocessors(tensor: Tensor) -> int:
    return torch.cuda.get_device_properties(tensor.device).multi_processor_count if tensor.is_cuda else 1
