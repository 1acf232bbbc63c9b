"""The augmentation operations on single pixels, in Triton; `kernels.reference.color` specifies them.

Channels are float32 tensors of any shape with whole values 0 to 255.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fastsemi.loaders.plan.types import RANDAUGMENT_OPS

AUTOCONTRAST = tl.constexpr(RANDAUGMENT_OPS.index("autocontrast"))
_INVERT = tl.constexpr(RANDAUGMENT_OPS.index("invert"))
_POSTERIZE = tl.constexpr(RANDAUGMENT_OPS.index("posterize"))
_SOLARIZE = tl.constexpr(RANDAUGMENT_OPS.index("solarize"))
_SOLARIZE_ADD = tl.constexpr(RANDAUGMENT_OPS.index("solarize_add"))
_COLOR = tl.constexpr(RANDAUGMENT_OPS.index("color"))
CONTRAST = tl.constexpr(RANDAUGMENT_OPS.index("contrast"))
_BRIGHTNESS = tl.constexpr(RANDAUGMENT_OPS.index("brightness"))


@triton.jit
def truncate(value):
    """Clip to [0, 255] and drop the fraction, as Pillow's casts do."""
    return tl.floor(tl.minimum(tl.maximum(value, 0.0), 255.0))


@triton.jit
def blend(degenerate, value, factor):
    """PIL.Image.blend: `degenerate + factor * (value - degenerate)`, each step rounded to float32.

    Clipping the product, and not the sum, gives the same result, and keeps the compiler from contracting
    product and sum into one step that rounds once.
    """
    product = (value - degenerate) * factor
    return tl.floor(degenerate + tl.minimum(tl.maximum(product, -degenerate), 255.0 - degenerate))


@triton.jit
def grey(red, green, blue):
    """Pillow's "L" conversion; every intermediate value is an integer below 2^24, exact in float32."""
    return tl.floor((red * 19595.0 + green * 38470.0 + blue * 7471.0 + 32768.0) * (1.0 / 65536))


@triton.jit
def pointwise(
    red,
    green,
    blue,
    op,
    arg,
    first,
    last,
    partial,
    tables,
    STATISTICS: tl.constexpr,
    PIXELS: tl.constexpr,
    TILES: tl.constexpr,
):
    """Operations `first` to `last` - 1 of a pass; with STATISTICS also those that look at the whole image.

    Args:
        red: Channel of any shape; the others alike.
        green: See `red`.
        blue: See `red`.
        op: Operations of the batch.
        arg: Their arguments.
        first: Of these, the first to make.
        last: The one to stop before.
        partial: Sums of grey of the tiles, where an operation is contrast.
        tables: Table of each channel, where one is autocontrast or equalize.
        STATISTICS: Whether those three can occur.
        PIXELS: Of the image.
        TILES: Of the image.
    """
    for step in range(first, last):
        code, value = tl.load(op + step), tl.load(arg + step)
        # Few branches, not deeply nested: on Volta deep ones need memory for where their threads meet again.
        if (code == _BRIGHTNESS) | (code == _COLOR) | (code == CONTRAST):
            middle = tl.zeros_like(red)
            if code == _COLOR:
                middle = grey(red, green, blue)
            if STATISTICS:
                if code == CONTRAST:
                    middle += _mean(partial, PIXELS, TILES)
            red, green, blue = (
                blend(middle, red, value),
                blend(middle, green, value),
                blend(middle, blue, value),
            )
        elif (code == _INVERT) | (code == _SOLARIZE):
            value = tl.where(code == _INVERT, 0.0, value)
            red = tl.where(red >= value, 255.0 - red, red)
            green = tl.where(green >= value, 255.0 - green, green)
            blue = tl.where(blue >= value, 255.0 - blue, blue)
        elif code == _POSTERIZE:
            mask = (0xFF00 >> value.to(tl.int32)) & 0xFF
            red, green, blue = _masked(red, mask), _masked(green, mask), _masked(blue, mask)
        elif code == _SOLARIZE_ADD:
            value = value.to(tl.int32).to(tl.float32)
            red = tl.where(red < 128.0, red + value, red)
            green = tl.where(green < 128.0, green + value, green)
            blue = tl.where(blue < 128.0, blue + value, blue)
        elif STATISTICS:
            red, green = _lookup(tables, red), _lookup(tables + 256, green)
            blue = _lookup(tables + 512, blue)
    return red, green, blue


@triton.jit
def _mean(partial, PIXELS: tl.constexpr, TILES: tl.constexpr):
    """Mean grey of the image, rounded."""
    TOTAL: tl.constexpr = triton.next_power_of_2(TILES)
    tile = tl.arange(0, TOTAL)
    total = tl.sum(tl.load(partial + tile, mask=tile < TILES, other=0).to(tl.int64), axis=0)
    return ((2 * total + PIXELS) // (2 * PIXELS)).to(tl.float32)


@triton.jit
def _masked(channel, mask):
    return (channel.to(tl.int32) & mask).to(tl.float32)


@triton.jit
def _lookup(table, channel):
    """A gather inside the program: scattered loads would take all pixels to another layout on the way."""
    table = tl.load(table + tl.arange(0, 256)).to(tl.float32)
    return tl.reshape(tl.gather(table, tl.ravel(channel).to(tl.int32), axis=0), channel.shape)
