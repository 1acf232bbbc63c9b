"""Counter-based random numbers: Philox4x32-10, vectorised in NumPy.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011). A draw is a pure
function of a 64-bit key and a 128-bit counter, so the plan needs no state: see `words`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

_MULTIPLIER = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)


def philox4x32(counter: NDArray[np.uint64], key: tuple[int, int]) -> NDArray[np.uint64]:
    """Ten rounds of Philox on 32-bit words held in 64-bit integers.

    Args:
        counter: [4, ...] counter words, each below 2**32.
        key: The two key words.

    Returns:
        [4, ...] random words, each below 2**32.
    """
    c0, c1, c2, c3 = (np.array(c, dtype=np.uint64) for c in counter)
    for round_ in range(10):
        k0 = np.uint64((key[0] + round_ * _WEYL[0]) & 0xFFFFFFFF)
        k1 = np.uint64((key[1] + round_ * _WEYL[1]) & 0xFFFFFFFF)
        p0 = c0 * _MULTIPLIER[0]
        p1 = c2 * _MULTIPLIER[1]
        c0 = (p1 >> _SHIFT) ^ c1
        c0 ^= k0
        c2 = (p0 >> _SHIFT) ^ c3
        c2 ^= k1
        c1 = p1 & _LOW
        c3 = p0 & _LOW
    return np.stack([c0, c1, c2, c3])


def words(seed: int, epoch: ArrayLike, ids: ArrayLike, stream: int, count: int) -> NDArray[np.uint64]:
    """Random 32-bit words of each sample.

    The counter of draw d of a sample is (id, epoch, stream, d // 4); word d % 4 of the result is the draw.

    Args:
        seed: The run's seed, up to 64 bits; the key.
        epoch: Pass over the data, a scalar or [B].
        ids: [B] sample ids below 2**32.
        stream: What the draws are for (view and purpose); see `loaders.plan.draws.Purpose`.
        count: Draws per sample, D.

    Returns:
        [B, D] words below 2**32.
    """
    ids = np.asarray(ids, dtype=np.uint64)
    blocks = -(-count // 4)
    counter = np.empty((4, ids.shape[0], blocks), dtype=np.uint64)
    counter[0] = ids[:, None]
    counter[1] = np.broadcast_to(np.asarray(epoch, dtype=np.uint64), ids.shape)[:, None]
    counter[2] = np.uint64(stream)
    counter[3] = np.arange(blocks, dtype=np.uint64)
    out = philox4x32(counter, (seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF))
    return np.moveaxis(out, 0, -1).reshape(ids.shape[0], blocks * 4)[:, :count]


def uniform(word: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Map words to the open interval (0, 1): (word + 1/2) / 2**32."""
    return (word.astype(np.float64) + 0.5) * 2.0**-32
