"""Counter-based noise: Philox4x32-10 in plain PyTorch, and the pixels that fill an erased box.

A noise pixel is a function of `(key, pixel index)` alone, so any part of an image can be drawn on any
device, in any order, and a fused kernel can draw it in place.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

Words = tuple[Tensor, Tensor, Tensor, Tensor]

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
LOW_32 = 0xFFFFFFFF


def philox(counter: Tensor, key: Tensor) -> Tensor:
    """Philox4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011).

    Args:
        counter: int64 [..., 4], 32-bit words (0 to 2^32 - 1).
        key: int64 [..., 2], 32-bit words; its leading shape broadcasts against that of `counter`.

    Returns:
        int64 [..., 4], 32-bit words.
    """
    c0, c1, c2, c3 = counter.unbind(-1)
    k0, k1 = key.unbind(-1)
    return torch.stack(torch.broadcast_tensors(*_rounds((c0, c1, c2, c3), k0, k1)), dim=-1)


def erase_noise(key: Tensor, size: int, device: torch.device | str) -> Tensor:
    """Standard normal noise for whole images, `pixel_noise` of every pixel.

    Args:
        key: int64 [B, 2], 32-bit words, one key a sample.
        size: Side S of the image in pixels.
        device: Where the noise is drawn.

    Returns:
        float32 [B, S, S, 3].
    """
    pixel = torch.arange(size * size, device=device)
    return pixel_noise(key.to(device)[:, None], pixel).view(-1, size, size, 3)


def pixel_noise(key: Tensor, pixel: Tensor) -> Tensor:
    """Standard normal noise of single pixels.

    Pixel `p = y * size + x` of a sample takes the four words of `philox((p, 0, 0, 0), key)`. A word `w`
    becomes `u(w) = ((w >> 9) + 1/2) / 2^23`, which float32 holds exactly and which is never 0 or 1. The
    channels are the Box-Muller pairs `(r cos a, r sin a, r' cos a')` with `r = sqrt(-2 ln u(w0))`,
    `a = 2 pi u(w1)`, and `r'`, `a'` alike from `w2`, `w3`.

    Args:
        key: int64 [..., 2], 32-bit words.
        pixel: int64 index p; its shape broadcasts against the leading shape of `key`.

    Returns:
        float32 [..., 3].
    """
    zero = torch.zeros(1, dtype=torch.int64, device=pixel.device)
    words = _rounds((pixel, zero, zero, zero), *key.unbind(-1))
    first, second, third, fourth = ((word >> 9).to(torch.float32).add_(0.5).mul_(2.0**-23) for word in words)
    radius, angle = _radius(first), _angle(second)
    return torch.stack(
        [radius * torch.cos(angle), radius * torch.sin(angle), _radius(third) * torch.cos(_angle(fourth))],
        dim=-1,
    )


def _rounds(counter: Words, k0: Tensor, k1: Tensor) -> Words:
    c0, c1, c2, c3 = counter
    for step in range(ROUNDS):
        # The product wraps to the low 64 bits, as the unsigned one would; masks drop the sign it may carry.
        product0, product1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        round0, round1 = (k0 + step * KEY_STEPS[0]) & LOW_32, (k1 + step * KEY_STEPS[1]) & LOW_32
        c0, c2 = ((product1 >> 32) & LOW_32) ^ c1 ^ round0, ((product0 >> 32) & LOW_32) ^ c3 ^ round1
        c1, c3 = product1 & LOW_32, product0 & LOW_32
    return c0, c1, c2, c3


def _radius(uniform: Tensor) -> Tensor:
    return torch.sqrt(-2.0 * torch.log(uniform))


def _angle(uniform: Tensor) -> Tensor:
    # One turn less in the upper half is exact, and halves the rounding of the angle in float32.
    return (uniform - torch.round(uniform)) * (2.0 * math.pi)
