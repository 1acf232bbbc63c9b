"""The noise of erased boxes inside Triton kernels: the same words and normals as `reference.noise`."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def erase_noise(key0, key1, pixel):
    """Three standard normals for each pixel, as `kernels.reference.noise.erase_noise`.

    Args:
        key0: First 32-bit key word of the sample, a scalar in int64.
        key1: Second key word, likewise.
        pixel: int32 [N], index y * S + x.

    Returns:
        Three float32 [N].
    """
    zero = pixel * 0
    first, second, third, fourth = tl.philox(key0 | (key1 << 32), pixel, zero, zero, zero)
    cosine, sine = _turn(_uniform(second))
    other_cosine, _ = _turn(_uniform(fourth))
    radius = _radius(_uniform(first))
    return radius * cosine, radius * sine, _radius(_uniform(third)) * other_cosine


@triton.jit
def _uniform(word):
    return ((word >> 9).to(tl.float32) + 0.5) * 1.1920928955078125e-07  # 2^-23


@triton.jit
def _radius(uniform):
    return tl.sqrt(-1.3862943611198906 * tl.log2(uniform))  # -2 ln(uniform)


@triton.jit
def _turn(uniform):
    """Cosine and sine of `uniform` turns, to about 1e-7.

    The library's functions keep a table in local memory for huge arguments, which no angle here needs. The
    nearest quarter is taken off exactly, and the Taylor series of the rest, at most an eighth of a turn,
    end below 3e-8.
    """
    quarters = 4.0 * uniform
    quarter = tl.floor(quarters + 0.5)
    angle = (quarters - quarter) * 1.5707963267948966
    square = angle * angle
    cosine = 1.0 + square * (-1.0 / 2 + square * (1.0 / 24 + square * (-1.0 / 720 + square * (1.0 / 40320))))
    sine = -1.0 / 6 + square * (1.0 / 120 + square * (-1.0 / 5040 + square * (1.0 / 362880)))
    sine = angle + angle * (square * sine)
    index = quarter.to(tl.int32) & 3
    odd = (index & 1) == 1
    turned_cosine, turned_sine = tl.where(odd, sine, cosine), tl.where(odd, cosine, sine)
    turned_cosine = tl.where((index == 1) | (index == 2), -turned_cosine, turned_cosine)
    return turned_cosine, tl.where(index >= 2, -turned_sine, turned_sine)
