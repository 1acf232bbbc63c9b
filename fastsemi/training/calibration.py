"""Whether a network is right as often as it says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class ReliabilityBins:
    """Predictions by their confidence, in bins of equal width; NaN where a bin is empty."""

    counts: NDArray[np.int64]  # [bins]
    confidence: NDArray[np.float64]  # [bins] mean of each
    accuracy: NDArray[np.float64]  # [bins] share that is right, in [0, 1]


def reliability_bins(confidence: ArrayLike, correct: ArrayLike, bins: int = 15) -> ReliabilityBins:
    """Sort predictions into the bins ((b - 1) / bins, b / bins] (Guo et al., 2017, section 2).

    0 is in the first.

    Args:
        confidence: [N] in [0, 1].
        correct: [N] whether each prediction is right.
        bins: How many.
    """
    confidence, correct = np.asarray(confidence, np.float64), np.asarray(correct, np.float64)
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    sums = (np.bincount(place, weights=values, minlength=bins) for values in (confidence, correct))
    with np.errstate(invalid="ignore"):
        return ReliabilityBins(counts, *(total / counts for total in sums))


def expected_calibration_error(confidence: ArrayLike, correct: ArrayLike, bins: int = 15) -> float:
    """Mean difference of confidence and accuracy over the bins, by their counts, in [0, 1] (ECE; Guo et al.).

    NaN without predictions. Arguments as of `reliability_bins`.
    """
    found = reliability_bins(confidence, correct, bins)
    filled = found.counts > 0
    gaps = np.abs(found.accuracy - found.confidence)[filled]
    return float(np.average(gaps, weights=found.counts[filled])) if filled.any() else float("nan")
