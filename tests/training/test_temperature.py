"""Calibration error and temperature, against their equations and an optimiser that knows neither."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.metrics import log_loss

from fastsemi.training.calibration import expected_calibration_error, reliability_bins
from fastsemi.training.temperature import (
    COLDEST,
    LEAST,
    fit_temperature,
    helpful_temperature,
    log_probabilities,
    negative_log_likelihood,
    temperatures_by_halves,
)


def drawn(count, classes=5, temperature=1.0, seed=0):
    """Logits, and labels that are as likely as the logits divided by a temperature say."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (count, classes))
    p = softmax(logits / temperature, axis=1)
    labels = (p.cumsum(1) > rng.random((count, 1))).argmax(1)
    return logits, labels


def test_bins_are_of_equal_width_and_hold_their_upper_edge():
    found = reliability_bins(np.array([0.2, 0.2001, 0.5, 0.55, 1.0]), np.array([1, 0, 1, 0, 1], bool), bins=5)
    assert found.counts.tolist() == [1, 1, 2, 0, 1]
    np.testing.assert_allclose(found.confidence, [0.2, 0.2001, 0.525, np.nan, 1.0])
    np.testing.assert_allclose(found.accuracy, [1, 0, 0.5, np.nan, 1.0])


def test_the_error_is_that_of_the_equation():
    logits, labels = drawn(500, temperature=3.0)
    p = softmax(logits, axis=1)
    confidence, correct = p.max(1), p.argmax(1) == labels
    expected = 0.0
    for m in range(1, 16):
        inside = (confidence > (m - 1) / 15) & (confidence <= m / 15)
        if inside.any():
            expected += inside.sum() / 500 * abs(correct[inside].mean() - confidence[inside].mean())
    assert expected > 0.1
    assert expected_calibration_error(confidence, correct) == pytest.approx(expected, abs=1e-12)
    assert expected_calibration_error(np.ones(3), np.ones(3, bool)) == 0
    assert expected_calibration_error(np.ones(3), np.zeros(3, bool)) == 1


def test_the_likelihood_is_that_of_scikit_learn():
    logits, labels = drawn(200)
    for temperature in (1.0, 0.3, 4.0):
        p = softmax(logits / temperature, axis=1)
        mine = negative_log_likelihood(log_probabilities(logits, temperature), labels)
        assert mine == pytest.approx(log_loss(labels, p, labels=range(5)))


@pytest.mark.parametrize(("count", "true"), [(30, 1.0), (400, 2.5), (400, 0.4)])
def test_the_temperature_is_the_one_that_lbfgs_finds(count, true):
    logits, labels = drawn(count, temperature=true)
    log_t = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_t], max_iter=200, tolerance_grad=1e-10, line_search_fn="strong_wolfe")
    x, y = torch.from_numpy(logits), torch.from_numpy(labels)

    def loss():
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(x / log_t.exp(), y, label_smoothing=1 / (count + 1))
        value.backward()
        return value

    optimizer.step(loss)
    assert fit_temperature(logits, labels) == pytest.approx(log_t.exp().item(), rel=1e-4)


def test_the_temperature_of_many_images_is_the_one_that_they_were_drawn_with():
    for true in (0.5, 1.0, 3.0):
        assert fit_temperature(*drawn(4_000, temperature=true)) == pytest.approx(true, rel=0.06)


def test_images_that_are_all_right_do_not_ask_for_certainty():
    logits = 3 * np.eye(4)[[0, 1, 2, 3] * 5]
    found = fit_temperature(logits, logits.argmax(1))
    p = softmax(logits / found, axis=1).max(1)
    assert found > COLDEST and p == pytest.approx(20.25 / 21)  # 20 right images, a quarter of one more


def test_a_temperature_of_halves_does_not_know_the_half_it_is_for():
    logits, labels = drawn(60, temperature=2.0)
    found = temperatures_by_halves(logits, labels)
    changed = labels.copy()
    first = np.argsort(labels, kind="stable")[::2]
    other = np.setdiff1d(np.arange(60), first)
    changed_logits = logits.copy()
    changed_logits[first] *= 7
    again = temperatures_by_halves(changed_logits, changed)
    np.testing.assert_array_equal(again[first], found[first])
    assert (again[other] != found[other]).all() and len(np.unique(found)) == 2


def test_none_is_taken_that_does_not_help():
    confident = drawn(200, temperature=3.0)
    assert helpful_temperature(*confident) == fit_temperature(*confident) > 2
    assert helpful_temperature(*(part[: LEAST - 1] for part in confident)) == 1
    helped = [helpful_temperature(*drawn(200, seed=seed)) != 1 for seed in range(6)]
    assert sum(helped) < 6, "of calibrated logits some halves agree by chance, most do not"
