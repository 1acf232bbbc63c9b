"""The Triton kernel of `kernels.mix`: who is mixed in where, and which path makes the pixels.

The wide path (`kernels.mix.wide`) serves sides that 16 divides, all but the groups of 16 pixels that an
erased box touches. The narrow path (`kernels.mix.narrow`) serves these, in programs of their own, and every
other size.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fastsemi.kernels.blocks.pixels import GROUP
from fastsemi.kernels.mix.narrow import CHUNK, box_pixels, strip_pixels
from fastsemi.kernels.mix.wide import wide_pixels

PARTS = tl.constexpr(8)  # programs that share an erased box


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
    BOXES: tl.constexpr,
):
    """A part of an erased box, or a tile of GROUPS * 16 pixels, of one sample a program.

    The first programs are BOXES for each sample: PARTS for its own box and, where it is mixed, PARTS for its
    partner's. The first tile of a sample also writes the weight. No pixel is written with two values.
    """
    PIXELS: tl.constexpr = GROUPS * GROUP
    TILES: tl.constexpr = (SIZE * SIZE + PIXELS - 1) // PIXELS
    program = tl.program_id(0)
    in_boxes = tl.num_programs(0) // (TILES + BOXES) * BOXES
    boxed = program < in_boxes
    i, tile = (program - in_boxes) // TILES, (program - in_boxes) % TILES
    if BOXES:
        i = tl.where(boxed, program // BOXES, i)
    j, share, left, top, right, bottom = i, 0.0, 0, 0, 0, 0
    if MIX:
        j = tl.load(partner + i).to(tl.int32)
        own, left, top, right, bottom = weigh(i, j, lam, cutmix, centre, SIZE, EVEN)
        if (tile == 0) & (program >= in_boxes):
            tl.store(out_lam + i, own)
        share = tl.where(right > left, 0.0, 1.0 - own)  # inside its box cutmix takes j whole
    blend = share, left, top, right, bottom  # `share` is j's in every pixel outside of the box
    mean, scale = (mean0, mean1, mean2), (scale0, scale1, scale2)
    erase = erase_box, erase_key

    if not WIDE:
        for step in range(0, PIXELS, CHUNK):
            strip_pixels(images, out, erase, i, j, blend, tile * PIXELS + step, mean, scale, SIZE, ERASE)
    elif boxed:
        part = program % BOXES
        whose = tl.where(part < PARTS, i, j)
        if (part < PARTS) | (i != j):
            box_pixels(images, out, erase, i, j, blend, whose, part % PARTS, PARTS, mean, scale, SIZE)
    else:
        wide_pixels(images, out, erase_box, i, j, blend, tile, mean, scale, SIZE, MIX, ERASE, GROUPS)


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
