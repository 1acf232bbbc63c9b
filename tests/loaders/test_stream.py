import dataclasses

import numpy as np
import pytest

from fastsemi.common.errors import UserError
from fastsemi.loaders.index.index import build_index
from fastsemi.loaders.plan.draws import AugmentConfig, View
from fastsemi.loaders.plan.mixing import MixConfig
from fastsemi.loaders.stream import Stream, evaluation_batches


@pytest.fixture(scope="module")
def index(shapes, tmp_path_factory):
    return build_index(shapes / "train", has_classes=True, cache_dir=tmp_path_factory.mktemp("index"))


def _stream(index, batch=32, micro_batches=1, ids=None, seed=0):
    ids = np.arange(len(index)) if ids is None else ids
    views = {View.WEAK: AugmentConfig(randaugment=""), View.STRONG: AugmentConfig()}
    return Stream(index, ids, batch, micro_batches, views, MixConfig(), seed, 16, "unlabelled")


def test_every_pass_holds_every_image_once(index):
    stream = _stream(index, batch=50)  # does not divide 120
    seen = [stream.positions(step, 0) for step in range(12)]
    ids, passes = (np.concatenate(part) for part in zip(*seen, strict=True))
    for p in range(5):
        np.testing.assert_array_equal(np.sort(ids[passes == p]), np.arange(120))
    assert not (ids[passes == 0] == ids[passes == 1]).all()


def test_the_last_smaller_batch_is_dropped(index):
    stream = dataclasses.replace(_stream(index, batch=50, micro_batches=2), drop_last=True)
    assert stream.steps_per_pass == 2.0 and _stream(index, batch=50).steps_per_pass == 2.4
    for step in range(6):
        ids, passes = (
            np.concatenate(a) for a in zip(*(stream.positions(step, m) for m in (0, 1)), strict=True)
        )
        assert (passes == step // 2).all() and len({*ids}) == 50
    whole = np.concatenate([stream.positions(s, m)[0] for s in (2, 3) for m in (0, 1)])
    assert len({*whole}) == 100
    np.testing.assert_array_equal(whole[:50], _stream(index, batch=120).positions(1, 0)[0][:50])


def test_passes_begin_anew_with_those_of_another_stream(index):
    """Passes of two whole batches, begun anew after each three steps: passes 0, 0, 1, then 2, 2, 3."""
    stream = dataclasses.replace(_stream(index, batch=50), drop_last=True, restart=3)
    found = [stream.positions(step, 0) for step in range(7)]
    assert [int(passes[0]) for _, passes in found] == [0, 0, 1, 2, 2, 3, 4]
    first = dataclasses.replace(stream, restart=0)
    for step, same in ((2, 2), (3, 4), (5, 6), (6, 8)):
        np.testing.assert_array_equal(found[step][0], first.positions(same, 0)[0])


def test_micro_batches_cut_the_global_batch(index):
    whole, cut = _stream(index), _stream(index, micro_batches=4)
    parts = [cut.positions(3, m)[0] for m in range(4)]
    np.testing.assert_array_equal(np.concatenate(parts), whole.positions(3, 0)[0])


def test_a_plan_depends_on_its_position_alone(index):
    stream = _stream(index)
    again = _stream(index)
    again.plan(9, 0)
    a, b = stream.plan(4, 0), again.plan(4, 0)
    np.testing.assert_array_equal(a.windows, b.windows)
    np.testing.assert_array_equal(a.mix.partner, b.mix.partner)
    assert a.windows.shape == (2, 32, 4) and a.flips.shape == (2, 32)
    np.testing.assert_array_equal(a.labels, index.labels[a.ids])


def _balanced(index, ids, batch, micro_batches=1, seed=0):
    views = {View.LABELLED: AugmentConfig()}
    return Stream(index, ids, batch, micro_batches, views, MixConfig(), seed, 16, balanced=True)


def _drawn(stream, steps):
    found = [stream.positions(step, 0) for step in range(steps)]
    return (np.concatenate(part) for part in zip(*found, strict=True))


def test_each_class_comes_up_equally_often_and_each_of_its_images(index):
    """Classes of 1, 5 and 12 images; a fourth has none."""
    of_class = [np.flatnonzero(index.labels == label) for label in range(3)]
    members = [of_class[0][:1], of_class[1][:5], of_class[2][:12]]
    ids, passes = _drawn(_balanced(index, np.concatenate(members), 10), 18)
    assert [int(np.isin(ids, part).sum()) for part in members] == [60, 60, 60]
    labels = np.asarray(index.labels[ids]).reshape(-1, 3)
    assert (np.sort(labels, axis=1) == [0, 1, 2]).all() and len(np.unique(labels, axis=0)) > 3
    for part in members:
        assert {int((ids == image).sum()) for image in part} == {60 // len(part)}
    assert len({(image, number) for image, number in zip(ids, passes, strict=True)}) == 180, "a draw twice"
    orders = ids[np.isin(ids, members[1])].reshape(-1, 5)
    assert (np.sort(orders, axis=1) == members[1]).all() and len(np.unique(orders, axis=0)) > 3


def test_balanced_batches_depend_on_seed_and_position_alone(index):
    ids = np.arange(100)
    whole, cut, other = (_balanced(index, ids, 32, n, s) for n, s in ((1, 0), (4, 0), (1, 1)))
    expected = whole.positions(7, 0)
    parts = [cut.positions(7, micro) for micro in (3, 2, 1, 0)][::-1]
    for a, b in zip(expected, zip(*parts, strict=True), strict=True):
        np.testing.assert_array_equal(a, np.concatenate(b))
    assert not np.array_equal(expected[0], other.positions(7, 0)[0])
    np.testing.assert_array_equal(whole.plan(7, 0).labels, index.labels[expected[0]])


def test_one_class_can_be_balanced(index):
    ids = np.flatnonzero(index.labels == 2)[:4]
    drawn, passes = _drawn(_balanced(index, ids, 4), 3)
    np.testing.assert_array_equal(np.sort(drawn.reshape(3, 4), axis=1), np.tile(ids, (3, 1)))
    np.testing.assert_array_equal(passes, np.repeat([0, 1, 2], 4))


def test_impossible_batches_are_refused(index):
    with pytest.raises(UserError, match="unlabelled batch of 121 is larger than its data of 120 images"):
        _stream(index, batch=121)
    with pytest.raises(UserError, match="does not divide into 3"):
        _stream(index, micro_batches=3)


def test_evaluation_covers_every_image_once(index):
    batches = list(evaluation_batches(index, np.arange(120), 50, 0.875))
    assert [len(b.ids) for b in batches] == [50, 50, 20]
    np.testing.assert_array_equal(np.concatenate([b.ids for b in batches]), np.arange(120))
    assert (batches[0].views[0].window == [1, 1, 14, 14]).all()
