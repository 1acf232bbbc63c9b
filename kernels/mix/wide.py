"""Mixed pixels of images whose side 16 divides, in Triton.

A thread takes groups of 16 pixels of a row, 48 bytes, in three loads of 16 bytes, and sorts the bytes by
channel in its registers.
"""

from __future__ import annotations

import triton
import triton.language as tl

GROUP = tl.constexpr(16)  # pixels


@triton.jit
def _needs(row, column, blend, SIZE: tl.constexpr):
    """Which groups of pixels need sample i, and which need j."""
    share, left, top, right, bottom = blend
    rows = (row >= top) & (row < bottom)
    whole = rows & (column >= left) & (column + GROUP <= right)
    part = rows & (column < right) & (column + GROUP > left)
    end = tl.where(share > 0.0, SIZE, 0)
    return row < tl.where(whole, 0, SIZE), part | (row < end)


@triton.jit
def wide_planar(
    words,
    out,
    flip,
    i,
    j,
    blend,
    tile,
    mean,
    scale,
    SIZE: tl.constexpr,
    MODE: tl.constexpr,
    FLIP: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """A tile of the [B, 3, S, S] layout."""
    share, left, top, right, bottom = blend
    group = tile * GROUPS + tl.arange(0, GROUPS)
    row = group // (SIZE // GROUP)
    column = (group % (SIZE // GROUP)) * GROUP
    need_own, need_other = _needs(row, column, blend, SIZE)
    own = _channels(words, flip, i, row, column, need_own, SIZE, FLIP)
    other = own
    if MODE != "plain":
        other = _channels(words, flip, j, row, column, need_other, SIZE, FLIP)
    place = column[:, None] + tl.arange(0, GROUP)[None, :]  # [GROUPS, 16]
    inside = (place >= left) & (place < right) & ((row >= top) & (row < bottom))[:, None]
    weight = tl.where(inside, 1.0, share)
    base = out + i.to(tl.int64) * (3 * SIZE * SIZE)
    for c in tl.static_range(3):
        value = ((own[c] - mean[c]) + weight * (other[c] - own[c])) * scale[c]
        offset = c * SIZE * SIZE + group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
        tl.store(base + offset, value.to(out.dtype.element_ty), mask=(row < SIZE)[:, None])


@triton.jit
def wide_interleaved(
    words, out, i, j, blend, tile, mean, scale, SIZE: tl.constexpr, MODE: tl.constexpr, GROUPS: tl.constexpr
):
    """A tile of the [B, S, S, 3] layout: bytes keep their order, so each third of a group goes on its own."""
    share, left, top, right, bottom = blend
    group = tile * GROUPS + tl.arange(0, GROUPS)
    row = group // (SIZE // GROUP)
    column = (group % (SIZE // GROUP)) * GROUP
    need_own, need_other = _needs(row, column, blend, SIZE)
    quad = group[:, None] * 12 + tl.arange(0, 4)[None, :]
    own_words = words + i.to(tl.int64) * (SIZE * SIZE * 3 // 4) + quad
    other_words = words + j.to(tl.int64) * (SIZE * SIZE * 3 // 4) + quad
    shift = 8 * tl.arange(0, 4)
    rows = ((row >= top) & (row < bottom))[:, None]
    base = out + i.to(tl.int64) * (3 * SIZE * SIZE)
    for third in tl.static_range(3):
        a = _bytes(tl.load(own_words + 4 * third, mask=need_own[:, None], other=0), shift, GROUPS)
        b = a
        if MODE != "plain":
            b = _bytes(tl.load(other_words + 4 * third, mask=need_other[:, None], other=0), shift, GROUPS)
        byte = 16 * third + tl.arange(0, 16)
        place = column[:, None] + (byte // 3)[None, :]
        inside = (place >= left) & (place < right) & rows
        weight = tl.where(inside, 1.0, share)
        middle, slope = _of_channel(mean, byte % 3), _of_channel(scale, byte % 3)
        value = ((a - middle[None, :]) + weight * (b - a)) * slope[None, :]
        offset = group[:, None] * (3 * GROUP) + byte[None, :]
        tl.store(base + offset, value.to(out.dtype.element_ty), mask=(row < SIZE)[:, None])


@triton.jit
def _of_channel(values, channel):
    return tl.where(channel == 0, values[0], tl.where(channel == 1, values[1], values[2]))


@triton.jit
def _channels(words, flip, sample, row, column, need, SIZE: tl.constexpr, FLIP: tl.constexpr):
    """Groups of 16 pixels by channel: red, green and blue, each float32 [N, 16] with values 0 to 255."""
    mirror = 0
    if FLIP:
        mirror = tl.load(flip + sample).to(tl.int32)
        column = tl.where(mirror != 0, SIZE - GROUP - column, column)
    group = row * (SIZE // GROUP) + column // GROUP
    address = (
        words + sample.to(tl.int64) * (SIZE * SIZE * 3 // 4) + group[:, None] * 12 + tl.arange(0, 4)[None, :]
    )
    a0, a1, a2, a3 = split4(tl.load(address, mask=need[:, None], other=0))
    b0, b1, b2, b3 = split4(tl.load(address + 4, mask=need[:, None], other=0))
    c0, c1, c2, c3 = split4(tl.load(address + 8, mask=need[:, None], other=0))
    # In memory the words are a0 ... a3, b0 ... b3, c0 ... c3, and every three of them hold four pixels:
    # u = rgbr, v = gbrg, w = brgb, lowest byte first.
    if FLIP:
        flipped = mirror != 0
        a0, c1, a3, b2 = (
            tl.where(flipped, c1, a0),
            tl.where(flipped, a0, c1),
            tl.where(flipped, b2, a3),
            tl.where(flipped, a3, b2),
        )
        a1, c2, b0, b3 = (
            tl.where(flipped, c2, a1),
            tl.where(flipped, a1, c2),
            tl.where(flipped, b3, b0),
            tl.where(flipped, b0, b3),
        )
        a2, c3, b1, c0 = (
            tl.where(flipped, c3, a2),
            tl.where(flipped, a2, c3),
            tl.where(flipped, c0, b1),
            tl.where(flipped, b1, c0),
        )
    u, v, w = join4(a0, a3, b2, c1), join4(a1, b0, b3, c2), join4(a2, b1, c0, c3)  # [N, 4]
    red = _pixels16(_byte(u, 0), _byte(u, 3), _byte(v, 2), _byte(w, 1), mirror, FLIP)
    green = _pixels16(_byte(u, 1), _byte(v, 0), _byte(v, 3), _byte(w, 2), mirror, FLIP)
    blue = _pixels16(_byte(u, 2), _byte(v, 1), _byte(w, 0), _byte(w, 3), mirror, FLIP)
    return red, green, blue


@triton.jit
def _pixels16(first, second, third, fourth, mirror, FLIP: tl.constexpr):
    """[N, 4] values of pixels 0, 1, 2, 3 of every four as [N, 16]; of a mirrored sample in reverse."""
    if FLIP:
        flipped = mirror != 0
        first, fourth = tl.where(flipped, fourth, first), tl.where(flipped, first, fourth)
        second, third = tl.where(flipped, third, second), tl.where(flipped, second, third)
    return tl.reshape(join4(first, second, third, fourth), (first.shape[0], GROUP))


@triton.jit
def split4(x):
    """[N, 4] -> four of [N]."""
    even, odd = tl.split(tl.reshape(x, (x.shape[0], 2, 2)))
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    return first, second, third, fourth


@triton.jit
def join4(first, second, third, fourth):
    """Four of [N, ...] -> [N, ..., 4]."""
    pairs = tl.join(tl.join(first, third), tl.join(second, fourth))
    return tl.reshape(pairs, first.shape + (4,))  # noqa: RUF005 (Triton has no starred tuples)


@triton.jit
def _byte(word, index: tl.constexpr):
    return ((word >> (8 * index)) & 0xFF).to(tl.float32)


@triton.jit
def _bytes(words, shift, GROUPS: tl.constexpr):
    """The bytes of [GROUPS, 4] words as float32 [GROUPS, 16]."""
    return tl.reshape((words[:, :, None] >> shift[None, None, :]) & 0xFF, (GROUPS, 16)).to(tl.float32)
