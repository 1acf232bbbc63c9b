"""Mixed pixels of images whose side 16 divides, in Triton: 16 pixels of a row a thread."""

from __future__ import annotations

import triton
import triton.language as tl

from fastsemi.kernels.blocks.pixels import GROUP, wide_load
from fastsemi.kernels.mix.narrow import erased_box


@triton.jit
def wide_pixels(
    images,
    out,
    erase_box,
    i,
    j,
    blend,
    tile,
    mean,
    scale,
    SIZE: tl.constexpr,
    MIX: tl.constexpr,
    ERASE: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """A tile of GROUPS groups, but for those that an erased box touches, which others write."""
    share, left, top, right, bottom = blend
    group = tile * GROUPS + tl.arange(0, GROUPS)
    row = group // (SIZE // GROUP)
    column = (group % (SIZE // GROUP)) * GROUP
    real = row < SIZE
    if ERASE:
        real &= ~_erased(erase_box, i, row, column)
        if MIX:
            real &= ~_erased(erase_box, j, row, column)
    need_own, need_other = _needs(row, column, blend, SIZE)
    need_own, need_other = real & need_own, real & need_other
    own = wide_load(images, i, group, need_own, SIZE * SIZE)
    other = own
    if MIX:
        other = wide_load(images, j, group, need_other, SIZE * SIZE)
    place = column[:, None] + tl.arange(0, GROUP)[None, :]  # [GROUPS, 16]
    inside = (place >= left) & (place < right) & ((row >= top) & (row < bottom))[:, None]
    weight = tl.where(inside, 1.0, share)
    base = out + i.to(tl.int64) * (3 * SIZE * SIZE)
    for c in tl.static_range(3):
        value = ((own[c] - mean[c]) + weight * (other[c] - own[c])) * scale[c]
        offset = c * SIZE * SIZE + group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
        tl.store(base + offset, value.to(out.dtype.element_ty), mask=real[:, None])


@triton.jit
def _erased(erase_box, sample, row, column):
    """Which groups the erased box of a sample touches, [GROUPS]."""
    left, top, right, bottom = erased_box(erase_box, sample)
    return (right > left) & (column < right) & (column + GROUP > left) & (row >= top) & (row < bottom)


@triton.jit
def _needs(row, column, blend, SIZE: tl.constexpr):
    """Which groups of pixels need sample i, and which need j."""
    share, left, top, right, bottom = blend
    rows = (row >= top) & (row < bottom)
    whole = rows & (column >= left) & (column + GROUP <= right)
    part = rows & (column < right) & (column + GROUP > left)
    end = tl.where(share > 0.0, SIZE, 0)
    return row < tl.where(whole, 0, SIZE), part | (row < end)
