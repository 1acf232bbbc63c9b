"""The way to the device: slots, their reuse, packed plans, and the loader that copies ahead."""

import contextlib
import gc
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from fastsemi.common.errors import BadImageError
from fastsemi.loaders.device_copy import ON_DEVICE, CudaCopier, load_to_device
from fastsemi.loaders.engines.choose import create_engine
from fastsemi.loaders.index.index import build_index
from fastsemi.loaders.plan.draws import AugmentConfig, View
from fastsemi.loaders.plan.mixing import MixConfig
from fastsemi.loaders.plan.packing import pack, planned_arrays, unpack, upload
from fastsemi.loaders.prefetch import Prefetcher
from fastsemi.loaders.slots import RecycledSlots, SlotRing
from fastsemi.loaders.sources.folder import FolderSource
from fastsemi.loaders.stream import Stream

SIZE, BATCH = 16, 4
GO = threading.Event()  # never set


class ThreadCopier:
    """Copies within host memory in one thread, as late as it is told to: what a busy copy engine does."""

    def __init__(self, delay=0.0):
        self.pool, self.delay, self.allocated = ThreadPoolExecutor(1), delay, 0

    def allocate(self, size):
        self.allocated += size >= BATCH * SIZE * SIZE * 3
        return torch.empty(size, dtype=torch.uint8)

    def work(self):
        return contextlib.nullcontext()

    def start(self, tensors):
        copies = [torch.empty_like(tensor) for tensor in tensors]
        return copies, _Copy(self.pool.submit(self._run, tensors, copies))

    def _run(self, tensors, copies):
        time.sleep(self.delay)
        for tensor, copy in zip(tensors, copies, strict=True):
            copy.copy_(tensor)

    def receive(self, tensors, copy):
        copy.synchronize()  # a consumer on the CPU has no stream that could wait for it

    def close(self):
        self.pool.shutdown()


class _Copy:
    def __init__(self, future):
        self.future = future

    def synchronize(self):
        self.future.result()


@pytest.fixture
def folder(tmp_path, photo):
    (tmp_path / "images" / "a").mkdir(parents=True)
    for i in range(24):
        photo(40, 30, i).save(tmp_path / "images" / "a" / f"{i:02}.jpg", quality=90)
    return FolderSource(build_index(tmp_path / "images", has_classes=True, cache_dir=tmp_path / "cache"))


@pytest.fixture
def engine(folder):
    engine = create_engine("native", folder, image_size=SIZE, threads=2, max_pixels=10**6)
    yield engine
    engine.close()


def _plans(source, count):
    views = {View.WEAK: AugmentConfig(color_jitter=0.4, erase=0), View.STRONG: AugmentConfig(erase=0.5)}
    stream = Stream(source.index, np.arange(24), BATCH, 1, views, MixConfig(), 0, SIZE, "unlabelled")
    return [stream.plan(step, 0) for step in range(count)]


def _expected(engine, plans):
    with Prefetcher(engine, plans) as batches:
        return [batch.images.clone() for batch in batches]


def test_memory_is_used_again_only_when_nothing_refers_to_it():
    slots = RecycledSlots()
    first = slots.take((2, 8), GO)
    address, part = first.data_ptr(), first[1].numpy()[2:]
    first.fill_(3)
    del first  # a view of a view is left
    gc.collect()
    other = slots.take((2, 8), GO)
    assert other.data_ptr() != address
    other.fill_(7)
    assert (part == 3).all()
    del part
    assert slots.take((3, 5), GO).data_ptr() == address
    bigger = slots.take((999,), GO)
    assert bigger.shape == (999,)


def test_a_kept_batch_never_changes(engine, folder):
    plans = _plans(folder, 12)
    with Prefetcher(engine, plans, depth=2) as batches:
        kept = [batch.images for batch in batches]
    with Prefetcher(engine, plans, depth=2) as batches:
        copies = [batch.images.clone() for batch in batches]
    assert all(torch.equal(a, b) for a, b in zip(kept, copies, strict=True))


def test_a_ring_waits_for_the_copy_and_for_the_stop():
    pool, stop, over = ThreadPoolExecutor(1), threading.Event(), threading.Event()
    ring = SlotRing(2, lambda size: torch.empty(size, dtype=torch.uint8))
    slots = [ring.take((2, 3), stop) for _ in range(2)]
    taken = pool.submit(ring.take, (3, 2), stop)
    time.sleep(0.2)
    assert not taken.done(), "both are out"
    copy = ThreadPoolExecutor(1)
    ring.give_back(slots[1], _Copy(copy.submit(over.wait)))
    time.sleep(0.2)
    assert not taken.done(), "one is back, but still read"
    over.set()
    again = taken.result(60)
    assert again.data_ptr() == slots[1].data_ptr() and again.shape == (3, 2)
    ring.give_back(slots[0], None)
    assert ring.take((100,), stop).shape == (100,), "a buffer grows where a batch needs it"
    taken = pool.submit(ring.take, (1,), stop)
    stop.set()
    assert taken.result(60) is None
    pool.shutdown()
    copy.shutdown()


