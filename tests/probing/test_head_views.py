"""The classifier that a network starts from, of several views of each image."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from fastsemi.common.errors import UserError
from fastsemi.common.progress import Progress
from fastsemi.loaders.plan.draws import AugmentConfig
from fastsemi.loaders.stream import random_batches
from fastsemi.probing import classifiers, probe
from fastsemi.probing.classifiers import (
    MOST_EVENING,
    Scale,
    _evened,
    _fit_views,
    _mean_shares,
    linear_head,
    self_training,
)
from fastsemi.probing.features import FeatureSet, frozen_features
from fastsemi.run.baseline import frozen_network
from fastsemi.run.context import RunContext
from fastsemi.run.run import Run


def noisy_views(count, views, noise, seed):
    """Points of two classes whose views differ in a number that tells nothing of the class."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 2
    x = rng.normal(0, 0.5, (count, 1, 6)) + np.where(y == 1, 1.0, -1.0)[:, None, None] * [1, 0, 0, 0, 0, 0]
    return (x + rng.normal(0, noise, (count, views, 6))).transpose(1, 0, 2).astype(np.float32), y


def test_views_that_are_all_the_same_weigh_as_one():
    (x,), y = noisy_views(40, 1, 0.5, 0)
    weights = np.linspace(0.2, 1, 40)
    one, three = _fit_views([x], y, weights, 0.5), _fit_views([x, x, x], y, weights, 0.5)
    np.testing.assert_allclose(three.coef_, one.coef_, atol=2e-3)
    np.testing.assert_allclose(_mean_shares(one, [x, x]), one.predict_proba(x))


@pytest.mark.parametrize("noise", [0.7, 1.5])
def test_self_training_learns_more_from_several_views_than_from_one(noise):
    gains, several = [], []
    for seed in range(6):
        views, y = noisy_views(600, 7, noise, seed)
        labelled, rest = np.arange(8), np.arange(8, 300)
        first = FeatureSet(views[0][labelled], y[labelled], labelled)
        scale = Scale.of(views[0][:300])
        more = [(view[labelled], view[rest]) for view in views[1:]]
        target, truth = scale(views[0][300:]), y[300:]
        one = self_training(first, views[0][rest], scale)
        model = self_training(first, views[0][rest], scale, views=more)
        several.append((model.predict(target) == truth).mean())
        gains.append(several[-1] - (one.predict(target) == truth).mean())
    assert np.mean(gains) > 0.02
    assert min(several) > 0.6, "one class has swallowed the other"


def of_few_labels(counts, seed=0):
    """Self-training of four views of far more numbers than labels; its C, and what it makes of the others."""
    rng = np.random.default_rng(seed)
    y = np.arange(400) % len(counts)
    base = 0.55 * rng.normal(size=(len(counts), 300))[y] + rng.normal(size=(400, 300))
    views = [(base + rng.normal(0, 0.5, base.shape)).astype(np.float32) for _ in range(4)]
    chosen = np.concatenate([np.flatnonzero(y == k)[:n] for k, n in enumerate(counts)])
    rest = np.setdiff1d(np.arange(400), chosen)
    labelled, scale = FeatureSet(views[0][chosen], y[chosen], chosen), Scale.of(views[0])
    first = _fit_views([scale(labelled.x)], labelled.y, np.ones(len(chosen)), 100.0)
    more = [(view[chosen], view[rest]) for view in views[1:]]
    model = self_training(labelled, views[0][rest], scale, first, views=more)
    return model.C, model.predict(scale(views[0][rest])), y[rest]


@pytest.mark.parametrize("seed", [0, 1])
def test_classes_with_many_labels_do_not_swallow_those_with_few(seed, monkeypatch):
    strength, said, truth = of_few_labels((20, 4, 3, 2), seed)
    assert strength == 100 and (said == truth).mean() > 0.95
    monkeypatch.setattr(classifiers, "UNEVEN", 1e9)  # as it was
    strength, said, truth = of_few_labels((20, 4, 3, 2), seed)
    assert strength == 1 and (said == truth).mean() < 0.8
    assert np.bincount(said, minlength=4)[3] <= 1 < (truth == 3).sum()


def test_with_as_many_labels_of_each_class_the_penalty_is_strong():
    strength, said, truth = of_few_labels((6, 6, 5, 4))
    assert strength == 1 and (said == truth).mean() > 0.95


def test_a_class_that_is_seldom_sure_weighs_more():
    shares = np.tile([0.5, 0.3, 0.2], (10, 1))
    factors = _evened(np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 2]), shares)
    np.testing.assert_allclose(factors, [0.5 / 0.6] * 6 + [1.0] * 3 + [2.0])
    assert _evened(np.array([0] * 99 + [1]), shares)[-1] == MOST_EVENING
    assert not len(_evened(np.zeros(0, np.int64), shares))


