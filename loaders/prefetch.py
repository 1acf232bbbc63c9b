"""Keeps an engine busy ahead of the training step, in order, bounded, and never silently stuck."""

from __future__ import annotations

import logging
import queue
import threading
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from types import TracebackType
from typing import Self, TypeVar

import numpy as np
import torch

from fastsemi.common.errors import BadImageError, UserError
from fastsemi.common.object_store import UnreachableError
from fastsemi.loaders.bad_images import BadImages
from fastsemi.loaders.engines.base import Engine, Pending
from fastsemi.loaders.plan.types import LoadedBatch, PlannedBatch
from fastsemi.loaders.slots import RecycledSlots, Slots
from fastsemi.loaders.sources.base import Source
from fastsemi.loaders.sources.silent import silent

T = TypeVar("T")

_SILENCE = 2.0  # seconds after which a file that is read again is named

logger = logging.getLogger(__name__)


_Coming = tuple[PlannedBatch, torch.Tensor, Pending, object]


class Loader(Iterator[LoadedBatch]):
    """Loaded batches in the order of their plans. Close it, or use it in a `with` block."""

    waited: float
    """Seconds that the consumer has waited for batches so far."""

    @abstractmethod
    def close(self) -> None:
        """Stop all threads and drop what was loaded. The engine stays open."""

    @property
    def gave_up(self) -> bool:
        """Whether waiting for a batch ended by a signal, or because what it comes from gives nothing."""
        return False

    def give_up(self) -> None:
        """Let closing wait no longer for what has not come by then."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def put_unless(stop: threading.Event, items: queue.Queue[T], item: T) -> bool:
    """Queue an item once there is room; False when `stop` was set meanwhile."""
    while not stop.is_set():
        try:
            items.put(item, timeout=0.1)
            return True
        except queue.Full:
            continue
    return False


def _expected(
    plans: Iterator[PlannedBatch], source: Source, count: int
) -> Iterator[tuple[PlannedBatch, object]]:
    """Plans in their order, each with what its source fetches for it: of one far away, `count` ahead."""
    ahead: deque[tuple[PlannedBatch, object]] = deque()
    for plan in plans:
        held = source.expect(plan.ids)
        ahead.append((plan, held))
        if held is None or len(ahead) > count:
            yield ahead.popleft()
    while ahead:
        yield ahead.popleft()


class Prefetcher(Loader):
    """Iterates over loaded batches in the order of their plans.

    A thread plans and submits ahead; at most `depth` batches are under way. Close it, or use it in a `with`
    block: an early break then leaves no thread behind. The engine stays open.

    Args:
        engine: Fills the slots.
        plans: The planned batches; drawn in the background thread.
        depth: Batches under way at most.
        timeout: Seconds that a batch may take.
        bad: Policy and count of broken files.
        slots: Where memory for the views comes from; by default ordinary memory.
        work: Makes the block in which the feeding thread uses a device, if it does.
        allow_empty: Give a batch without one good image as zeros, all invalid, instead of raising.

    Attributes:
        waited: Seconds that the consumer has waited for batches so far.
    """

    def __init__(
        self,
        engine: Engine,
        plans: Iterable[PlannedBatch],
        *,
        depth: int = 4,
        timeout: float = 120.0,
        bad: BadImages | None = None,
        slots: Slots | None = None,
        work: Callable[[], AbstractContextManager[object]] = nullcontext,
        allow_empty: bool = False,
    ):
        self._engine, self.timeout = engine, timeout
        self._slots, self._work = slots or RecycledSlots(), work
        self._bad = BadImages() if bad is None else bad
        self._allow_empty, self._patience = allow_empty, timeout
        self._queue: queue.Queue[_Coming | BaseException | None]
        self._queue = queue.Queue(maxsize=depth)
        self._stop = threading.Event()
        self._submitting: PlannedBatch | None = None
        self.waited = 0.0
        self._thread = threading.Thread(
            target=self._feed, args=(iter(plans),), name="fastsemi-feeder", daemon=True
        )
        self._thread.start()

    def _feed(self, plans: Iterator[PlannedBatch]) -> None:
        size = self._engine.image_size
        try:
            with self._work():
                for plan, held in _expected(plans, self._engine.source, self._queue.maxsize):
                    shape = (len(plan.views), len(plan.ids), size, size, 3)
                    slot = self._slots.take(shape, self._stop)
                    if slot is None or self._stop.is_set():
                        return
                    self._submitting = plan
                    pending = self._engine.submit(plan, slot)
                    self._submitting = None
                    if not self._put((plan, slot, pending, held)):
                        return self._let_go(pending, self._patience)
            self._put(None)
        except BaseException as error:  # re-raised in the consumer
            self._put(error)

    def _put(self, item: _Coming | BaseException | None) -> bool:
        return put_unless(self._stop, self._queue, item)

    def __next__(self) -> LoadedBatch:
        """Wait for the next batch.

        Raises:
            BadImageError: A file is broken and `data.max_bad` does not allow it.
            UserError: The batch did not come in time.
        """
        if self._stop.is_set():
            raise StopIteration
        started = time.perf_counter()
        try:
            batch = self._next()
        except BaseException as error:
            if not isinstance(error, Exception) or isinstance(error, UnreachableError):  # or a signal
                self.give_up()
            self.close()
            raise
        finally:
            self.waited += time.perf_counter() - started
        return batch

    def _next(self) -> LoadedBatch:
        try:
            item = self._queue.get(timeout=self.timeout)
        except queue.Empty:
            raise self._too_slow(self._submitting) from None
        if item is None:
            raise StopIteration
        if isinstance(item, BaseException):
            raise item
        plan, slot, pending, held = item  # what is fetched for the batch is held until the engine has it
        try:
            errors = pending.result(self.timeout)
        except TimeoutError:
            raise self._too_slow(plan) from None
        except BaseException:  # of a signal: the batch is in no queue any more
            self._let_go(pending, 0.0)
            raise
        valid = np.array([error is None for error in errors])
        del item, held
        if valid.all():
            return LoadedBatch(plan, slot, valid)
        return self._repair(plan, slot, valid, errors)

    def _too_slow(self, plan: PlannedBatch | None) -> UserError:
        self.give_up()
        self._engine.stuck = True
        what = " at planning the next batch"
        if plan is not None:
            source, patience = self._engine.source, min(self.timeout, _SILENCE)
            name = silent(source, plan.ids, patience)
            what = f" at the batch that starts with {source.name(int(plan.ids[0]))}"
            if name is not None:
                what = f"; reading {name} again took more than {patience:g} s"
        return UserError(
            f"the {self._engine.name} engine gave nothing for {self.timeout:g} s{what}; check the disk, or "
            "raise loader.timeout_s"
        )

    def _repair(
        self,
        plan: PlannedBatch,
        slot: torch.Tensor,
        valid: np.ndarray,
        errors: list[BadImageError | None],
    ) -> LoadedBatch:
        """Give broken samples the pixels, id and label of the next good one of the batch."""
        for error in errors:
            if error is not None:
                self._bad.record(error)
        good = np.flatnonzero(valid)
        if not len(good) and self._allow_empty:
            slot.zero_()
            return LoadedBatch(plan, slot, valid)
        if not len(good):
            raise UserError(f"all {len(valid)} images of a batch are broken; the last: {errors[-1]}")
        row = np.where(
            valid, np.arange(len(valid)), good[np.searchsorted(good, np.arange(len(valid))) % len(good)]
        )
        slot.copy_(slot[:, torch.from_numpy(row)])
        return LoadedBatch(replace(plan, ids=plan.ids[row], labels=plan.labels[row]), slot, valid)

    @property
    def gave_up(self) -> bool:
        """As of `Loader`."""
        return not self._patience

    def give_up(self) -> None:
        """As of `Loader`."""
        self._patience = 0.0

    def join(self, thread: threading.Thread) -> None:
        """Wait for a thread that was told to stop; where it still waits for the engine, that is stuck."""
        thread.join(timeout=max(1.0, self._patience))
        if thread.is_alive():
            self._engine.stuck = True

    def close(self) -> None:
        """Stop the thread and drop what was prefetched, once the engine has filled it or the time is up.

        An engine that has not filled it in time is stuck.
        """
        self._stop.set()
        deadline = time.monotonic() + self._patience
        self.join(self._thread)
        with suppress(queue.Empty):
            while True:
                item = self._queue.get_nowait()
                if isinstance(item, tuple):
                    self._let_go(item[2], max(0.0, deadline - time.monotonic()))
        with suppress(queue.Full):
            self._queue.put_nowait(None)  # wakes a consumer that waits in another thread

    def _let_go(self, pending: Pending, timeout: float) -> None:
        """Wait until the engine is done with a batch that nobody wants any more."""
        try:
            pending.result(timeout)
        except TimeoutError:
            self._engine.stuck = True
        except Exception as error:
            logger.debug("dropped a prefetched batch: %s", error)
