"""Perceptual hashes: 64 bits that stay nearly the same when a picture is resized or encoded anew."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn

from fastsemi.tools.health.views import SIDE

FLAT = 2.0  # standard deviation in grey levels below which a picture has nothing to tell it by
_BLOCK = 8_192

# The 64 lowest frequencies (row, column) but the mean, along the diagonals as JPEG orders them.
_LOW = sorted(((v, u) for v in range(SIDE) for u in range(SIDE) if u + v), key=lambda f: (sum(f), f))[:64]
_ROWS, _COLUMNS = (np.array(axis) for axis in zip(*_LOW, strict=True))
_MIRROR = np.where(_COLUMNS % 2, -1, 1)  # what mirroring left to right does to each frequency
# Neighbouring frequencies go into different quarters of the hash, which are looked up one by one.
_PLACES = np.arange(64).reshape(16, 4).T.ravel()


def hashes(grey: NDArray[np.uint8]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Hashes of pictures [N, SIDE, SIDE] and of the same pictures mirrored left to right, both [N].

    A bit says whether one of the 64 lowest frequencies of the discrete cosine transform is above the median
    of all 64 (pHash; Zauner, 2010, who leaves the mean in and takes 8 x 8 frequencies).
    """
    found = np.zeros((2, len(grey)), np.uint64)
    for start in range(0, len(grey), _BLOCK):
        rows = slice(start, start + _BLOCK)
        waves = dctn(grey[rows].astype(np.float32), axes=(1, 2))[:, _ROWS, _COLUMNS]  # [n, 64]
        for which, part in enumerate((waves, waves * _MIRROR)):
            bits = (part > np.median(part, axis=1, keepdims=True))[:, _PLACES]
            found[which, rows] = np.ascontiguousarray(np.packbits(bits, axis=1)).view(">u8")[:, 0]
    return found[0], found[1]


def flat(grey: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """[N] whether a picture [N, SIDE, SIDE] is of one grey all over: all such pictures look alike."""
    parts = np.array_split(grey, -(-len(grey) // _BLOCK) or 1)
    return np.concatenate([part.std((1, 2), dtype=np.float32) < FLAT for part in parts])
