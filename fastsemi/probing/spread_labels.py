"""Labels for unlabelled images before any network is trained: of each class the surest of label spreading."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastsemi.probing.spreading import Spread


@dataclass(frozen=True)
class SpreadFeatures:
    """Labels that have been spread among features of a name."""

    name: str
    ids: NDArray[np.int64]  # [U] of the unlabelled images
    spread: Spread


@dataclass(frozen=True)
class SpreadLabels:
    """Some unlabelled images and the classes that label spreading gave them."""

    ids: NDArray[np.int64]  # [N] position in the index
    labels: NDArray[np.int64]  # [N]
    features: str
    """On which features."""
    score: float
    """Accuracy of label spreading in cross-validation on the labels, in [0, 1]."""


def spread_labels(kinds: list[SpreadFeatures], keep: float) -> SpreadLabels:
    """Label the unlabelled images on the features that do best in cross-validation on the labels.

    Args:
        kinds: Features to choose from; the first wins where scores are equal.
        keep: Fraction of the images of each class that are kept, the most confident ones.
    """
    chosen = max(kinds, key=lambda kind: kind.spread.score)
    labels, confidence = chosen.spread.unlabelled()
    kept = surest(labels, confidence, keep)
    return SpreadLabels(chosen.ids[kept], labels[kept], chosen.name, chosen.spread.score)


def surest(labels: NDArray[np.int64], confidence: NDArray[np.float32], keep: float) -> NDArray[np.int64]:
    """The most confident of each class, at least one of each that occurs.

    Args:
        labels: [N].
        confidence: [N].
        keep: Fraction of each class, in (0, 1].

    Returns:
        Their positions, in order.
    """
    chosen = []
    for label in np.unique(labels):
        mine = np.flatnonzero(labels == label)
        count = max(1, round(keep * len(mine)))
        chosen.append(mine[np.argsort(-confidence[mine], kind="stable")[:count]])
    return np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, np.int64)
