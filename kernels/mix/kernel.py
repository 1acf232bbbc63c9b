"""The Triton kernels of `kernels.mix`: how a sample is mixed, and which path makes its pixels.

The wide path (`kernels.mix_wide`) serves sides that 16 divides. The narrow path (`kernels.mix_narrow`) serves
every other size, and the tiles that an erased box touches.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fastsemi.kernels.mix.narrow import CHUNK, erases, narrow_pixels
from fastsemi.kernels.mix.wide import GROUP, wide_interleaved, wide_planar


@triton.jit
def weights_kernel(
    partner,
    cutmix,
    centre,
    lam,
    confidence,
    out_partner,
    out_lam,
    out_box,
    out_confidence,
    out_keep,
    threshold,
    B,
    BLOCK_B: tl.constexpr,
    SIZE: tl.constexpr,
    MODE: tl.constexpr,
):
    """One sample a program."""
    i = tl.program_id(0)
    plan = weigh(i, partner, cutmix, centre, lam, confidence, threshold, B, BLOCK_B, SIZE, MODE)
    store_weights(i, plan, out_partner, out_lam, out_box, out_confidence, out_keep)


@triton.jit
def mix_kernel(
    images,  # uint8 [B, S, S, 3]
    words,  # its bytes as int32, read on the wide path
    out,  # [B, 3, S, S], or [B, S, S, 3] for channels last
    flip,
    erase_box,
    erase_key,
    partner,
    cutmix,
    centre,
    lam,
    confidence,
    box,  # read in mode "given" alone
    out_partner,
    out_lam,
    out_box,
    out_confidence,
    out_keep,
    threshold,
    B,
    mean0,  # 255 * mean of each channel
    mean1,
    mean2,
    scale0,  # 1 / (255 * std)
    scale1,
    scale2,
    BLOCK_B: tl.constexpr,
    SIZE: tl.constexpr,
    MODE: tl.constexpr,
    FLIP: tl.constexpr,
    ERASE: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    WIDE: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """One tile of GROUPS * 16 pixels of one sample a program; the first tile also writes the weights."""
    PIXELS: tl.constexpr = GROUPS * GROUP
    TILES: tl.constexpr = (SIZE * SIZE + PIXELS - 1) // PIXELS
    i = tl.program_id(0) // TILES
    tile = tl.program_id(0) % TILES
    if MODE == "plain":
        j, share, left, top, width, height = i, 0.0, 0, 0, 0, 0
    elif MODE == "given":
        j, share = tl.load(partner + i).to(tl.int32), 1.0 - tl.load(lam + i)
        left, top = tl.load(box + 4 * i).to(tl.int32), tl.load(box + 4 * i + 1).to(tl.int32)
        width, height = tl.load(box + 4 * i + 2).to(tl.int32), tl.load(box + 4 * i + 3).to(tl.int32)
    else:
        plan = weigh(i, partner, cutmix, centre, lam, confidence, threshold, B, BLOCK_B, SIZE, MODE)
        j, own, left, top, width, height, _, _ = plan
        share = 1.0 - own
        if tile == 0:
            store_weights(i, plan, out_partner, out_lam, out_box, out_confidence, out_keep)
    share = tl.where(width > 0, 0.0, share)  # of j in every pixel; inside its box cutmix takes j whole
    blend = share, left, top, left + width, top + height
    mean, scale = (mean0, mean1, mean2), (scale0, scale1, scale2)
    erase = erase_box, erase_key

    narrow = not WIDE
    if ERASE and WIDE:
        first, last = tile * PIXELS // SIZE, ((tile + 1) * PIXELS - 1) // SIZE
        narrow = erases(erase_box, i, first, last) | erases(erase_box, j, first, last)
    if narrow:
        for step in range(0, PIXELS, CHUNK):
            start = tile * PIXELS + step
            narrow_pixels(
                images, out, flip, erase, i, j, blend, start, mean, scale, SIZE, FLIP, ERASE, CHANNELS_LAST
            )
    elif CHANNELS_LAST:
        wide_interleaved(words, out, i, j, blend, tile, mean, scale, SIZE, MODE, GROUPS)
    else:
        wide_planar(words, out, flip, i, j, blend, tile, mean, scale, SIZE, MODE, FLIP, GROUPS)


@triton.jit
def weigh(
    i,
    partner,
    cutmix,
    centre,
    lam,
    confidence,
    threshold,
    B,
    BLOCK_B: tl.constexpr,
    SIZE: tl.constexpr,
    MODE: tl.constexpr,
):
    """Row i of `kernels.reference.mix.mix_weights`; mode "labelled" is `labelled_mix_weights`.

    Returns:
        Scalars: partner, weight of i, left, top, width, height of its box, confidence, keep.
    """
    j, own = tl.load(partner + i).to(tl.int32), tl.load(lam + i)
    score = 1.0
    if MODE != "labelled":
        score = tl.load(confidence + i)
    keep = score >= threshold
    if MODE == "none":
        j = i
    elif MODE == "pseudo_plus":
        j = _next_clean(i, partner, confidence, threshold, B, BLOCK_B)
    elif MODE == "prob":
        other = tl.load(confidence + j)
        own = tl.div_rn(score, score + other)  # equation 4
        score = tl.where(other > score, other, score)  # equation 5
        keep = score >= threshold
    side = (SIZE * tl.sqrt_rn(1.0 - own)).to(tl.int32)
    x = tl.minimum((SIZE * tl.load(centre + 2 * i)).to(tl.int32), SIZE - 1)
    y = tl.minimum((SIZE * tl.load(centre + 2 * i + 1)).to(tl.int32), SIZE - 1)
    boxed = tl.load(cutmix + i).to(tl.int32) * (j != i).to(tl.int32) * (side > 0).to(tl.int32)
    left, top = boxed * tl.maximum(x - side // 2, 0), boxed * tl.maximum(y - side // 2, 0)
    width = boxed * tl.minimum(x + (side + 1) // 2, SIZE) - left
    height = boxed * tl.minimum(y + (side + 1) // 2, SIZE) - top
    kept = tl.div_rn((SIZE * SIZE - width * height).to(tl.float32), SIZE * SIZE + 0.0)
    own = tl.where(tl.load(cutmix + i) != 0, kept, own)
    return j, tl.where(j == i, 1.0, own), left, top, width, height, score, keep


@triton.jit
def store_weights(i, plan, out_partner, out_lam, out_box, out_confidence, out_keep):
    """Write what `weigh` returned."""
    j, own, left, top, width, height, score, keep = plan
    tl.store(out_partner + i, j.to(tl.int64))
    tl.store(out_lam + i, own)
    tl.store(out_box + 4 * i, left.to(tl.int64))
    tl.store(out_box + 4 * i + 1, top.to(tl.int64))
    tl.store(out_box + 4 * i + 2, width.to(tl.int64))
    tl.store(out_box + 4 * i + 3, height.to(tl.int64))
    tl.store(out_confidence + i, score)
    tl.store(out_keep + i, keep)


@triton.jit
def _next_clean(i, partner, confidence, threshold, B, BLOCK_B: tl.constexpr):
    """The clean sample after i in the list `partner`, cyclic; i itself where it is not clean."""
    place = tl.arange(0, BLOCK_B)
    sample = tl.load(partner + place, mask=place < B, other=0).to(tl.int32)
    score = tl.load(confidence + sample)
    mine = tl.sum(tl.where((place < B) & (sample == i), place, 0), axis=0)
    ahead = (place - mine - 1 + B) % B  # steps after the next place; B - 1 for i's own
    ahead = tl.where((place < B) & (score >= threshold), ahead, B)
    nearest = tl.min(ahead, axis=0)
    j = tl.sum(tl.where(ahead == nearest, sample, 0), axis=0)
    return tl.where(tl.load(confidence + i) >= threshold, j, i)
