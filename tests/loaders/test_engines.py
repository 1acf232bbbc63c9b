"""The contract: every engine over every source it takes, the same plan, the same pixels."""

import numpy as np
import pytest
import torch

from fastsemi.loaders.engines.choose import create_engine
from fastsemi.loaders.prefetch import Prefetcher
from fastsemi.loaders.stream import evaluation_batches

BOUND = 1.5  # mean absolute difference from the reference, of 255


def test_pixels_agree_with_the_reference(engine, kind, sources, every_kind, contract):
    source = sources(kind)
    for plan in (
        contract.stream(source.index).plan(0, 0),
        next(evaluation_batches(source.index, np.arange(len(source)), 999, 0.875)),
    ):
        expected = contract.load("reference", source, plan).astype(np.float32)
        difference = np.abs(contract.load(engine, source, plan) - expected)
        for label, what in enumerate(every_kind.index.classes):
            assert difference[:, plan.labels == label].mean() <= BOUND, what


@pytest.mark.sources("tar", "parquet")
def test_the_same_files_give_the_same_bytes_from_any_source(engine, kind, sources, every_kind, contract):
    source = sources(kind)
    plan, same = contract.stream(every_kind.index).plan(0, 0), contract.stream(source.index).plan(0, 0)
    for mine, theirs in ((plan.ids, same.ids), (plan.labels, same.labels), (plan.windows, same.windows)):
        np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(plan.flips, same.flips)
    np.testing.assert_array_equal(
        contract.load(engine, source, same), contract.load(engine, every_kind, plan)
    )


def test_pixels_do_not_depend_on_threads_or_batches(engine, kind, sources, contract):
    source = sources(kind)
    plan = contract.stream(source.index).plan(0, 0)
    one = contract.load(engine, source, plan, threads=1)
    np.testing.assert_array_equal(one, contract.load(engine, source, plan, threads=8))
    order = plan.ids.argsort()
    cut = contract.stream(source.index, micro_batches=3)
    parts = [cut.plan(0, m) for m in range(3)]
    assert sorted(np.concatenate([p.ids for p in parts])) == sorted(plan.ids)
    pieces = np.concatenate([contract.load(engine, source, p) for p in parts], axis=1)
    ids = np.concatenate([p.ids for p in parts])
    np.testing.assert_array_equal(pieces[:, ids.argsort()], one[:, order])


def test_any_number_of_ranks_loads_the_same_samples_with_the_same_pixels(engine, kind, sources, contract):
    """Four micro-batches in each of two global batches, dealt to 1, 2 and 4 ranks with an engine each."""
    source = sources(kind)
    stream = contract.stream(source.index, batch=24, micro_batches=4, seed=3)
    results = []
    for world in (1, 2, 4):
        seen = {}
        for rank in range(world):
            plans = [stream.plan(step, micro) for step in range(2) for micro in range(rank, 4, world)]
            running = create_engine(
                engine, source, image_size=contract.SIZE, threads=1 + rank % 2, max_pixels=10**7
            )
            with Prefetcher(running, plans, timeout=60) as batches:
                for batch in batches:
                    for b, i in enumerate(batch.plan.ids.tolist()):
                        assert i not in seen
                        seen[i] = batch.images[:, b].clone()
            running.close()
        results.append(seen)
    assert len(results[0]) == 48
    for seen in results[1:]:
        assert seen.keys() == results[0].keys()
        assert all(torch.equal(pixels, results[0][i]) for i, pixels in seen.items())


def test_the_state_is_the_number_of_the_step(engine, kind, sources, contract):
    """A loader that begins at step 3 goes on as one that ran from the start."""
    source, results = sources(kind), []
    for begin in (0, 3):
        stream = contract.stream(source.index, batch=16)  # built anew: it carries nothing along
        plans = (stream.plan(step, 0) for step in range(begin, 6))
        running = create_engine(engine, source, image_size=contract.SIZE, threads=2, max_pixels=10**7)
        with Prefetcher(running, plans, timeout=60) as batches:
            results.append([(batch.plan.ids.tolist(), batch.images.clone()) for batch in batches])
        running.close()
    assert len(results[1]) == 3
    for (ids, images), (same_ids, same_images) in zip(results[0][3:], results[1], strict=True):
        assert ids == same_ids and torch.equal(images, same_images)


def test_flips_mirror(engine, kind, sources, contract):
    source = sources(kind)
    plan = contract.whole(source.index)
    straight = contract.load(engine, source, plan)
    plan.views[0].flip[:] = True
    np.testing.assert_array_equal(contract.load(engine, source, plan), straight[:, :, :, ::-1])


def test_many_batches_under_way_come_in_order(engine, kind, sources, contract):
    source = sources(kind)
    cut = contract.stream(source.index, batch=16)
    plans = [cut.plan(step, 0) for step in range(8)] + [contract.whole(source.index, 5)]  # other shapes last
    expected = [contract.load("reference", source, plan).astype(np.float32) for plan in plans]
    running = create_engine(engine, source, image_size=contract.SIZE, threads=2, max_pixels=10**7)
    with Prefetcher(running, plans, depth=5, timeout=60) as batches:
        for plan, batch, pixels in zip(plans, batches, expected, strict=True):
            assert batch.plan is plan
            assert np.abs(batch.images.numpy() - pixels).mean() <= BOUND
    running.close()
