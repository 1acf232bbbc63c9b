"""Simple classifiers: the head that a network starts from, label spreading, and what is sure of it."""

import numpy as np
import pytest
import torch
from sklearn.datasets import make_moons
from sklearn.linear_model import LogisticRegression

from fastsemi.probing.classifiers import Scale, linear_head, logistic_regression, predictions, self_training
from fastsemi.probing.features import FeatureSet
from fastsemi.probing.spread_labels import surest
from fastsemi.probing.spreading import Graph


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


def test_logistic_regression_of_few_images_with_many_numbers_is_that_of_all_numbers():
    x, y = blobs(3, 6, 0, 200)
    scale, (other, _) = Scale.of(x), blobs(3, 20, 1, 200)
    model = logistic_regression(features(x, y), scale)
    whole = LogisticRegression(C=model.C, max_iter=5000, tol=1e-8).fit(scale(x).astype(float), y)
    assert model.coef_.shape == (3, 200)
    found, expected = model.predict_proba(scale(other)), whole.predict_proba(scale(other))
    np.testing.assert_allclose(found, expected, atol=2e-3)


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
    spread = Graph.of(np.concatenate([points[labelled], points[rest]])).spread(truth[labelled])
    as_they_are = Graph.of(points).spread(truth[labelled], labelled)
    np.testing.assert_allclose(as_they_are.shares[rest], spread.shares[len(labelled) :], atol=1e-3)
    np.testing.assert_array_equal(as_they_are.unlabelled()[0], spread.unlabelled()[0])
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


def test_self_training_learns_how_frequent_the_classes_are():
    """Labels are as many of each class, the images are not; what the first model is sure of shows it."""
    rng = np.random.default_rng(0)

    def draw(counts):
        y = np.repeat([0, 1], counts)
        x = rng.normal(0, 1, (len(y), 8))
        x[:, 0] += np.where(y, 1, -1)
        return x.astype(np.float32), y

    (x, y), (rest, _), (target, truth) = draw([8, 8]), draw([1800, 200]), draw([1800, 200])
    scale = Scale.of(np.concatenate([x, rest]))
    plain = logistic_regression(features(x, y), scale)
    taught = self_training(features(x, y), rest, scale)
    assert taught.C == plain.C
    before, after = ((model.predict(scale(target)) == truth).mean() for model in (plain, taught))
    assert after > before + 0.01, (before, after)


def test_self_training_without_unlabelled_images_is_logistic_regression():
    x, y = blobs(3, 6, 0)
    scale = Scale.of(x)
    taught = self_training(features(x, y), x[:0], scale)
    np.testing.assert_array_equal(taught.coef_, logistic_regression(features(x, y), scale).coef_)


def test_the_labels_choose_the_space_that_labels_spread_in():
    """Classes apart in a small component beside large ones, and in the only one that is no noise."""
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], 120)
    labelled = np.concatenate([np.flatnonzero(y == c)[:10] for c in (0, 1)])
    rest = np.setdiff1d(np.arange(240), labelled)
    sides = np.where(y, 1.0, -1.0)[:, None]
    small = np.concatenate([rng.normal(0, 20, (240, 2)), sides + rng.normal(0, 0.2, (240, 1))], 1)
    only = np.concatenate([5 * sides + rng.normal(0, 1, (240, 1)), rng.normal(0, 0.1, (240, 40))], 1)
    for x, cosine in ((small, True), (only, False)):
        x = x.astype(np.float32)
        spread = Graph.of(np.concatenate([x[labelled], x[rest]])).spread(y[labelled])
        assert spread.space.cosine == cosine
        assert (spread.unlabelled()[0] == y[rest]).mean() > 0.9


def test_features_that_are_all_the_same_do_not_end_a_run():
    same = np.ones((12, 4), np.float32)
    spread = Graph.of(same).spread(np.array([0, 0, 1, 1]))
    assert len(spread.unlabelled()[0]) == 8
