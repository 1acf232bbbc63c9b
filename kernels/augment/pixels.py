"""How the augmentation kernels get at pixels: 16 a thread in wide loads, or one a lane.

Channels are float32 tensors with whole values 0 to 255, whatever shape a path gives them.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fastsemi.kernels.mix.wide import join4, split4

GROUP = tl.constexpr(16)  # pixels of a thread on the wide path: 48 bytes


@triton.jit
def wide_load(images, index, tile, PIXELS: tl.constexpr, GROUPS: tl.constexpr):
    """Red, green and blue of a tile of image `index`, [GROUPS, 16] each, and which groups exist, [GROUPS]."""
    group = tile * GROUPS + tl.arange(0, GROUPS)
    real = group < PIXELS // GROUP
    address = _words(images, index, group, PIXELS)
    a0, a1, a2, a3 = split4(tl.load(address, mask=real[:, None], other=0))
    b0, b1, b2, b3 = split4(tl.load(address + 4, mask=real[:, None], other=0))
    c0, c1, c2, c3 = split4(tl.load(address + 8, mask=real[:, None], other=0))
    # Every three words hold four pixels, lowest byte first: u = rgbr, v = gbrg, w = brgb.
    u, v, w = join4(a0, a3, b2, c1), join4(a1, b0, b3, c2), join4(a2, b1, c0, c3)  # [GROUPS, 4]
    red = _sixteen(_byte(u, 0), _byte(u, 3), _byte(v, 2), _byte(w, 1))
    green = _sixteen(_byte(u, 1), _byte(v, 0), _byte(v, 3), _byte(w, 2))
    blue = _sixteen(_byte(u, 2), _byte(v, 1), _byte(w, 0), _byte(w, 3))
    return red, green, blue, real


@triton.jit
def wide_store(images, index, tile, red, green, blue, PIXELS: tl.constexpr, GROUPS: tl.constexpr):
    """The inverse of `wide_load`."""
    group = tile * GROUPS + tl.arange(0, GROUPS)
    real = group < PIXELS // GROUP
    r0, r1, r2, r3 = _quads(red)
    g0, g1, g2, g3 = _quads(green)
    b0, b1, b2, b3 = _quads(blue)
    u0, u1, u2, u3 = split4(_word(r0, g0, b0, r1))
    v0, v1, v2, v3 = split4(_word(g1, b1, r2, g2))
    w0, w1, w2, w3 = split4(_word(b2, r3, g3, b3))
    address = _words(images, index, group, PIXELS)
    tl.store(address, join4(u0, v0, w0, u1), mask=real[:, None])
    tl.store(address + 4, join4(v1, w1, u2, v2), mask=real[:, None])
    tl.store(address + 8, join4(w2, u3, v3, w3), mask=real[:, None])


@triton.jit
def _words(images, index, group, PIXELS: tl.constexpr):
    words = images.to(tl.pointer_type(tl.int32), bitcast=True)
    return words + index.to(tl.int64) * (3 * PIXELS // 4) + group[:, None] * 12 + tl.arange(0, 4)[None, :]


@triton.jit
def _byte(word, index: tl.constexpr):
    return ((word >> (8 * index)) & 0xFF).to(tl.float32)


@triton.jit
def _word(first, second, third, fourth):
    low = first.to(tl.int32) | (second.to(tl.int32) << 8)
    return low | (third.to(tl.int32) << 16) | (fourth.to(tl.int32) << 24)


@triton.jit
def _sixteen(first, second, third, fourth):
    """[N, 4] values of pixels 0, 1, 2, 3 of every four as [N, 16]."""
    return tl.reshape(join4(first, second, third, fourth), (first.shape[0], GROUP))


@triton.jit
def _quads(x):
    """The inverse of `_sixteen`."""
    even, odd = tl.split(tl.reshape(x, (x.shape[0], 4, 2, 2)))
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    return first, second, third, fourth


@triton.jit
def narrow_load(image, pixel, mask):
    """Red, green and blue of pixels, one a lane."""
    address = image + 3 * pixel
    red = tl.load(address, mask=mask, other=0).to(tl.float32)
    green = tl.load(address + 1, mask=mask, other=0).to(tl.float32)
    blue = tl.load(address + 2, mask=mask, other=0).to(tl.float32)
    return red, green, blue


@triton.jit
def narrow_store(image, pixel, red, green, blue, mask):
    """The inverse of `narrow_load`."""
    address = image + 3 * pixel
    tl.store(address, red.to(tl.uint8), mask=mask)
    tl.store(address + 1, green.to(tl.uint8), mask=mask)
    tl.store(address + 2, blue.to(tl.uint8), mask=mask)
