"""The temperature that brings a classifier's confidences nearer to how often it is right.

After Guo et al. 2017, On Calibration of Modern Neural Networks.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

COLDEST, HOTTEST = 0.05, 20.0
LEAST = 16


def log_probabilities(
    logits: NDArray[np.floating], temperature: float | NDArray[np.float64] = 1.0
) -> NDArray[np.float64]:
    """Log of the softmax of logits [N, C] divided by a temperature, or by one of each image, [N, 1]."""
    return log_softmax(np.asarray(logits, np.float64) / temperature, axis=1)


def negative_log_likelihood(log_p: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Mean of -log p of the true class; `log_p` is [N, C], `labels` [N]."""
    return -float(np.take_along_axis(log_p, labels[:, None], axis=1).mean())


def fit_temperature(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """The temperature of the lowest negative log-likelihood, between `COLDEST` and `HOTTEST`.

    Labels are smoothed by 1/(N + 1), as if one image more belonged to every class in equal parts: images
    that are all right would else ask for a temperature of 0.

    Args:
        logits: [N, C], N at least 1.
        labels: [N].
    """
    count, classes = logits.shape
    target = np.full((count, classes), 1 / (count + 1) / classes)
    target[np.arange(count), labels] += count / (count + 1)

    def loss(log_temperature: float) -> float:
        log_p = log_probabilities(logits, np.exp(log_temperature))
        return -float((target * log_p).sum(1).mean())

    bounds = (np.log(COLDEST), np.log(HOTTEST))  # convex in 1/T, so of one minimum in log T too
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-5}).x))


def temperatures_by_halves(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """For each image the temperature that fits the half of the images in which it is not, [N, 1].

    So figures of the images that a temperature is fitted on do not flatter it. Each class is in both halves.

    Args:
        logits: [N, C], N at least 2.
        labels: [N].
    """
    found = np.empty((len(labels), 1))
    order = np.argsort(labels, kind="stable")
    for one, other in ((order[::2], order[1::2]), (order[1::2], order[::2])):
        found[one] = fit_temperature(logits[other], labels[other])
    return found


def helpful_temperature(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """`fit_temperature`, or 1 where one does not make images likelier that it was not fitted on.

    Also 1 for fewer than `LEAST` images: fitted on 8 it did as much harm as good (docs/results.md).

    Args:
        logits: [N, C].
        labels: [N].
    """
    if len(labels) < LEAST:
        return 1.0
    plain, scaled = (
        negative_log_likelihood(log_probabilities(logits, t), labels)
        for t in (1.0, temperatures_by_halves(logits, labels))
    )
    return fit_temperature(logits, labels) if scaled < plain else 1.0
