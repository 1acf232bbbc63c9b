"""The noise of erased boxes inside Triton kernels: the same words and normals as `reference.noise`.

Inside a box these are most of the instructions of `kernels.mix`, so they are few: 139 for a pixel on sm_90,
where `tl.philox`, `tl.log2` and two series for sine and cosine took 209. The library multiplies twice for the
two halves of a product, and its functions serve arguments that no uniform number leads to.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fastsemi.kernels.reference.noise import KEY_STEPS, MULTIPLIERS, ROUNDS

_MULTIPLIER0, _MULTIPLIER1 = (tl.constexpr(number) for number in MULTIPLIERS)
_STEP0, _STEP1 = (tl.constexpr(number) for number in KEY_STEPS)
_ROUNDS = tl.constexpr(ROUNDS)
_ROOT_HALF = tl.constexpr(0x3F3504F3)  # sqrt(1/2) in float32


@triton.jit
def erase_noise(key0, key1, pixel):
    """Three standard normals for each pixel, as `kernels.reference.noise.erase_noise`.

    Args:
        key0: First key word of the sample, a scalar in uint32.
        key1: Second key word, likewise.
        pixel: int32 [N], index y * S + x.

    Returns:
        Three float32 [N].
    """
    first, second, third, fourth = _philox(key0, key1, pixel)
    radius, turn = _radius(_uniform(first)), _uniform(second)
    other = _radius(_uniform(third)) * _cosine(_uniform(fourth))
    return radius * _cosine(turn), radius * _cosine(tl.abs(turn - 0.25)), other  # sin x = cos(x - a quarter)


@triton.jit
def _philox(key0, key1, pixel):
    """The words of `kernels.reference.noise.philox` of the counter (pixel, 0, 0, 0)."""
    word0 = pixel.to(tl.uint32)
    word1, word2, word3 = word0 * 0, word0 * 0, word0 * 0
    for _ in tl.static_range(_ROUNDS):
        product0, product1 = word0.to(tl.uint64) * _MULTIPLIER0, word2.to(tl.uint64) * _MULTIPLIER1
        word0, word2 = _high(product1) ^ word1 ^ key0, _high(product0) ^ word3 ^ key1
        word1, word3 = product1.to(tl.uint32), product0.to(tl.uint32)
        key0 = tl.add(key0, _STEP0, sanitize_overflow=False)
        key1 = tl.add(key1, _STEP1, sanitize_overflow=False)
    return word0, word1, word2, word3


@triton.jit
def _high(product):
    return (product >> 32).to(tl.uint32)


@triton.jit
def _uniform(word):
    """The top 23 bits and a half, in units of 2^-23: as the mantissa of a number from 1 to 2, less 1."""
    return ((word >> 9) | 0x3F800000).to(tl.float32, bitcast=True) - 0.999999940395355224609375  # 1 - 2^-24


@triton.jit
def _radius(uniform):
    """sqrt(-2 ln u): a polynomial of the mantissa of u, taken from sqrt(1/2) to sqrt(2), and its exponent.

    Fitted for the least relative error of -2 ln(1 + x). With a rounded root the radius is 5e-7 off at the
    most, over all 2^23 numbers u.
    """
    bits = uniform.to(tl.int32, bitcast=True)
    exponent = (bits - _ROOT_HALF) >> 23
    x = (bits - (exponent << 23)).to(tl.float32, bitcast=True) - 1.0
    series = 0.28853750 - 0.17959033 * x
    series = 0.33103576 + x * (-0.29767370 + x * series)
    series = 0.50005167 + x * (-0.39926955 + x * series)
    series = 0.99999964 + x * (-0.66667867 + x * series)
    return tl.sqrt(exponent.to(tl.float32) * -1.3862943611198906 + (x * x * series - 2.0 * x))  # -2 ln 2


@triton.jit
def _cosine(turn):
    """Cosine of 0 to 1 turns: the sine of what is left to the nearest odd quarter, which is exact.

    The polynomial is fitted for the least error of sin(2 pi x), |x| up to a quarter. In float32 it is 2e-7
    off at the most, over all 2^23 angles.
    """
    x = 0.25 - tl.minimum(turn, 1.0 - turn)
    square = x * x
    series = 81.60091400 + square * (-76.54801178 + square * 39.52503967)
    return x * (6.28318501 + square * (-41.34165192 + square * series))
