"""Pairs of 64-bit hashes that differ in few bits, without comparing all with all."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

MOST_BITS = 7  # in which two hashes may differ: one quarter of each pair then differs in at most one bit
_QUARTERS = 4
_BLOCK = 2_000_000  # candidates that are compared at once
_ONES = np.array([bin(value).count("1") for value in range(1 << 16)], np.uint8)
_MASKS = [0, *(1 << bit for bit in range(16))]


def close_pairs(
    hashes: NDArray[np.uint64], others: NDArray[np.uint64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """All i < j with `hashes[i]` and `others[j]` at most `MOST_BITS` bits apart, each pair once, in blocks.

    Multi-index hashing (Norouzi, Punjani and Fleet, 2012): of two hashes at most 7 bits apart one of four
    quarters is at most 1 bit apart, so each quarter is looked up with none and each one of its bits changed.

    Args:
        hashes: [N].
        others: [N], the same again, or of the same pictures in another form.
    """
    for quarter in range(_QUARTERS):
        keys, there = _quarter(hashes, quarter), _quarter(others, quarter)
        order = np.argsort(there, kind="stable")
        ends = np.cumsum(np.bincount(there, minlength=1 << 16))
        for mask in _MASKS:
            wanted = keys ^ mask
            stop = ends[wanted]
            count = np.bincount(there, minlength=1 << 16)[wanted]
            for i, place in _expanded(stop - count, count):
                j = order[place]
                i, j = i[i < j], j[i < j]
                close = _first_close(hashes[i] ^ others[j], quarter)
                if close.any():
                    yield i[close], j[close]


def _quarter(hashes: NDArray[np.uint64], quarter: int) -> NDArray[np.int64]:
    return ((hashes >> np.uint64(16 * quarter)) & np.uint64(0xFFFF)).astype(np.int64)


def _expanded(
    start: NDArray[np.int64], count: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Each i with start[i], ..., start[i] + count[i] - 1, about `_BLOCK` of them at a time."""
    total = np.cumsum(count)
    begin = 0
    while begin < len(count):
        before = total[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(total, before + _BLOCK, side="right")))
        part = count[begin:end]
        i = np.repeat(np.arange(begin, end), part)
        within = np.arange(len(i)) - np.repeat(np.cumsum(part) - part, part)
        yield i, start[i] + within
        begin = end


def _first_close(differing: NDArray[np.uint64], quarter: int) -> NDArray[np.bool_]:
    """Whether few enough bits differ, and no earlier quarter has found the pair already."""
    ones = [_ONES[_quarter(differing, q)] for q in range(_QUARTERS)]
    close = sum(ones[1:], ones[0]) <= MOST_BITS
    for earlier in ones[:quarter]:
        close &= earlier > 1
    return close