def test_random_batches_hold_each_image_once_and_are_new_each_time(tiny):
    run = RunContext(tiny())
    index, ids = run.data.val.index, run.data.val.ids
    augment = AugmentConfig(area=(0.5, 1.0), randaugment="", erase=0.0)
    turns = [list(random_batches(index, ids, 7, augment, seed=3, turn=turn, size=16)) for turn in (0, 1, 0)]
    run.close()
    for batches in turns:
        np.testing.assert_array_equal(np.concatenate([batch.ids for batch in batches]), ids)
        assert [len(batch.ids) for batch in batches] == [7, 7, 7, 7, 2]
    windows = [np.concatenate([batch.views[0].window for batch in batches]) for batches in turns]
    np.testing.assert_array_equal(windows[0], windows[2])
    assert (windows[0] != windows[1]).any(axis=1).mean() > 0.8
    height, width = windows[0][:, 2] - windows[0][:, 0], windows[0][:, 3] - windows[0][:, 1]
    assert len(np.unique(height * width)) > 1


def test_the_head_is_self_training_on_the_views_that_the_loader_makes(tiny):
    """Written out from the features of each view."""
    run = RunContext(tiny())
    network, data, count = frozen_network(run), run.data, 2
    head, drawn = run.prober.head(network, views=count, flip=0.25, seed=11)
    augment = AugmentConfig(area=(0.5, 1.0), flip=0.25, randaugment="", erase=0.0)

    def look(images, turn=None):
        plans = None
        if turn is not None:
            plans = random_batches(images.index, images.ids, 5, augment, seed=11, turn=turn, size=16)
        rest = (data, run.views, run.precision)
        return frozen_features(network, images, images.ids, *rest, batch=5, plans=plans)

    first = [look(images) for images in (data.labelled, data.unlabelled)]
    views = [
        tuple(look(images, turn).x for images in (data.labelled, data.unlabelled)) for turn in range(count)
    ]
    run.close()
    scale = Scale.of(np.concatenate([first[0].x, first[1].x]))
    model = self_training(first[0], first[1].x, scale, views=views)
    expected = linear_head(model, scale, len(data.classes))
    assert drawn == count and not np.array_equal(views[0][0], views[1][0])
    np.testing.assert_allclose(head.weight, expected.weight, atol=1e-4)
    np.testing.assert_allclose(head.bias, expected.bias, atol=1e-4)


@pytest.mark.parametrize(("images", "drawn"), [(120 * 7, 6), (120 * 4, 3), (119, 0)])
def test_many_images_have_fewer_views(tiny, monkeypatch, images, drawn):
    monkeypatch.setattr(probe, "MOST_FITTED", images * 3)
    run = RunContext(tiny())
    assert run.prober.head(None, views=6)[1] == drawn
    run.close()


def test_an_image_that_goes_missing_between_two_looks_is_named(tiny, tmp_path):
    shutil.copytree(tiny().data.root, tmp_path / "copy")
    run = RunContext(tiny("--data.root", str(tmp_path / "copy"), "--data.max_bad", "3"))
    labelled, look = run.data.labelled, run.prober._view

    def vanish(*arguments):
        Path(labelled.index.path(int(labelled.ids[0]))).write_bytes(b"")
        return look(*arguments)

    run.prober._view = vanish
    with pytest.raises(UserError, match=r"\.png could be read before and no longer can"):
        run.prober.head(None, views=1)
    run.close()


def test_a_run_says_how_many_views_its_classifier_has_learnt_from(tiny, capsys):
    options = ("--semi.head", "probe", "--semi.head_views", "2", "--semi.length", "4 steps")
    config = tiny("--stages", "[semi]", *options)
    console = Console(record=True, width=150)
    Run(config, Progress(console)).train(config.stages)
    assert "semi: the classifier starts from self-training on the frozen features, 3 views of each image" in (
        console.export_text()
    )


def test_less_than_no_view_is_refused(tiny):
    with pytest.raises(UserError, match=r"semi\.head_views is -1; it must be 0 or more"):
        tiny("--semi.head", "probe", "--semi.head_views", "-1")


def test_labels_of_one_class_are_refused_in_a_line(tiny):
    run = RunContext(tiny())
    found = run.prober.features("frozen", None, evaluated=False)
    labelled = replace(found.labelled, y=np.zeros_like(found.labelled.y))
    run.prober.features = lambda *_, **__: replace(found, labelled=labelled)
    with pytest.raises(UserError, match="the labels are all of one class; label images of at least two"):
        run.prober.head(None)
    run.close()
