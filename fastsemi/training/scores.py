"""What the predictions of labelled images are worth, over all and by class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastsemi.training.calibration import expected_calibration_error
from fastsemi.training.temperature import negative_log_likelihood


@dataclass(frozen=True)
class ClassScore:
    """One class; rates in percent, None where there is nothing to count."""

    name: str
    images: int
    predicted: int
    """Images that are taken for it."""
    recall: float | None
    """Of its images those that are taken for it."""
    precision: float | None
    """Of the images that are taken for it its own."""
    f1: float | None
    """Harmonic mean of both: twice the hits over its images and the predicted ones."""


@dataclass(frozen=True)
class Scores:
    """Accuracies in percent."""

    images: int
    top1: float
    balanced: float
    """Mean of the recall of the classes that have images."""
    top5: float
    by_class: tuple[ClassScore, ...]


def score(logits: NDArray[np.floating], labels: NDArray[np.int64], classes: tuple[str, ...]) -> Scores:
    """Score predictions; of equal logits the first counts as the larger.

    Args:
        logits: [N, C].
        labels: [N].
        classes: Names of the C classes.
    """
    count, total = len(classes), max(1, len(labels))
    own = np.take_along_axis(logits, labels[:, None], axis=1)  # [N, 1]
    before = np.arange(count) < labels[:, None]  # [N, C]
    rank = ((logits > own) | ((logits == own) & before)).sum(1)
    predicted = logits.argmax(1)
    hits, images, taken = (
        np.bincount(which, minlength=count).tolist() for which in (labels[rank == 0], labels, predicted)
    )
    rows = tuple(
        ClassScore(name, n, t, _percent(hit, n), _percent(hit, t), _percent(2 * hit, n + t))
        for name, hit, n, t in zip(classes, hits, images, taken, strict=True)
    )
    recalls = [row.recall for row in rows if row.recall is not None]
    return Scores(
        images=len(labels),
        top1=100 * float((rank == 0).sum()) / total,
        balanced=sum(recalls) / max(1, len(recalls)),
        top5=100 * float((rank < 5).sum()) / total,
        by_class=rows,
    )


def _percent(part: int, whole: int) -> float | None:
    return 100 * part / whole if whole else None


@dataclass(frozen=True)
class Honesty:
    """How well confidences fit what is right."""

    nll: float
    """Mean negative log-likelihood of the true class."""
    ece: float
    """Expected calibration error in percent, in 15 bins of equal width."""


def honesty(log_p: NDArray[np.float64], labels: NDArray[np.int64]) -> Honesty:
    """Judge confidences.

    Args:
        log_p: [N, C] log probabilities.
        labels: [N].
    """
    confidence, correct = np.exp(log_p.max(1)), log_p.argmax(1) == labels
    return Honesty(
        negative_log_likelihood(log_p, labels), 100 * expected_calibration_error(confidence, correct)
    )
