"""The Triton kernels of `kernels.augment`: statistics of a tile, tables from them, a pass over the pixels.

`kernels.augment.passes` says what the columns of `passes` mean and which passes are in a launch.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fastsemi.kernels.augment.neighbours import sharpen, warp
from fastsemi.kernels.augment.passes import COLUMNS, SHARPNESS, WARP
from fastsemi.kernels.augment.pointwise import AUTOCONTRAST, CONTRAST, grey, pointwise
from fastsemi.kernels.blocks.pixels import GROUP, narrow_load, narrow_store, wide_load, wide_store

CHUNK = tl.constexpr(128)  # pixels of one step of the narrow path

_COLUMNS = tl.constexpr(len(COLUMNS))
_SHARPNESS, _WARP = tl.constexpr(SHARPNESS), tl.constexpr(WARP)


@triton.jit
def statistics_kernel(
    images,  # uint8 [n, H, W, 3]
    passes,
    op,
    arg,
    partial,  # int32: for each pass and tile a sum of greys, or extrema, or 3 histograms
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDE: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """One tile of one pass a program: the operations before the one that looks run in registers."""
    PIXELS: tl.constexpr = HEIGHT * WIDTH
    TILE: tl.constexpr = GROUPS * GROUP
    TILES: tl.constexpr = (PIXELS + TILE - 1) // TILE
    tile = tl.program_id(0) % TILES
    passes += tl.program_id(0) // TILES * _COLUMNS
    source, first, look = tl.load(passes), tl.load(passes + 3), tl.load(passes + 6)
    if WIDE:
        group = tile * GROUPS + tl.arange(0, GROUPS)
        real = group < PIXELS // GROUP
        red, green, blue = wide_load(images, source, group, real, PIXELS)
        mask = tl.broadcast_to(real[:, None], red.shape)
    else:
        pixel = tile * TILE + tl.arange(0, TILE)
        mask = pixel < PIXELS
        red, green, blue = narrow_load(images + source.to(tl.int64) * (3 * PIXELS), pixel, mask)
    red, green, blue = pointwise(red, green, blue, op, arg, first, look, passes, passes, 0, PIXELS, 0)
    code = tl.load(op + look)
    partial += tl.load(passes + 7)
    if code == CONTRAST:
        total = tl.where(mask, grey(red, green, blue), 0.0).to(tl.int32)
        tl.store(partial + tile, tl.sum(tl.reshape(total, (TILE,)), axis=0))
    else:
        partial += 768 * tile
        _look(red, mask, code, partial, TILE)
        _look(green, mask, code, partial + 256, TILE)
        _look(blue, mask, code, partial + 512, TILE)


@triton.jit
def _look(channel, mask, code, partial, TILE: tl.constexpr):
    """Store the extrema of a channel, or its histogram."""
    value, mask = tl.reshape(channel.to(tl.int32), (TILE,)), tl.reshape(mask, (TILE,))
    if code == AUTOCONTRAST:
        tl.store(partial, tl.min(tl.where(mask, value, 255), axis=0))
        tl.store(partial + 1, tl.max(tl.where(mask, value, 0), axis=0))
    else:
        tl.store(partial + tl.arange(0, 256), tl.histogram(value, 256, mask=mask))


@triton.jit
def tables_kernel(passes, op, partial, tables, PIXELS: tl.constexpr, TILES: tl.constexpr):
    """The table of one channel of one pass a program: uint8 `tables` [passes, 3, 256]."""
    row, channel = tl.program_id(0) // 3, tl.program_id(0) % 3
    passes += row * _COLUMNS
    code = tl.load(op + tl.load(passes + 6))
    partial += tl.load(passes + 7) + 256 * channel
    level = tl.arange(0, 256)
    if code == AUTOCONTRAST:
        low, high = tl.load(partial), tl.load(partial + 1)
        for tile in range(1, TILES):
            low = tl.minimum(low, tl.load(partial + 768 * tile))
            high = tl.maximum(high, tl.load(partial + 768 * tile + 1))
        table = _stretch(level, low, high)
    else:
        histogram = tl.load(partial + level)
        for tile in range(1, TILES):
            histogram += tl.load(partial + 768 * tile + level)
        table = _equalize(level, histogram, PIXELS)
    tl.store(tables + 768 * row + 256 * channel + level, table.to(tl.uint8))


@triton.jit
def _stretch(level, low, high):
    """`kernels.reference.color.autocontrast` in float64, in Pillow's order."""
    scale = 255.0 / tl.maximum(high - low, 1).to(tl.float64)
    # Neither minimum cuts anything off: a product can then not be contracted with the sum.
    shift = tl.minimum(-low.to(tl.float64) * scale, 0.0)
    value = tl.minimum(level.to(tl.float64) * scale, 65025.0) + shift
    value = tl.minimum(tl.maximum(value, 0.0), 255.0).to(tl.int32)
    return tl.where(high > low, value, level)


