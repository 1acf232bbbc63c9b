"""Brings loaded batches to the device ahead of the training step, beside its work."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from fastsemi.common.errors import UserError
from fastsemi.common.spans import record
from fastsemi.loaders.bad_images import BadImages
from fastsemi.loaders.engines.base import Engine
from fastsemi.loaders.plan.packing import pack, planned_arrays, unpack
from fastsemi.loaders.plan.types import LoadedBatch, PlannedBatch
from fastsemi.loaders.prefetch import Loader, Prefetcher, put_unless
from fastsemi.loaders.slots import Copy, DeviceSlots, SlotRing, Slots

ON_DEVICE = 2  # batches that wait on the device


class Copier(Protocol):
    """Copies from host memory to a device, in the background."""

    def allocate(self, size: int) -> Tensor:
        """[size] uint8 of host memory that copies may start from."""
        ...

    def work(self) -> AbstractContextManager[object]:
        """A block in which a background thread's device work is kept apart from the training step's."""
        ...

    def start(self, tensors: list[Tensor]) -> tuple[list[Tensor], Copy]:
        """Start copying; those on the device already stay. Called in a block of `work`.

        Returns:
            The tensors on the device, and what tells when all are there.
        """
        ...

    def receive(self, tensors: list[Tensor], copy: Copy) -> None:
        """Let the calling thread's later device work wait for a copy; the host does not wait."""
        ...


class CudaCopier:
    """Copies on a stream of its own, from pinned memory.

    Args:
        device: Where to.
    """

    def __init__(self, device: torch.device):
        self._device, self._stream = device, torch.cuda.Stream(device)

    def allocate(self, size: int) -> Tensor:
        """Pinned memory."""
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)

    def work(self) -> AbstractContextManager[object]:
        """Work of the calling thread goes to the stream."""
        return torch.cuda.stream(self._stream)

    def start(self, tensors: list[Tensor]) -> tuple[list[Tensor], torch.cuda.Event]:
        """Start copying, and record an event behind it."""
        copies = [tensor.to(self._device, non_blocking=True) for tensor in tensors]
        event = torch.cuda.Event(blocking=True)  # who waits for it sleeps
        event.record(self._stream)
        return copies, event

    def receive(self, tensors: list[Tensor], copy: Copy) -> None:
        """Let the current stream wait, and keep the memory until what it does with the tensors is done."""
        assert isinstance(copy, torch.cuda.Event)
        stream = torch.cuda.current_stream(self._device)
        stream.wait_event(copy)
        for tensor in tensors:
            tensor.record_stream(stream)


class DeviceLoader(Loader):
    """Batches on the device, with the arrays of their plans, in the order of a prefetcher.

    A thread takes loaded batches, starts their copies and keeps up to `ON_DEVICE` of them ready. A host slot
    goes back to the ring with its copy, which the prefetcher's feeding thread waits for before the slot is
    filled anew. The consumer's stream waits for the copy, the consumer itself only for a batch that is not
    loaded.

    Args:
        batches: Loads into slots of `ring`, or into memory of the device. Closed with this loader.
        copier: Copies to the device.
        ring: Where the slots go back to; None where they lie on the device.

    Attributes:
        waited: Seconds that the consumer has waited for batches so far.
    """

    def __init__(self, batches: Prefetcher, copier: Copier, ring: SlotRing | None):
        self._batches, self._copier, self._ring = batches, copier, ring
        self._ready: queue.Queue[tuple[LoadedBatch, list[Tensor], Copy] | BaseException]
        self._ready = queue.Queue(maxsize=ON_DEVICE)
        self._stop = threading.Event()
        self.waited = 0.0
        self._thread = threading.Thread(target=self._copy, name="fastsemi-copy", daemon=True)
        self._thread.start()

    def _copy(self) -> None:
        try:
            with self._copier.work():
                for batch in self._batches:
                    if not self._put(self._send(batch)):
                        return
            self._put(StopIteration())
        except BaseException as error:  # re-raised in the consumer
            self._put(error)

    def _send(self, batch: LoadedBatch) -> tuple[LoadedBatch, list[Tensor], Copy]:
        block, layout = pack(planned_arrays(batch.plan, batch.valid), self._copier.allocate)
        with record("copy"):
            tensors, copy = self._copier.start([batch.images, block])
        if self._ring is not None:
            self._ring.give_back(batch.images, copy)
        return replace(batch, images=tensors[0], tensors=unpack(tensors[1], layout)), tensors, copy

    def _put(self, item: tuple[LoadedBatch, list[Tensor], Copy] | BaseException) -> bool:
        return put_unless(self._stop, self._ready, item)

    def __next__(self) -> LoadedBatch:
        """Wait for the next batch. Its tensors may be used in the stream that is current now.

        Raises:
            BadImageError: A file is broken and `data.max_bad` does not allow it.
            UserError: The batch did not come in time.
        """
        if self._stop.is_set():
            raise StopIteration
        started = time.perf_counter()
        try:
            # the prefetcher gives up on a batch after its own time; what is left is the copy
            item = self._ready.get(timeout=2 * self._batches.timeout + 1)
        except queue.Empty:
            self.close()
            raise UserError(
                f"a batch was not copied to the device in {self._batches.timeout:g} s; check the device, or "
                "raise loader.timeout_s"
            ) from None
        except BaseException:  # a signal
            self.give_up()
            self.close()
            raise
        finally:
            self.waited += time.perf_counter() - started
        if isinstance(item, BaseException):
            self.close()
            raise item
        batch, tensors, copy = item
        self._copier.receive(tensors, copy)
        return batch

    @property
    def gave_up(self) -> bool:
        """As of `Loader`."""
        return self._batches.gave_up

    def give_up(self) -> None:
        """As of `Loader`."""
        self._batches.give_up()

    def close(self) -> None:
        """Stop all threads and drop what was loaded. The engine stays open."""
        self._stop.set()
        self._batches.close()
        self._batches.join(self._thread)
        while not self._ready.empty():
            self._ready.get_nowait()


def load_to_device(
    engine: Engine,
    plans: Iterable[PlannedBatch],
    *,
    copier: Copier,
    depth: int = 4,
    timeout: float = 120.0,
    bad: BadImages | None = None,
    allow_empty: bool = False,
) -> DeviceLoader:
    """Load planned batches ahead of time and copy them to a device; further arguments as of `Prefetcher`."""
    ring = None
    slots: Slots
    if engine.device is not None:
        slots = DeviceSlots(engine.device)
    else:  # `depth` wait, one is being submitted, one is loaded or copied
        slots = ring = SlotRing(depth + 2, copier.allocate)
    batches = Prefetcher(
        engine,
        plans,
        depth=depth,
        timeout=timeout,
        bad=bad,
        slots=slots,
        work=copier.work,
        allow_empty=allow_empty,
    )
    return DeviceLoader(batches, copier, ring)
