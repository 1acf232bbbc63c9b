"""Mixed pixels of any image size in Triton: one pixel a lane, noise drawn where an erased box needs it."""

from __future__ import annotations

import triton
import triton.language as tl

from fastsemi.kernels.blocks.pixels import GROUP, narrow_load
from fastsemi.kernels.mix.noise import erase_noise

CHUNK = tl.constexpr(128)  # pixels of one step


@triton.jit
def erased_box(erase_box, sample):
    """Left, top, right and bottom of the erased box of a sample; nothing lies in an empty one."""
    left, top = tl.load(erase_box + 4 * sample).to(tl.int32), tl.load(erase_box + 4 * sample + 1).to(tl.int32)
    right = left + tl.load(erase_box + 4 * sample + 2).to(tl.int32)
    return left, top, right, top + tl.load(erase_box + 4 * sample + 3).to(tl.int32)


@triton.jit
def erases(erase_box, sample, first, last):
    """Whether the erased box of a sample touches rows `first` to `last`."""
    left, top, right, bottom = erased_box(erase_box, sample)
    return (right > left) & (top <= last) & (bottom > first)


@triton.jit
def strip_pixels(
    images, out, erase, i, j, blend, start, mean, scale, SIZE: tl.constexpr, ERASE: tl.constexpr
):
    """CHUNK pixels of i, mixed with j, from `start` on."""
    pixel = start + tl.arange(0, CHUNK)
    at = pixel // SIZE, pixel % SIZE, pixel < SIZE * SIZE
    rows = start // SIZE, (start + CHUNK - 1) // SIZE
    _pixels(images, out, erase, i, j, blend, at, rows, mean, scale, SIZE, ERASE)


@triton.jit
def box_pixels(
    images,
    out,
    erase,
    i,
    j,
    blend,
    whose,
    part,
    PARTS: tl.constexpr,
    mean,
    scale,
    SIZE: tl.constexpr,
):
    """A part of PARTS of the groups of i, mixed with j, that the erased box of `whose` touches."""
    # Loaded here: what another function returns would count as an address of this one's stores, and PyTorch
    # would take the boxes for results.
    box = erase[0] + 4 * whose
    left, top = tl.load(box).to(tl.int32), tl.load(box + 1).to(tl.int32)
    right = left + tl.load(box + 2).to(tl.int32)
    width = tl.where(right > left, (right + GROUP - 1) // GROUP * GROUP - left // GROUP * GROUP, 0)
    left = left // GROUP * GROUP
    area = width * tl.load(box + 3).to(tl.int32)
    for start in range(part * CHUNK, area, PARTS * CHUNK):
        place = start + tl.arange(0, CHUNK)
        at = top + place // width, left + place % width, place < area
        rows = top + start // width, top + (start + CHUNK - 1) // width
        _pixels(images, out, erase, i, j, blend, at, rows, mean, scale, SIZE, True)


@triton.jit
def _pixels(images, out, erase, i, j, blend, at, rows, mean, scale, SIZE: tl.constexpr, ERASE: tl.constexpr):
    """Pixels of i, mixed with j.

    `at` has their rows, their columns and which of them are real; `rows` the first row and the last one.
    """
    row, column, real = at
    share, left, top, right, bottom = blend
    inside = (column >= left) & (column < right) & (row >= top) & (row < bottom)
    # Rows and columns of j that are needed: all for mixup, the box for cutmix, none where j adds nothing.
    end = tl.where(share > 0.0, SIZE, 0)
    needed = real & (inside | (row < end))
    own = _normalised(images, erase, i, row, column, real, rows, mean, scale, SIZE, ERASE)
    other = _normalised(images, erase, j, row, column, needed, rows, mean, scale, SIZE, ERASE)
    base = out + i.to(tl.int64) * (3 * SIZE * SIZE)
    for c in tl.static_range(3):
        value = own[c] + tl.where(inside, 1.0, share) * (other[c] - own[c])
        tl.store(base + c * SIZE * SIZE + row * SIZE + column, value.to(out.dtype.element_ty), mask=real)


@triton.jit
def _normalised(
    images,
    erase,
    sample,
    row,
    column,
    need,
    rows,
    mean,
    scale,
    SIZE: tl.constexpr,
    ERASE: tl.constexpr,
):
    """The three channels of pixels of a sample: normalised and erased."""
    pixel = row * SIZE + column
    red, green, blue = narrow_load(images + sample.to(tl.int64) * (3 * SIZE * SIZE), pixel, need)
    red, green, blue = (red - mean[0]) * scale[0], (green - mean[1]) * scale[1], (blue - mean[2]) * scale[2]
    if ERASE:
        boxes, keys = erase
        if erases(boxes, sample, rows[0], rows[1]):
            left, top, right, bottom = erased_box(boxes, sample)
            hit = (column >= left) & (column < right) & (row >= top) & (row < bottom)
            # The low words of int64: in 64 bits every instruction of the noise would be two.
            words = keys.to(tl.pointer_type(tl.uint32), bitcast=True) + 4 * sample
            noise = erase_noise(tl.load(words), tl.load(words + 2), pixel)
            red, green = tl.where(hit, noise[0], red), tl.where(hit, noise[1], green)
            blue = tl.where(hit, noise[2], blue)
    return red, green, blue
