"""Which classes a network confuses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MATRIX_CLASSES = 30  # a larger matrix is not readable
SHOWN_CLASSES = 40  # of many classes the worst
SHOWN_PAIRS = 10


@dataclass(frozen=True)
class ClassLine:
    """One class; accuracy in percent."""

    name: str
    images: int
    accuracy: float
    taken_for: str
    """The class that its images are most often taken for; empty where none is wrong."""
    times: int


@dataclass(frozen=True)
class Classes:
    """What a network takes the evaluation images for."""

    images: int
    top1: float
    names: Sequence[str]
    worst: Sequence[ClassLine]
    """The `SHOWN_CLASSES` classes with the lowest accuracy, worst first."""
    pairs: Sequence[tuple[str, str, int]]
    """True class, predicted class, images: the `SHOWN_PAIRS` most frequent confusions."""
    matrix: NDArray[np.int64] | None
    """[C, C] counts, rows true classes; None for more than `MATRIX_CLASSES`."""


def describe(counts: NDArray[np.int64], names: Sequence[str]) -> Classes:
    """Put confusion counts into words.

    Args:
        counts: [C, C] images by true (row) and predicted class.
        names: Of the C classes.
    """
    images, right = counts.sum(1), counts.diagonal()
    wrong = counts - np.diag(right)
    most = wrong.argmax(1).tolist()
    lines = [
        ClassLine(
            names[c],
            int(images[c]),
            100 * right[c] / images[c],
            names[most[c]] if wrong[c, most[c]] else "",
            int(wrong[c, most[c]]),
        )
        for c in np.flatnonzero(images).tolist()
    ]
    lines.sort(key=lambda line: line.accuracy)
    largest = np.argsort(-wrong, axis=None, kind="stable")[:SHOWN_PAIRS].tolist()
    cells = [divmod(cell, len(names)) for cell in largest]
    pairs = [(names[truth], names[taken], int(wrong[truth, taken])) for truth, taken in cells]
    return Classes(
        images=int(counts.sum()),
        top1=100 * int(right.sum()) / max(1, int(counts.sum())),
        names=names,
        worst=lines[:SHOWN_CLASSES],
        pairs=[pair for pair in pairs if pair[2]],
        matrix=counts if len(names) <= MATRIX_CLASSES else None,
    )