@triton.jit
def _equalize(level, histogram, PIXELS: tl.constexpr):
    """`kernels.reference.color.equalize`."""
    brightest = tl.max(tl.where(histogram > 0, level, 0), axis=0)
    step = (PIXELS - tl.sum(tl.where(level == brightest, histogram, 0), axis=0)) // 255
    below = tl.cumsum(histogram, axis=0) - histogram
    value = tl.minimum((below + step // 2) // tl.maximum(step, 1), 255)
    return tl.where(step > 0, value, level)


@triton.jit
def pass_kernel(
    images,  # uint8 [n, H, W, 3]
    out,  # uint8 [B, H, W, 3]
    scratch,  # uint8 [slots, H, W, 3]
    passes,
    op,
    arg,
    affine,
    partial,
    tables,
    fill0,
    fill1,
    fill2,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDE: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """One tile of GROUPS * 16 pixels of one pass a program."""
    PIXELS: tl.constexpr = HEIGHT * WIDTH
    TILES: tl.constexpr = (PIXELS + GROUPS * GROUP - 1) // (GROUPS * GROUP)
    row, tile = tl.program_id(0) // TILES, tl.program_id(0) % TILES
    passes += row * _COLUMNS
    source, target, final = tl.load(passes), tl.load(passes + 1), tl.load(passes + 2)
    first, last, neighbours = tl.load(passes + 3), tl.load(passes + 4), tl.load(passes + 5)
    extra = tl.load(passes + 7)
    tables += 768 * row
    result = scratch
    if final != 0:
        result = out
    if WIDE and neighbours == 0:
        group = tile * GROUPS + tl.arange(0, GROUPS)
        real = group < PIXELS // GROUP
        red, green, blue = wide_load(images, source, group, real, PIXELS)
        red, green, blue = pointwise(
            red, green, blue, op, arg, first, last, partial + extra, tables, 1, PIXELS, TILES
        )
        wide_store(result, target, group, real, red, green, blue, PIXELS)
    else:
        image = images + source.to(tl.int64) * (3 * PIXELS)
        result += target.to(tl.int64) * (3 * PIXELS)
        start = first + (neighbours != 0).to(tl.int32)
        begin = tile * (GROUPS * GROUP)
        for step in range(begin, tl.minimum(begin + GROUPS * GROUP, PIXELS), CHUNK):
            pixel = step + tl.arange(0, CHUNK)
            mask = pixel < PIXELS
            if neighbours == _WARP:
                fill = fill0, fill1, fill2
                red, green, blue = warp(image, pixel, mask, affine + 6 * extra, fill, HEIGHT, WIDTH)
            elif neighbours == _SHARPNESS:
                red, green, blue = sharpen(image, pixel, mask, tl.load(arg + first), HEIGHT, WIDTH)
            else:
                red, green, blue = narrow_load(image, pixel, mask)
            red, green, blue = pointwise(
                red, green, blue, op, arg, start, last, partial + extra, tables, 1, PIXELS, TILES
            )
            narrow_store(result, pixel, red, green, blue, mask)