def test_packed_arrays_come_out_as_they_went_in(folder):
    plan = _plans(folder, 1)[0]
    arrays = planned_arrays(plan, np.array([True, False, True, True]))
    erased = np.flatnonzero(plan.views[1].erase.box[:, 2])
    np.testing.assert_array_equal(arrays["views.1.erase.rows"], erased)
    assert {"labels", "valid", "mix.lam", "views.0.color.order", "views.1.erase.key"} <= arrays.keys()
    assert not any(name.endswith((".window", ".flip")) for name in arrays)
    arrays["empty"] = np.zeros((0, 4), np.float64)
    block, layout = pack(arrays, lambda size: torch.full((size,), 255, dtype=torch.uint8))
    assert block.ndim == 1 and block.dtype == torch.uint8
    for tensors in (unpack(block.clone(), layout), upload(arrays, torch.device("cpu"))):
        assert tensors.keys() == arrays.keys()
        for name, array in arrays.items():
            assert tensors[name].dtype == torch.from_numpy(array[:0]).dtype
            np.testing.assert_array_equal(tensors[name].numpy(), array)


@pytest.mark.parametrize("delay", [0.0, 0.02])
def test_copied_batches_are_the_loaded_ones_in_order(engine, folder, delay):
    plans = _plans(folder, 20)
    expected = _expected(engine, plans)
    copier = ThreadCopier(delay)
    with load_to_device(engine, plans, copier=copier, depth=2) as batches:
        for batch, plan, images in zip(batches, plans, expected, strict=True):
            assert torch.equal(batch.images, images)
            np.testing.assert_array_equal(batch.tensors["labels"], plan.labels)
            np.testing.assert_array_equal(batch.tensors["mix.partner"], plan.mix.partner)
        assert batches.waited > 0
    assert copier.allocated <= 4, "slots are allocated once"
    copier.close()


def test_a_slow_consumer_holds_the_loader_back(engine, folder):
    drawn = []

    def plans():
        for plan in _plans(folder, 40):
            drawn.append(plan)
            yield plan

    copier = ThreadCopier()
    with load_to_device(engine, plans(), copier=copier, depth=2) as batches:
        next(batches)
        time.sleep(0.6)
        assert len(drawn) <= 1 + ON_DEVICE + 1 + 2 + 2
    copier.close()


def test_early_breaks_leave_no_thread_and_no_file(engine, folder, held):
    copier = ThreadCopier()

    def cycles(count):
        for cycle in range(count):
            with load_to_device(engine, _plans(folder, 6), copier=copier, depth=2) as batches:
                for _ in range(cycle % 3):
                    next(batches)

    cycles(5)
    before = held()
    cycles(60)
    before.assert_nothing_more()
    copier.close()


def test_errors_reach_the_consumer_in_their_place(engine, folder):
    broken = folder.index.root / folder.index.relative_path(9)
    broken.write_bytes(broken.read_bytes()[:200])
    plans = _plans(folder, 6)
    place = next(step for step, plan in enumerate(plans) if 9 in plan.ids)
    copier = ThreadCopier()
    loaded = 0
    with pytest.raises(BadImageError, match=r"09\.jpg"):
        with load_to_device(engine, plans, copier=copier) as batches:
            for _ in batches:
                loaded += 1
    assert loaded == place
    assert not any(t.name in ("fastsemi-feeder", "fastsemi-copy") for t in threading.enumerate())
    copier.close()


@pytest.mark.parametrize("load", [load_to_device, Prefetcher])
def test_a_signal_gives_up_a_batch_that_hangs(load, folder, monkeypatch):
    away = threading.Event()
    monkeypatch.setattr(FolderSource, "read_one", lambda self, i: away.wait())
    engine = create_engine("thread_pool", folder, image_size=SIZE, threads=1, max_pixels=10**6)
    copier = ThreadCopier()
    options = {"copier": copier} if load is load_to_device else {}
    # What a shell starts in the background has it ignored.
    before, started = signal.signal(signal.SIGINT, signal.default_int_handler), time.monotonic()
    try:
        with (
            pytest.raises(KeyboardInterrupt),
            load(engine, _plans(folder, 1), timeout=60, **options) as batches,
        ):
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
            next(batches)
    finally:
        signal.signal(signal.SIGINT, before)
        away.set()
    assert time.monotonic() - started < 20
    assert engine.stuck, "its threads hang: closing it would too"
    copier.close()


@pytest.mark.gpu
def test_on_a_gpu_no_step_waits_and_no_slot_is_overwritten(engine, folder):
    plans = _plans(folder, 200)
    expected = _expected(engine, plans)
    device = torch.device("cuda")
    slow = torch.randn(2048, 2048, device=device)
    sums, same = [], []
    reference = [images.to(device) for images in expected]
    torch.cuda.synchronize()
    with load_to_device(engine, plans, copier=CudaCopier(device), depth=2) as batches:
        torch.cuda.set_sync_debug_mode("error")
        try:
            for batch, images in zip(batches, reference, strict=True):
                for _ in range(4):  # the stream falls behind the loader
                    slow = (slow @ slow).tanh()
                same.append((batch.images == images).all())
                sums.append(batch.tensors["mix.partner"].sum())
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert torch.stack(same).all()
    assert torch.stack(sums).unique().tolist() == [BATCH * (BATCH - 1) // 2]
