"""Memory for where parts of JPEGs begin, which the operator fills as it decodes (`kernels/csrc/jpeg`)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

UNIT, UNITS = 16, 4  # one point every 4 squares of 16 x 16 pixels, the units of files with halved chroma
FEWEST = 8  # points of an image; fewer are not worth their hash
_HEAD = 2  # words before an image's points: a hash of its bytes, and a check of the words
_MOST_POINTS = 0xFFFF  # that the operator can count


@dataclass(frozen=True)
class JpegIndex:
    """What is known of each image; zeros at first, and memory only as far as it is written."""

    words: NDArray[np.uint64]
    starts: NDArray[np.int64]  # [N + 1] where the words of each image begin

    @classmethod
    def create(cls, sizes: NDArray[np.int32], memory: int) -> JpegIndex | None:
        """Room for a set of images; None where there is none.

        Args:
            sizes: [N, 2] width and height of the images.
            memory: Bytes at most. Where they do not suffice, all images have fewer points.
        """
        squares = (-(-np.asarray(sizes, np.int64) // UNIT)).prod(1)
        points = np.minimum(squares // UNITS, _MOST_POINTS)
        points[points < FEWEST] = 0
        room = memory // 8 - _HEAD * np.count_nonzero(points)
        if points.sum() > room:
            points = (points * (max(0, room) / points.sum())).astype(np.int64)
        words = np.where(points > 0, points + _HEAD, 0)
        starts = np.concatenate([[0], np.cumsum(words)]).astype(np.int64)
        return cls(np.zeros(starts[-1], np.uint64), starts) if starts[-1] else None
