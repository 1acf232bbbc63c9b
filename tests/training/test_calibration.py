"""Reliability bins and the expected calibration error, against their definition."""

import math

import numpy as np
import pytest

from fastsemi.training.calibration import expected_calibration_error, reliability_bins


def test_bins_are_closed_on_the_right_and_empty_ones_are_nan():
    found = reliability_bins([0.0, 0.2, 0.21, 0.8, 1.0], [0, 1, 1, 0, 1], bins=5)
    assert found.counts.tolist() == [2, 1, 0, 1, 1]
    assert found.accuracy[[0, 1, 3, 4]].tolist() == [0.5, 1, 0, 1]
    assert found.confidence[[0, 1, 3, 4]].tolist() == pytest.approx([0.1, 0.21, 0.8, 1])
    assert math.isnan(found.accuracy[2]) and math.isnan(found.confidence[2])


def test_the_error_is_the_mean_gap_of_the_bins_by_their_counts():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.01, 1, 500)
    right = rng.random(500) < confidence**2
    wanted = 0.0
    for b in range(15):
        inside = [(c, r) for c, r in zip(confidence, right, strict=True) if b / 15 < c <= (b + 1) / 15]
        if inside:
            c, r = np.mean(inside, axis=0)
            wanted += len(inside) / 500 * abs(c - r)
    assert expected_calibration_error(confidence, right) == pytest.approx(wanted)
    assert expected_calibration_error([0.75] * 4, [1, 1, 1, 0]) == pytest.approx(0)
    assert math.isnan(expected_calibration_error([], []))
