"""What the logits of each image of a set mean."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, softmax

from fastsemi.training.evaluate import Said


@dataclass(frozen=True)
class Outcomes:
    """A network's answers to N readable images."""

    ids: NDArray[np.int64]  # [N] position in the index
    labels: NDArray[np.int64]  # [N] class, -1 where unknown
    predicted: NDArray[np.int64]  # [N] class
    confidence: NDArray[np.float32]  # [N] largest probability
    energy: NDArray[np.float32]  # [N] -log of the summed exponentials of the logits; high for unlike images

    @property
    def right(self) -> NDArray[np.bool_]:
        """[N] whether the prediction is the label."""
        return self.predicted == self.labels

    def confusion(self, classes: int) -> NDArray[np.int64]:
        """[C, C] counts: rows are true classes, columns predicted ones. All labels must be known."""
        cells = np.bincount(self.labels * classes + self.predicted, minlength=classes * classes)
        return cells.reshape(classes, classes)


def outcomes(said: Said, temperature: float = 1.0) -> Outcomes:
    """What a network answers, and how sure it is.

    The energy is that of Liu et al., 2020, with temperature 1.

    Args:
        said: Its logits.
        temperature: Divides them before the softmax, for the confidences alone.
    """
    return Outcomes(
        said.ids,
        said.labels,
        predicted=said.logits.argmax(axis=1),
        confidence=softmax(said.logits / np.float32(temperature), axis=1).max(axis=1),
        energy=-logsumexp(said.logits, axis=1),
    )
