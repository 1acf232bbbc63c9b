"""Images that need much memory are decoded one at a time, to the same pixels, or refused with their path."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from fastsemi.common.errors import UserError
from fastsemi.common.hardware import available_memory
from fastsemi.loaders.batches import Batches
from fastsemi.loaders.engines.base import JPEG_BYTES, PILLOW_BYTES
from fastsemi.loaders.engines.bounded import BoundedEngine
from fastsemi.loaders.engines.choose import create_engine
from fastsemi.loaders.engines.reference import ReferenceEngine
from fastsemi.loaders.image_set import ImageSet
from fastsemi.loaders.settings import DataConfig, LoaderConfig
from fastsemi.loaders.sources.folder import FolderSource
from fastsemi.loaders.sources.open import open_source

GIB = 2**30


@pytest.fixture
def source(tmp_path, photo):
    """Four images of 1,200 pixels and two of 30,000."""
    for i, size in enumerate([(40, 30), (200, 150), (40, 30), (40, 30), (150, 200), (40, 30)]):
        path = tmp_path / "set" / "ab"[i % 2] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo(*size, i).save(path)
    return open_source(tmp_path, "set", has_classes=True, max_pixels=10**6)


def bytes_for(pixels, threads, each=PILLOW_BYTES):
    """So much memory that `pixels` are a thread's share."""
    return 2 * threads * each * pixels


@pytest.mark.sources("folder")
def test_the_pixels_are_the_same(engine, kind, source, contract):
    plan = contract.stream(source.index, seed=2).plan(0, 0)
    wanted = contract.load(engine, source, plan)
    each = JPEG_BYTES if engine in ("native", "thread_pool") else PILLOW_BYTES
    memory = bytes_for(16_000, threads=2, each=each)  # enough for one large image alone
    running = create_engine(
        engine, source, image_size=contract.SIZE, threads=2, max_pixels=10**6, max_memory=memory / GIB
    )
    slot = torch.full((len(plan.views), len(plan.ids), contract.SIZE, contract.SIZE, 3), 7, dtype=torch.uint8)
    assert running.submit(plan, slot).result(60) == [None] * 6
    running.close()
    np.testing.assert_array_equal(slot.numpy(), wanted)


def test_never_two_large_images_at_a_time(source, contract):
    lock, now, most, seen = threading.Lock(), [0], [0], []

    class Watched(ReferenceEngine):
        def _sample(self, batch, b, out):
            large = self.source.size(int(batch.ids[b]))[0] > 100
            seen.append(len(batch.ids))
            with lock:
                now[0] += large
                most[0] = max(most[0], now[0])
            error = super()._sample(batch, b, out)
            with lock:
                now[0] -= large
            return error

    inner = Watched(source, 16, 2, 10**6)
    bounded = BoundedEngine(inner, bytes_for(16_000, threads=2))
    plan = contract.whole(source.index)
    slots = [torch.zeros((1, 6, 16, 16, 3), dtype=torch.uint8) for _ in range(3)]
    pending = [bounded.submit(plan, slot) for slot in slots]
    assert all(p.result(60) == [None] * 6 for p in pending)
    bounded.close()
    assert most == [1] and sorted(set(seen)) == [1, 4]


def test_an_image_that_needs_too_much_is_refused_with_its_path(source, contract):
    bounded = BoundedEngine(ReferenceEngine(source, 16, 2, 10**6), bytes_for(14_000, threads=2))
    slot = torch.zeros((1, 6, 16, 16, 3), dtype=torch.uint8)
    with pytest.raises(UserError, match=r"image .*\d\.jpg of \d+ x \d+ pixels needs about .* GiB to decode"):
        bounded.submit(contract.whole(source.index), slot)
    bounded.close()


def test_images_of_an_index_are_refused_before_one_is_read(source, monkeypatch):
    monkeypatch.setattr(FolderSource, "read_one", lambda self, i: pytest.fail("read"))
    images = ImageSet(source.index, source, np.arange(6))

    def refuse(pixels, engine="reference", ids=images.ids, **limits):
        memory = bytes_for(pixels, threads=1) / GIB
        batches = Batches(DataConfig(image_size=16, **limits), LoaderConfig(engine, 1, max_memory=memory))
        try:
            batches.require_memory(replace(images, ids=ids))
        finally:
            opened = len(batches._engines)
            batches.close()
        return opened

    assert refuse(30_000) == 0, "no engine is opened where every image fits"
    cure = r"raise that .*lower data\.max_pixels below 30000 and raise data\.max_bad by 2, to skip such"
    with pytest.raises(UserError, match=rf"image .*\d\.jpg of (200 x 150|150 x 200) pixels .*{cure}"):
        refuse(29_999)
    small = np.flatnonzero(source.index.sizes[:, 0] == 40)
    assert refuse(29_999, ids=small) == 0
    assert refuse(29_999, max_pixels=29_999) == 1, "which are broken images then"
    assert refuse(10_000, engine="thread_pool") == 1, "which needs less memory for a JPEG"


def test_a_broken_large_image_is_an_error_of_its_own(source, contract):
    large = next(i for i in range(6) if source.size(i)[0] > 100)
    with open(source.name(large), "r+b") as file:
        file.truncate(300)
    bounded = BoundedEngine(ReferenceEngine(source, 16, 1, 10**6), bytes_for(16_000, threads=2))
    bounded.threads = 2
    slot = torch.zeros((1, 6, 16, 16, 3), dtype=torch.uint8)
    errors = bounded.submit(contract.whole(source.index), slot).result(60)
    bounded.close()
    assert [i for i, error in enumerate(errors) if error] == [large]


def test_what_is_available_is_no_more_than_there_is():
    import os

    assert 0 < available_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize("value", [-1, float("inf"), float("nan")])
def test_a_bound_must_be_one(value):
    with pytest.raises(UserError, match=r"loader\.max_memory is .* must be 0 \(automatic\) or more"):
        LoaderConfig(max_memory=value)
