"""The device side of `kernels.mix`: how a sample is mixed, and two ways to make its pixels.

The wide path serves sides that 16 divides. A thread takes groups of 16 pixels, 48 bytes, in three loads of
16 bytes, and sorts the bytes by channel in its registers. The narrow path serves every other size, and the
tiles that an erased box touches: one pixel a lane, noise drawn where it is needed.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fastsemi.kernels.noise import erase_noise

GROUP = tl.constexpr(16)  # pixels
CHUNK = tl.constexpr(256)  # pixels of one step of the narrow path


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
    B: tl.constexpr,
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
    mean0,  # 255 * mean of each channel
    mean1,
    mean2,
    scale0,  # 1 / (255 * std)
    scale1,
    scale2,
    B: tl.constexpr,
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
        narrow = _erases(erase_box, i, first, last) | _erases(erase_box, j, first, last)
    if narrow:
        for start in range(tile * PIXELS, (tile + 1) * PIXELS, CHUNK):
            _narrow(
                images, out, flip, erase, i, j, blend, start, mean, scale, SIZE, FLIP, ERASE, CHANNELS_LAST
            )
    elif CHANNELS_LAST:
        _wide_interleaved(words, out, i, j, blend, tile, mean, scale, SIZE, GROUPS)
    else:
        _wide_planar(words, out, flip, i, j, blend, tile, mean, scale, SIZE, FLIP, GROUPS)


@triton.jit
def weigh(
    i,
    partner,
    cutmix,
    centre,
    lam,
    confidence,
    threshold,
    B: tl.constexpr,
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
def _next_clean(i, partner, confidence, threshold, B: tl.constexpr, BLOCK_B: tl.constexpr):
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


@triton.jit
def _erases(erase_box, sample, first, last):
    """Whether the erased box of a sample touches rows `first` to `last`."""
    top = tl.load(erase_box + 4 * sample + 1).to(tl.int32)
    width = tl.load(erase_box + 4 * sample + 2).to(tl.int32)
    bottom = top + tl.load(erase_box + 4 * sample + 3).to(tl.int32)
    return (width > 0) & (top <= last) & (bottom > first)


@triton.jit
def _narrow(
    images,
    out,
    flip,
    erase,
    i,
    j,
    blend,
    start,
    mean,
    scale,
    SIZE: tl.constexpr,
    FLIP: tl.constexpr,
    ERASE: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
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
    own = _pixels(images, flip, erase, i, row, column, real, mean, scale, SIZE, FLIP, ERASE)
    other = _pixels(images, flip, erase, j, row, column, needed, mean, scale, SIZE, FLIP, ERASE)
    base = out + i.to(tl.int64) * (3 * SIZE * SIZE)
    for c in tl.static_range(3):
        value = tl.where(inside, other[c], own[c]) + share * (other[c] - own[c])
        offset = 3 * pixel + c if CHANNELS_LAST else c * SIZE * SIZE + pixel
        tl.store(base + offset, value.to(out.dtype.element_ty), mask=real)


@triton.jit
def _pixels(
    images,
    flip,
    erase,
    sample,
    row,
    column,
    mask,
    mean,
    scale,
    SIZE: tl.constexpr,
    FLIP: tl.constexpr,
    ERASE: tl.constexpr,
):
    """The three channels of pixels of a sample: flipped, normalised, erased."""
    source = column
    if FLIP:
        source = tl.where(tl.load(flip + sample) != 0, SIZE - 1 - column, column)
    base = images + sample.to(tl.int64) * (3 * SIZE * SIZE) + 3 * (row * SIZE + source)
    red = (tl.load(base, mask=mask, other=0).to(tl.float32) - mean[0]) * scale[0]
    green = (tl.load(base + 1, mask=mask, other=0).to(tl.float32) - mean[1]) * scale[1]
    blue = (tl.load(base + 2, mask=mask, other=0).to(tl.float32) - mean[2]) * scale[2]
    if ERASE:
        boxes, keys = erase
        if _erases(boxes, sample, tl.min(row, axis=0), tl.max(row, axis=0)):
            left, top = tl.load(boxes + 4 * sample).to(tl.int32), tl.load(boxes + 4 * sample + 1).to(tl.int32)
            right = left + tl.load(boxes + 4 * sample + 2).to(tl.int32)
            bottom = top + tl.load(boxes + 4 * sample + 3).to(tl.int32)
            hit = (column >= left) & (column < right) & (row >= top) & (row < bottom)
            keys += 2 * sample
            noise = erase_noise(tl.load(keys), tl.load(keys + 1), row * SIZE + column)
            red, green = tl.where(hit, noise[0], red), tl.where(hit, noise[1], green)
            blue = tl.where(hit, noise[2], blue)
    return red, green, blue


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
def _wide_planar(
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
    FLIP: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """A tile of the [B, 3, S, S] layout."""
    share, left, top, right, bottom = blend
    PER_ROW: tl.constexpr = SIZE // GROUP
    group = tile * GROUPS + tl.arange(0, GROUPS)
    row = group // PER_ROW
    column = (group % PER_ROW) * GROUP
    need_own, need_other = _needs(row, column, blend, SIZE)
    own = _channel_words(words, flip, i, row, column, need_own, SIZE, FLIP)
    other = _channel_words(words, flip, j, row, column, need_other, SIZE, FLIP)
    place = column[:, None] + tl.arange(0, GROUP)[None, :]  # [GROUPS, 16]
    inside = (place >= left) & (place < right) & ((row >= top) & (row < bottom))[:, None]
    base = out + i.to(tl.int64) * (3 * SIZE * SIZE)
    for c in tl.static_range(3):
        a, b = _bytes(own[c], own[3], GROUPS), _bytes(other[c], other[3], GROUPS)
        value = (tl.where(inside, b, a) - mean[c] + share * (b - a)) * scale[c]
        offset = c * SIZE * SIZE + group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
        tl.store(base + offset, value.to(out.dtype.element_ty), mask=(row < SIZE)[:, None])


@triton.jit
def _wide_interleaved(words, out, i, j, blend, tile, mean, scale, SIZE: tl.constexpr, GROUPS: tl.constexpr):
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
        b = _bytes(tl.load(other_words + 4 * third, mask=need_other[:, None], other=0), shift, GROUPS)
        byte = 16 * third + tl.arange(0, 16)
        place = column[:, None] + (byte // 3)[None, :]
        inside = (place >= left) & (place < right) & rows
        middle, factor = _of_channel(mean, byte % 3), _of_channel(scale, byte % 3)
        value = (tl.where(inside, b, a) - middle[None, :] + share * (b - a)) * factor[None, :]
        offset = group[:, None] * (3 * GROUP) + byte[None, :]
        tl.store(base + offset, value.to(out.dtype.element_ty), mask=(row < SIZE)[:, None])


@triton.jit
def _of_channel(values, channel):
    return tl.where(channel == 0, values[0], tl.where(channel == 1, values[1], values[2]))


@triton.jit
def _channel_words(words, flip, sample, row, column, need, SIZE: tl.constexpr, FLIP: tl.constexpr):
    """Groups of 16 pixels as words of one channel: red, green, blue [N, 4], and the shifts of a word's bytes.

    Of a flipped sample the mirrored group is read, its words are taken in reverse, and the bytes of each
    word by reversed shifts.
    """
    shift = 8 * tl.arange(0, 4)
    mirror = 0
    if FLIP:
        mirror = tl.load(flip + sample).to(tl.int32)
        column = tl.where(mirror != 0, SIZE - GROUP - column, column)
        shift = tl.where(mirror != 0, 24 - shift, shift)
    group = row * (SIZE // GROUP) + column // GROUP
    address = (
        words + sample.to(tl.int64) * (SIZE * SIZE * 3 // 4) + group[:, None] * 12 + tl.arange(0, 4)[None, :]
    )
    a0, a1, a2, a3 = _split4(tl.load(address, mask=need[:, None], other=0))
    b0, b1, b2, b3 = _split4(tl.load(address + 4, mask=need[:, None], other=0))
    c0, c1, c2, c3 = _split4(tl.load(address + 8, mask=need[:, None], other=0))
    # In memory the words are a0 ... a3, b0 ... b3, c0 ... c3; every three hold four pixels:
    # u = rgbr, v = gbrg, w = brgb, the first byte lowest.
    u = _join4(a0, a3, b2, c1, mirror, FLIP)
    v = _join4(a1, b0, b3, c2, mirror, FLIP)
    w = _join4(a2, b1, c0, c3, mirror, FLIP)
    red = (u & 0xFF) | ((u >> 16) & 0xFF00) | (v & 0xFF0000) | ((w & 0xFF00) << 16)
    green = ((u >> 8) & 0xFF) | ((v & 0xFF) << 8) | ((v >> 8) & 0xFF0000) | ((w & 0xFF0000) << 8)
    blue = ((u >> 16) & 0xFF) | (v & 0xFF00) | ((w & 0xFF) << 16) | ((w >> 24) << 24)
    return red, green, blue, shift


@triton.jit
def _split4(x):
    even, odd = tl.split(tl.reshape(x, (x.shape[0], 2, 2)))
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    return first, second, third, fourth


@triton.jit
def _join4(first, second, third, fourth, mirror, FLIP: tl.constexpr):
    if FLIP:
        flipped = mirror != 0
        first, fourth = tl.where(flipped, fourth, first), tl.where(flipped, first, fourth)
        second, third = tl.where(flipped, third, second), tl.where(flipped, second, third)
    pairs = tl.join(tl.join(first, third), tl.join(second, fourth))
    return tl.reshape(pairs, (first.shape[0], 4))


@triton.jit
def _bytes(words, shift, GROUPS: tl.constexpr):
    """The bytes of [GROUPS, 4] words as float32 [GROUPS, 16]."""
    return tl.reshape((words[:, :, None] >> shift[None, None, :]) & 0xFF, (GROUPS, 16)).to(tl.float32)
