import threading
import time

import numpy as np
import pytest
import torch

from fastsemi.common.errors import BadImageError, UserError
from fastsemi.loaders.bad_images import BadImages
from fastsemi.loaders.engines.base import Engine
from fastsemi.loaders.engines.native import NativeEngine
from fastsemi.loaders.index.index import build_index
from fastsemi.loaders.prefetch import Prefetcher
from fastsemi.loaders.sources.folder import FolderSource
from fastsemi.loaders.stream import evaluation_batches


@pytest.fixture
def folder(tmp_path, photo):
    (tmp_path / "images" / "a").mkdir(parents=True)
    for i in range(24):
        photo(40, 30, i).save(tmp_path / "images" / "a" / f"{i:02}.jpg", quality=90)
    return tmp_path


def _open(folder):
    index = build_index(folder / "images", has_classes=True, cache_dir=folder / "cache")
    source = FolderSource(index)
    return index, NativeEngine(source, 16, 2, 10**6)


def _plans(index, batch=4):
    return evaluation_batches(index, np.arange(len(index)), batch, 1.0)


def test_batches_come_in_order_and_the_end_is_the_end(folder):
    index, engine = _open(folder)
    with Prefetcher(engine, _plans(index)) as loader:
        ids = [batch.plan.ids[0] for batch in loader]
    assert ids == [0, 4, 8, 12, 16, 20]
    assert list(loader) == []
    engine.close()


def test_at_most_depth_batches_are_under_way(folder):
    index, engine = _open(folder)
    drawn = []

    def plans():
        for plan in _plans(index, 2):
            drawn.append(plan)
            yield plan

    with Prefetcher(engine, plans(), depth=2) as loader:
        next(loader)
        time.sleep(0.5)
        assert len(drawn) <= 1 + 2 + 1, "one taken, two queued, one waiting for a place"
    engine.close()


def test_early_breaks_leave_no_thread_and_no_file(folder, held):
    index, engine = _open(folder)
    with Prefetcher(engine, _plans(index)) as loader:
        next(loader)
    before = held()
    for _ in range(60):
        with Prefetcher(engine, _plans(index)) as loader:
            next(loader)
    before.assert_nothing_more()
    engine.close()


def test_an_exception_in_the_consumer_closes_the_loader(folder):
    index, engine = _open(folder)
    with pytest.raises(ZeroDivisionError), Prefetcher(engine, _plans(index)) as loader:
        next(loader)
        raise ZeroDivisionError
    assert not any(t.name == "fastsemi-feeder" for t in threading.enumerate())
    engine.close()


def test_an_exception_in_the_plan_reaches_the_consumer(folder):
    index, engine = _open(folder)

    def plans():
        yield next(_plans(index))
        raise KeyError("planned to fail")

    with pytest.raises(KeyError, match="planned to fail"), Prefetcher(engine, plans()) as loader:
        list(loader)
    engine.close()


def _break(folder, *numbers):
    for i in numbers:
        path = folder / "images" / "a" / f"{i:02}.jpg"
        path.write_bytes(path.read_bytes()[:200])


def test_a_broken_image_stops_the_run_with_its_path(folder):
    index, engine = _open(folder)
    _break(folder, 5)
    with (
        pytest.raises(BadImageError, match=r"a/05\.jpg.*max_bad"),
        Prefetcher(engine, _plans(index)) as loader,
    ):
        list(loader)
    engine.close()


def test_broken_images_are_replaced_and_counted_up_to_the_limit(folder):
    index, engine = _open(folder)
    _break(folder, 5, 7, 20)
    bad = BadImages(limit=3)
    for _ in range(2):  # a file counts once, however often it is met
        with Prefetcher(engine, _plans(index), bad=bad) as loader:
            batches = list(loader)
    assert len(bad.paths) == 3
    batch = batches[1]  # ids 4..7, 5 and 7 broken: 5 becomes 6, 7 wraps around to 4
    assert batch.plan.ids.tolist() == [4, 6, 6, 4]
    assert batch.valid.tolist() == [True, False, True, False]
    assert torch.equal(batch.images[:, 1], batch.images[:, 2])
    assert torch.equal(batch.images[:, 3], batch.images[:, 0])
    with pytest.raises(BadImageError, match="max_bad is 2"):
        with Prefetcher(engine, _plans(index), bad=BadImages(limit=2)) as loader:
            list(loader)
    engine.close()


def test_a_broken_file_is_refused_each_time_and_under_a_lowered_limit():
    errors = [BadImageError(f"{i}.jpg", "broken") for i in range(3)]
    strict = BadImages()
    for _ in range(2):
        with pytest.raises(BadImageError):
            strict.record(errors[0])
    assert not strict.paths
    lowered = BadImages(limit=1)
    lowered.paths.update({"0.jpg", "1.jpg"})  # as from a checkpoint of a more lenient run
    with pytest.raises(BadImageError, match="max_bad is 1"):
        lowered.record(errors[0])


def test_a_batch_without_one_good_image_is_an_error(folder):
    index, engine = _open(folder)
    _break(folder, 0, 1, 2, 3)
    with pytest.raises(UserError, match="all 4 images"):
        with Prefetcher(engine, _plans(index), bad=BadImages(limit=99)) as loader:
            list(loader)
    engine.close()


class _Stuck(Engine):
    """An engine whose disk has gone away."""

    name = "stuck"
    waited = 0.0

    def submit(self, batch, slot):
        return self

    def result(self, timeout):
        self.waited += timeout
        time.sleep(timeout)
        raise TimeoutError

    def close(self):
        pass


def test_a_stuck_engine_ends_in_an_error_and_not_in_a_wait(folder):
    index, engine = _open(folder)
    engine.close()
    stuck = _Stuck(engine.source, 16, 1, 10**6)
    with pytest.raises(UserError, match=r"stuck engine gave nothing for 0\.3 s.*00\.jpg"):
        with Prefetcher(stuck, _plans(index), timeout=0.3) as loader:
            next(loader)
    assert stuck.waited < 1.0, "the queued batches are not waited for one by one"
