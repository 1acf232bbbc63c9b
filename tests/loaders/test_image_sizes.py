"""The side of the views as a function of the step, and the plans and engines that follow it."""

from dataclasses import replace

import numpy as np
import pytest

from fastsemi.loaders.image_sizes import ImageSizes


@pytest.mark.parametrize("steps", [3, 8, 9, 100])
def test_each_side_lasts_an_equal_share_and_spans_are_the_same_sides(steps):
    sizes = ImageSizes((8, 12, 16), steps)
    sides = [sizes.at(step) for step in range(steps)]
    counts = [sides.count(side) for side in sizes.sides]
    assert sides == sorted(sides) and sum(counts) == steps and max(counts) - min(counts) <= 1
    for first in (0, steps // 2, steps - 1, steps):
        spans = list(sizes.spans(range(first, steps)))
        assert [(side, step) for side, part in spans for step in part] == list(
            zip(sides[first:], range(first, steps), strict=True)
        )
        assert len(spans) == len(set(sides[first:])), "one span a side"
    assert sizes.at(steps + 5) == 16


def test_plans_differ_in_erased_boxes_alone(tiny):
    from fastsemi.run.context import RunContext
    from fastsemi.stages.semi import Semi

    config = tiny("--semi.strong.erase", "1", "--semi.length", "8 steps")
    run = RunContext(config)
    try:
        stream = Semi.build_roles(config.semi, run.data, 0)["unlabelled"].stream
    finally:
        run.close()
    growing = replace(stream, sizes=ImageSizes((8, 16), 8))
    assert [growing.image_size_at(step) for step in (0, 3, 4, 7)] == [8, 8, 16, 16]
    assert list(stream.spans(range(2, 6))) == [(16, range(2, 6))]
    small, large = growing.plan(1, 0), stream.plan(1, 0)
    np.testing.assert_array_equal(small.ids, large.ids)
    np.testing.assert_array_equal(small.windows, large.windows)
    np.testing.assert_array_equal(small.flips, large.flips)
    box, whole = small.views[-1].erase.box, large.views[-1].erase.box
    assert (box[:, :2] + box[:, 2:]).max() <= 8 < (whole[:, :2] + whole[:, 2:]).max()
    last = growing.plan(5, 0)
    np.testing.assert_array_equal(last.views[-1].erase.box, stream.plan(5, 0).views[-1].erase.box)


@pytest.mark.parametrize("engine", ["reference", "thread_pool", "native"])
def test_an_engine_of_another_size_is_closed_after_its_last_loader(tiny, engine):
    from fastsemi.run.context import RunContext
    from fastsemi.stages.semi import Semi

    config = tiny("--loader.engine", engine)
    run = RunContext(config)
    try:
        roles = Semi.build_roles(config.semi, run.data, 0)
        batches, images = run.data.batches, roles["unlabelled"].images
        plan, other = roles["unlabelled"].stream.plan(0, 0), roles["labelled"].stream.plan(0, 0)
        with run.data.load(images, [plan]) as loader:
            assert next(loader).images.shape[2:4] == (16, 16)
        whole = dict(batches._engines)
        with run.data.load(images, [plan], image_size=8) as first:
            with run.data.load(images, [other], image_size=8) as second:
                assert next(second).images.shape[2:4] == (8, 8)
            assert len(batches._engines) == len(whole) + 1
            assert next(first).images.shape[2:4] == (8, 8)
        assert batches._engines == whole
    finally:
        run.close()
