"""The augmentation operations that read neighbours, in Triton: warps and sharpness, one pixel a lane."""

from __future__ import annotations

import triton
import triton.language as tl

from fastsemi.kernels.augment.pointwise import blend, truncate
from fastsemi.kernels.blocks.pixels import narrow_load


@triton.jit
def sharpen(image, pixel, mask, factor, HEIGHT: tl.constexpr, WIDTH: tl.constexpr):
    """`kernels.reference.color.sharpness`: blend with (1 1 1, 1 5 1, 1 1 1) / 13; the border stays."""
    row, column = pixel // WIDTH, pixel % WIDTH
    inner = mask & (row > 0) & (row < HEIGHT - 1) & (column > 0) & (column < WIDTH - 1)
    red, green, blue = narrow_load(image, pixel, mask)
    total_r, total_g, total_b = 4.0 * red + 6.5, 4.0 * green + 6.5, 4.0 * blue + 6.5
    for y in tl.static_range(-1, 2):
        for x in tl.static_range(-1, 2):
            r, g, b = narrow_load(image, pixel + y * WIDTH + x, inner)
            total_r, total_g, total_b = total_r + r, total_g + g, total_b + b
    red = tl.where(inner, blend(tl.floor(total_r * (1.0 / 13)), red, factor), red)
    green = tl.where(inner, blend(tl.floor(total_g * (1.0 / 13)), green, factor), green)
    blue = tl.where(inner, blend(tl.floor(total_b * (1.0 / 13)), blue, factor), blue)
    return red, green, blue


@triton.jit
def warp(image, pixel, mask, matrix, fill, HEIGHT: tl.constexpr, WIDTH: tl.constexpr):
    """`kernels.reference.warp` by a matrix of six float64.

    A value is that of the pixel before the position less a sum of differences: flat areas stay exact, and it
    is the small sum that float32 rounds.
    """
    x, y = (pixel % WIDTH).to(tl.float64) + 0.5, (pixel // WIDTH).to(tl.float64) + 0.5
    source_x = tl.load(matrix) * x + tl.load(matrix + 1) * y + tl.load(matrix + 2)
    source_y = tl.load(matrix + 3) * x + tl.load(matrix + 4) * y + tl.load(matrix + 5)
    inside = mask & (source_x >= 0) & (source_x < WIDTH) & (source_y >= 0) & (source_y < HEIGHT)
    left, weights_x = _split(tl.where(inside, source_x, 0.5))
    top, weights_y = _split(tl.where(inside, source_y, 0.5))
    base, below = _column(image, left, top, inside, weights_y, HEIGHT, WIDTH)
    red, green, blue = below
    before = _interpolated(image, left - 1, top, inside, weights_y, HEIGHT, WIDTH)
    for j in tl.static_range(3):
        after = _interpolated(image, left + j, top, inside, weights_y, HEIGHT, WIDTH)
        red += weights_x[j] * (before[0] - after[0])
        green += weights_x[j] * (before[1] - after[1])
        blue += weights_x[j] * (before[2] - after[2])
        before = after
    red = tl.where(inside, truncate(base[0] - tl.ceil(red)), fill[0])
    green = tl.where(inside, truncate(base[1] - tl.ceil(green)), fill[1])
    blue = tl.where(inside, truncate(base[2] - tl.ceil(blue)), fill[2])
    return red, green, blue


@triton.jit
def _interpolated(image, column, top, mask, weights, HEIGHT: tl.constexpr, WIDTH: tl.constexpr):
    base, below = _column(image, column, top, mask, weights, HEIGHT, WIDTH)
    return base[0] - below[0], base[1] - below[1], base[2] - below[2]


@triton.jit
def _column(image, column, top, mask, weights, HEIGHT: tl.constexpr, WIDTH: tl.constexpr):
    """Interpolate down a column: the pixels in row `top`, and what to subtract from them."""
    column = _inside(column, WIDTH)
    base = narrow_load(image, _inside(top, HEIGHT) * WIDTH + column, mask)
    before = narrow_load(image, _inside(top - 1, HEIGHT) * WIDTH + column, mask)
    red, green, blue = tl.zeros_like(base[0]), tl.zeros_like(base[0]), tl.zeros_like(base[0])
    for i in tl.static_range(3):
        after = narrow_load(image, _inside(top + i, HEIGHT) * WIDTH + column, mask)
        red += weights[i] * (before[0] - after[0])
        green += weights[i] * (before[1] - after[1])
        blue += weights[i] * (before[2] - after[2])
        before = after
    return base, (red, green, blue)


@triton.jit
def _inside(place, SIZE: tl.constexpr):
    return tl.minimum(tl.maximum(place, 0), SIZE - 1)


@triton.jit
def _split(position):
    """The pixel whose centre lies before a position, and the weights of the differences from tap to tap."""
    position -= 0.5
    whole = tl.floor(position)
    d = (position - whole).to(tl.float32)
    whole = whole.to(tl.int32)
    product = d * (1.0 - d)
    return whole, (product * (1.0 - d), d, product * -d)
