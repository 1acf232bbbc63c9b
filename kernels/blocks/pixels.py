"""How kernels get at the pixels of uint8 images [B, H, W, 3]: 16 a thread in wide loads, or one a lane.

Channels are float32 tensors with whole values 0 to 255, whatever shape a path gives them.
"""

from __future__ import annotations

import triton
import triton.language as tl

GROUP = tl.constexpr(16)  # pixels of a thread on the wide path: 48 bytes


@triton.jit
def wide_load(images, index, group, need, PIXELS: tl.constexpr):
    """Groups of 16 pixels of image `index` by channel: red, green and blue, each [N, 16].

    Args:
        images: Aligned to 16 bytes.
        index: Which image.
        group: int32 [N], counted from the first pixel.
        need: bool [N], groups to read; the others are 0.
        PIXELS: Of an image; 16 divides it.
    """
    address = _words(images, index, group, PIXELS)
    a0, a1, a2, a3 = _split4(tl.load(address, mask=need[:, None], other=0))
    b0, b1, b2, b3 = _split4(tl.load(address + 4, mask=need[:, None], other=0))
    c0, c1, c2, c3 = _split4(tl.load(address + 8, mask=need[:, None], other=0))
    # In memory the words are a0 ... a3, b0 ... b3, c0 ... c3, and every three of them hold four pixels:
    # u = rgbr, v = gbrg, w = brgb, lowest byte first.
    u, v, w = _join4(a0, a3, b2, c1), _join4(a1, b0, b3, c2), _join4(a2, b1, c0, c3)  # [N, 4]
    red = _sixteen(_byte(u, 0), _byte(u, 3), _byte(v, 2), _byte(w, 1))
    green = _sixteen(_byte(u, 1), _byte(v, 0), _byte(v, 3), _byte(w, 2))
    blue = _sixteen(_byte(u, 2), _byte(v, 1), _byte(w, 0), _byte(w, 3))
    return red, green, blue


@triton.jit
def wide_store(images, index, group, real, red, green, blue, PIXELS: tl.constexpr):
    """The inverse of `wide_load`; writes the groups that are `real`."""
    r0, r1, r2, r3 = _quads(red)
    g0, g1, g2, g3 = _quads(green)
    b0, b1, b2, b3 = _quads(blue)
    u0, u1, u2, u3 = _split4(_word(r0, g0, b0, r1))
    v0, v1, v2, v3 = _split4(_word(g1, b1, r2, g2))
    w0, w1, w2, w3 = _split4(_word(b2, r3, g3, b3))
    address = _words(images, index, group, PIXELS)
    tl.store(address, _join4(u0, v0, w0, u1), mask=real[:, None])
    tl.store(address + 4, _join4(v1, w1, u2, v2), mask=real[:, None])
    tl.store(address + 8, _join4(w2, u3, v3, w3), mask=real[:, None])


@triton.jit
def narrow_load(image, pixel, need):
    """Red, green and blue of pixels of an image, one a lane; 0 where not needed."""
    address = image + 3 * pixel
    red = tl.load(address, mask=need, other=0).to(tl.float32)
    green = tl.load(address + 1, mask=need, other=0).to(tl.float32)
    blue = tl.load(address + 2, mask=need, other=0).to(tl.float32)
    return red, green, blue


@triton.jit
def narrow_store(image, pixel, red, green, blue, real):
    """The inverse of `narrow_load`; writes the pixels that are `real`."""
    address = image + 3 * pixel
    tl.store(address, red.to(tl.uint8), mask=real)
    tl.store(address + 1, green.to(tl.uint8), mask=real)
    tl.store(address + 2, blue.to(tl.uint8), mask=real)


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
    return tl.reshape(_join4(first, second, third, fourth), (first.shape[0], GROUP))


@triton.jit
def _quads(x):
    """The inverse of `_sixteen`."""
    even, odd = tl.split(tl.reshape(x, (x.shape[0], 4, 2, 2)))
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    return first, second, third, fourth


@triton.jit
def _split4(x):
    """[N, 4] -> four of [N]."""
    even, odd = tl.split(tl.reshape(x, (x.shape[0], 2, 2)))
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    return first, second, third, fourth


@triton.jit
def _join4(first, second, third, fourth):
    """Four of [N, ...] -> [N, ..., 4]."""
    pairs = tl.join(tl.join(first, third), tl.join(second, fourth))
    return tl.reshape(pairs, first.shape + (4,))  # noqa: RUF005 (Triton has no starred tuples)
