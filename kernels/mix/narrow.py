"""Mixed pixels of any image size in Triton: one pixel a lane, noise drawn where an erased box needs it."""

from __future__ import annotations

import triton
import triton.language as tl

from fastsemi.kernels.blocks.pixels import narrow_load
from fastsemi.kernels.mix.noise import erase_noise

CHUNK = tl.constexpr(128)  # pixels of one step


@triton.jit
def erases(erase_box, sample, first, last):
    """Whether the erased box of a sample touches rows `first` to `last`."""
    top = tl.load(erase_box + 4 * sample + 1).to(tl.int32)
    width = tl.load(erase_box + 4 * sample + 2).to(tl.int32)
    bottom = top + tl.load(erase_box + 4 * sample + 3).to(tl.int32)
    return (width > 0) & (top <= last) & (bottom > first)


@triton.jit
def narrow_pixels(
    images, out, erase, i, j, blend, start, mean, scale, SIZE: tl.constexpr, ERASE: tl.constexpr
):
    """CHUNK pixels from `start` on."""
    share, left, top, right, bottom = blend
    pixel = start + tl.arange(0, CHUNK)
    real = pixel < SIZE * SIZE
    row = pixel // SIZE
    column = pixel % SIZE
    inside = (column >= left) & (column < right) & (row >= top) & (row < bottom)
    # Rows and columns of j that are needed: all for mixup, the box for cutmix, none where j adds nothing.
    end = tl.where(share > 0.0, SIZE, 0)
    needed = real & (inside | (row < end))
    own = _normalised(images, erase, i, start, row, column, real, mean, scale, SIZE, ERASE)
    other = _normalised(images, erase, j, start, row, column, needed, mean, scale, SIZE, ERASE)
    base = out + i.to(tl.int64) * (3 * SIZE * SIZE)
    for c in tl.static_range(3):
        value = own[c] + tl.where(inside, 1.0, share) * (other[c] - own[c])
        tl.store(base + c * SIZE * SIZE + pixel, value.to(out.dtype.element_ty), mask=real)


@triton.jit
def _normalised(
    images,
    erase,
    sample,
    start,
    row,
    column,
    need,
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
        if erases(boxes, sample, start // SIZE, (start + CHUNK - 1) // SIZE):
            left, top = tl.load(boxes + 4 * sample).to(tl.int32), tl.load(boxes + 4 * sample + 1).to(tl.int32)
            right = left + tl.load(boxes + 4 * sample + 2).to(tl.int32)
            bottom = top + tl.load(boxes + 4 * sample + 3).to(tl.int32)
            hit = (column >= left) & (column < right) & (row >= top) & (row < bottom)
            keys += 2 * sample
            noise = erase_noise(tl.load(keys), tl.load(keys + 1), pixel)
            red, green = tl.where(hit, noise[0], red), tl.where(hit, noise[1], green)
            blue = tl.where(hit, noise[2], blue)
    return red, green, blue
