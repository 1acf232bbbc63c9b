"""Simple classifiers: the head that a network starts from, label spreading, and what is sure of it."""

import numpy as np
import pytest
import torch
from sklearn.datasets import make_moons

from fastsemi.probe.classifiers import Scale, linear_head, logistic_regression, predictions
from fastsemi.probe.features import FeatureSet
from fastsemi.probe.spread_labels import surest
from fastsemi.probe.spreading import Graph


def features(x, y):
    return FeatureSet(np.asarray(x, np.float32), np.asarray(y, np.int64), np.arange(len(y)))


def blobs(classes, count, seed, dimensions=12):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(7).normal(0, 3, (classes, dimensions))
    y = np.repeat(np.arange(classes), count)
    return (centres[y] + rng.normal(0, 1, (len(y), dimensions)) + 5).astype(np.float32), y


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_a_head_gives_the_probabilities_of_the_logistic_regression(classes):
    x, y = blobs(classes, 6, 0)
    scale = Scale.of(x)
    model = logistic_regression(features(x, y), scale)
    head = linear_head(model, scale, classes)
    other, _ = blobs(classes, 4, 1)
    logits = torch.from_numpy(other @ head.weight.T + head.bias)
    np.testing.assert_allclose(logits.softmax(1), model.predict_proba(scale(other)), atol=2e-4)


def test_a_class_without_labels_is_never_predicted():
    x, y = blobs(3, 6, 0)
    scale = Scale.of(x)
    known = y != 1
    head = linear_head(logistic_regression(features(x[known], y[known]), scale), scale, 3)
    assert set((x @ head.weight.T + head.bias).argmax(1)) == {0, 2}


def test_every_classifier_learns_what_is_easy():
    x, y = blobs(4, 5, 0)
    rest, _ = blobs(4, 20, 1)
    target, truth = blobs(4, 10, 2)
    for name, fit in predictions(features(x, y), rest, target).items():
        assert (fit() == truth).mean() > 0.9, name


def test_one_label_a_class_is_enough_to_run():
    x, y = blobs(3, 1, 0)
    rest, _ = blobs(3, 10, 1)
    target, truth = blobs(3, 10, 2)
    for name, fit in predictions(features(x, y), rest, target).items():
        assert (fit() == truth).mean() > 0.6, name


def test_labels_spread_along_the_moons_where_distances_mislead():
    points, truth = make_moons(400, noise=0.04, random_state=0)
    points = points.astype(np.float32)
    labelled = np.array([np.flatnonzero(truth == c)[0] for c in (0, 1)])
    rest = np.setdiff1d(np.arange(400), labelled)
    spread = Graph.of(points[labelled], points[rest]).spread(truth[labelled])
    labels, confidence = spread.unlabelled()
    assert (labels == truth[rest]).mean() > 0.97
    nearest = np.linalg.norm(points[rest][:, None] - points[labelled][None], axis=2).argmin(1)
    assert (truth[labelled][nearest] == truth[rest]).mean() < 0.9, "the example is too easy"
    assert (((0.5 <= confidence) & (confidence <= 1)) | (confidence == 0)).all()  # 0: no label comes there
    assert (spread.classify(points[rest]) == labels).mean() > 0.97


def test_the_surest_are_taken_from_each_class():
    labels = np.array([0, 0, 0, 0, 1, 1, 2])
    confidence = np.array([0.1, 0.9, 0.5, 0.8, 0.3, 0.2, 0.05], np.float32)
    assert surest(labels, confidence, 0.5).tolist() == [1, 3, 4, 6]
    assert surest(labels, confidence, 1.0).tolist() == list(range(7))
