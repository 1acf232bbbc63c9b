"""What holds for any data: the order of a stream, and the choice of labels."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("hypothesis", reason="needs hypothesis: pip install 'fastsemi[test]'")
from hypothesis import given, settings
from hypothesis import strategies as some

from fastsemi.loaders.index.index import Index, pack_paths
from fastsemi.loaders.index.labels import select_labelled, unlabelled_ids
from fastsemi.loaders.plan.draws import AugmentConfig, View
from fastsemi.loaders.stream import Stream, _cached_order

few = settings(max_examples=25, derandomize=True, deadline=None, database=None)
seeds = some.integers(0, 2**63 - 1)
class_sizes = some.lists(some.integers(1, 25), min_size=1, max_size=5)


def index_of(sizes, reverse=False):
    """An index of classes of these sizes; the images of a class in either order."""
    names = [
        f"c{label}/{i}.jpg".encode()
        for label, count in enumerate(sizes)
        for i in sorted(range(count), reverse=reverse)
    ]
    blob, ends = pack_paths(names)
    labels = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    pixels = np.stack([20 + np.arange(len(names)) % 7, 30 + np.arange(len(names)) % 5], 1).astype(np.int32)
    classes = tuple(f"c{label}" for label in range(len(sizes)))
    return Index(Path("/nowhere"), classes, blob, ends, labels, pixels, np.zeros(0, np.int64))


@some.composite
def streams(draw):
    """A stream of some images of an index, as a function of its micro-batches, whose number is drawn too."""
    index = index_of([draw(some.integers(1, 40))])
    ids = np.array(sorted(draw(some.sets(some.integers(0, len(index) - 1), min_size=1))), np.int64)
    batch = draw(some.integers(1, len(ids)))
    parts = draw(some.sampled_from([d for d in range(1, batch + 1) if batch % d == 0]))
    views = {View.WEAK: AugmentConfig(), View.STRONG: AugmentConfig()}
    seed = draw(seeds)
    return lambda micro=parts: Stream(index, ids, batch, micro, views, None, seed, 16)


def positions(stream, steps):
    """Ids and passes of the first steps."""
    found = [stream.positions(step, m) for step in range(steps) for m in range(stream.micro_batches)]
    return [np.concatenate(part) for part in zip(*found, strict=True)]


@few
@given(streams())
def test_every_pass_holds_every_image_once(make):
    stream = make()
    ids, passes = positions(stream, -(-3 * len(stream.ids) // stream.batch))
    for number in range(3):
        np.testing.assert_array_equal(np.sort(ids[passes == number]), stream.ids)
    assert (np.diff(passes) >= 0).all()


@few
@given(streams(), some.integers(0, 50))
def test_micro_batches_change_neither_images_nor_views(make, step):
    cut, whole = make(), make(1).plan(step, 0)
    parts = [cut.plan(step, m) for m in range(cut.micro_batches)]
    for one, several in (
        (whole.ids, [p.ids for p in parts]),
        (whole.labels, [p.labels for p in parts]),
        (whole.windows.swapaxes(0, 1), [p.windows.swapaxes(0, 1) for p in parts]),
        (whole.flips.T, [p.flips.T for p in parts]),
    ):
        np.testing.assert_array_equal(one, np.concatenate(several))
    left, top, width, height = np.moveaxis(whole.windows, -1, 0)
    sizes = cut.index.sizes[whole.ids]
    assert (left >= 0).all() and (top >= 0).all() and (width > 0).all() and (height > 0).all()
    assert (left + width <= sizes[:, 0]).all() and (top + height <= sizes[:, 1]).all()


@few
@given(streams(), some.integers(0, 30), some.integers(0, 30))
def test_a_step_is_the_same_wherever_one_begins(make, before, step):
    stream = make()
    for earlier in range(before % 4):
        stream.plan(earlier, 0)
    first = stream.plan(step, stream.micro_batches - 1)
    _cached_order.cache_clear()
    again = make().plan(step, stream.micro_batches - 1)
    np.testing.assert_array_equal(first.ids, again.ids)
    np.testing.assert_array_equal(first.windows, again.windows)
    np.testing.assert_array_equal(first.flips, again.flips)


@few
@given(class_sizes, some.floats(1e-6, 1), seeds)
def test_a_share_of_each_class_is_labelled(sizes, share, seed):
    index = index_of(sizes)
    ids = select_labelled(index, fraction=share, seed=seed)
    found = np.bincount(index.labels[ids], minlength=len(sizes))
    assert found.tolist() == [max(1, round(share * count)) for count in sizes]
    np.testing.assert_array_equal(ids, select_labelled(index_of(sizes), fraction=share, seed=seed))
    rest = unlabelled_ids(index, ids, include_labelled=False)
    np.testing.assert_array_equal(np.sort(np.concatenate([ids, rest])), np.arange(len(index)))
    np.testing.assert_array_equal(unlabelled_ids(index, ids, include_labelled=True), np.arange(len(index)))


@few
@given(class_sizes, seeds, some.data())
def test_the_choice_is_by_name_and_grows(sizes, seed, data):
    less, more = sorted(data.draw(some.lists(some.integers(1, min(sizes)), min_size=2, max_size=2)))
    index, turned = index_of(sizes), index_of(sizes, reverse=True)
    few_ids, ids = (select_labelled(index, per_class=n, seed=seed) for n in (less, more))
    assert set(few_ids.tolist()) <= set(ids.tolist()) and len(ids) == more * len(sizes)
    names = {index.relative_path(int(i)) for i in ids}
    others = select_labelled(turned, per_class=more, seed=seed)
    assert names == {turned.relative_path(int(i)) for i in others}
    alone = select_labelled(index_of(sizes[:1]), per_class=more, seed=seed)
    np.testing.assert_array_equal(alone, ids[index.labels[ids] == 0])
