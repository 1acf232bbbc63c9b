"""Scores of predictions, against scikit-learn."""

import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn import metrics

from fastsemi.training.scores import honesty, score

NAMES = tuple("abcdefg")


def test_scores_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    labels = rng.choice(6, 300, p=[0.4, 0.3, 0.1, 0.1, 0.05, 0.05])  # none of the last class
    logits = rng.normal(size=(300, 7)).astype(np.float32)
    logits[np.arange(300), labels] += 1
    logits[:, 2] = -9  # which nothing is taken for
    found, taken = score(logits, labels, NAMES), logits.argmax(1)
    assert found.images == 300
    assert found.top1 == pytest.approx(100 * metrics.accuracy_score(labels, taken))
    top5 = metrics.top_k_accuracy_score(labels, logits, k=5, labels=range(7))
    assert found.top5 == pytest.approx(100 * top5)
    assert found.balanced == pytest.approx(
        100 * metrics.recall_score(labels, taken, average="macro", labels=range(6))
    )
    expected = metrics.precision_recall_fscore_support(labels, taken, labels=range(7), zero_division=np.nan)
    for row, name, *theirs in zip(found.by_class, NAMES, *expected, strict=True):
        precision, recall, f1, images = theirs
        assert (row.name, row.images, row.predicted) == (name, images, (taken == NAMES.index(name)).sum())
        for mine, other in ((row.precision, precision), (row.recall, recall), (row.f1, f1)):
            assert mine is None if np.isnan(other) else mine == pytest.approx(100 * other)
    assert found.by_class[2].precision is None and found.by_class[6].recall is None


def test_of_equal_logits_the_first_class_is_taken():
    found = score(np.zeros((7, 7)), np.arange(7), NAMES)
    assert found.top1 == pytest.approx(100 / 7) and found.top5 == pytest.approx(500 / 7)
    assert [row.predicted for row in found.by_class] == [7, 0, 0, 0, 0, 0, 0]


def test_confidences_are_judged_by_the_likeliest_class():
    log_p = log_softmax(np.log([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]]), axis=1)
    found = honesty(log_p, np.array([0, 1, 1]))
    assert found.nll == pytest.approx(metrics.log_loss([0, 1, 1], np.exp(log_p)))
    assert found.ece == pytest.approx(100 * (0.1 + 0.6 + 0.2) / 3)
