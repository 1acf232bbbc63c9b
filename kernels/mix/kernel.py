"""The Triton kernel of `kernels.mix`: who is mixed in where, and which path makes the pixels.

The wide path (`kernels.mix.wide`) serves sides that 16 divides. The narrow path (`kernels.mix.narrow`) serves
every other size, and the tiles that an erased box touches.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fastsemi.kernels.blocks.pixels import GROUP
from fastsemi.kernels.mix.narrow import CHUNK, erases, narrow_pixels
from fastsemi.kernels.mix.wide import wide_pixels


@triton.jit
def mix_kernel(
    images,  # uint8 [B, S, S, 3]
    out,  # [B, 3, S, S]
    erase_box,
    erase_key,
    partner,
    lam,
    cutmix,
    centre,
    out_lam,
    mean0,  # 255 * mean of each channel
    mean1,
    mean2,
    scale0,  # 1 / (255 * std)
    scale1,
    scale2,
    SIZE: tl.constexpr,
    MIX: tl.constexpr,
    ERASE: tl.constexpr,
    WIDE: tl.constexpr,
    GROUPS: tl.constexpr,
    EVEN: tl.constexpr,
):
    """One tile of GROUPS * 16 pixels of one sample a program; the first tile also writes the weight."""
    PIXELS: tl.constexpr = GROUPS * GROUP
    TILES: tl.constexpr = (SIZE * SIZE + PIXELS - 1) // PIXELS
    i = tl.program_id(0) // TILES
    tile = tl.program_id(0) % TILES
    j, share, left, top, right, bottom = i, 0.0, 0, 0, 0, 0
    if MIX:
        j = tl.load(partner + i).to(tl.int32)
        own, left, top, right, bottom = weigh(i, j, lam, cutmix, centre, SIZE, EVEN)
        if tile == 0:
            tl.store(out_lam + i, own)
        share = tl.where(right > left, 0.0, 1.0 - own)  # inside its box cutmix takes j whole
    blend = share, left, top, right, bottom  # `share` is j's in every pixel outside of the box
    mean, scale = (mean0, mean1, mean2), (scale0, scale1, scale2)
    erase = erase_box, erase_key

    narrow = not WIDE
    if ERASE and WIDE:
        first, last = tile * PIXELS // SIZE, ((tile + 1) * PIXELS - 1) // SIZE
        narrow = erases(erase_box, i, first, last) | erases(erase_box, j, first, last)
    if narrow:
        for step in range(0, PIXELS, CHUNK):
            narrow_pixels(images, out, erase, i, j, blend, tile * PIXELS + step, mean, scale, SIZE, ERASE)
    else:
        wide_pixels(images, out, i, j, blend, tile, mean, scale, SIZE, MIX, GROUPS)


@triton.jit
def weigh(i, j, lam, cutmix, centre, SIZE: tl.constexpr, EVEN: tl.constexpr):
    """The weight of i, corrected to the pixels it keeps, and left, top, right and bottom of its box.

    Scalars, equal to `corrected` of `kernels.reference.mix` bit by bit.
    """
    own, boxed = tl.load(lam + i), tl.load(cutmix + i) != 0
    side = (SIZE * tl.sqrt_rn(1.0 - own)).to(tl.int32)
    x = tl.minimum((SIZE * tl.load(centre + 2 * i)).to(tl.int32), SIZE - 1)
    y = tl.minimum((SIZE * tl.load(centre + 2 * i + 1)).to(tl.int32), SIZE - 1)
    there = (boxed & (j != i) & (side > EVEN)).to(tl.int32)
    left, top = there * tl.maximum(x - side // 2, 0), there * tl.maximum(y - side // 2, 0)
    right = there * tl.minimum(x + (side + 1 - EVEN) // 2, SIZE)
    bottom = there * tl.minimum(y + (side + 1 - EVEN) // 2, SIZE)
    kept = SIZE * SIZE - (right - left) * (bottom - top)
    own = tl.where(boxed, tl.div_rn(kept.to(tl.float32), SIZE * SIZE + 0.0), own)
    return tl.where(j == i, 1.0, own), left, top, right, bottom
