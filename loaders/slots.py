"""Memory that engines fill: allocated once, used again for later batches, never while someone reads it."""

from __future__ import annotations

import math
import queue
import threading
import weakref
from collections import deque
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_POLL = 0.1  # seconds between looks at whether the loader was closed


class Slots(Protocol):
    """Where a loader takes memory from, in its feeding thread."""

    def take(self, shape: tuple[int, ...], stop: threading.Event) -> Tensor | None:
        """A uint8 tensor with undefined content; None where `stop` was set while waiting for one."""
        ...


class RecycledSlots:
    """Ordinary memory, used again as soon as no tensor and no array refers to it any more.

    A consumer may so keep batches as long as it likes. Fresh memory would cost the kernel's page faults for
    each batch, which for views of 224 pixels is more than a tenth of the native engine's time.
    """

    def __init__(self) -> None:
        self._free: deque[NDArray[np.uint8]] = deque()

    def take(self, shape: tuple[int, ...], stop: threading.Event) -> Tensor:
        """A slot; never waits."""
        size = math.prod(shape)
        try:
            buffer = self._free.pop()
        except IndexError:
            buffer = np.empty(size, np.uint8)
        if len(buffer) < size:
            buffer = np.empty(size, np.uint8)
        view = buffer[:size].reshape(shape)
        # the tensor and all that shares its memory hold `view`, whose end is therefore the end of all uses
        weakref.finalize(view, self._free.append, buffer).atexit = False
        return torch.from_numpy(view)


class DeviceSlots:
    """Memory of a CUDA device, for engines whose views come into being there; its allocator uses it again."""

    def __init__(self, device: int):
        self._device = device

    def take(self, shape: tuple[int, ...], stop: threading.Event) -> Tensor:
        """A slot of the feeding thread's current stream; never waits for it."""
        return torch.empty(shape, dtype=torch.uint8, device=self._device)


class Copy(Protocol):
    """A copy under way, such as a CUDA event after it."""

    def synchronize(self) -> None:
        """Wait until the copy is over."""
        ...


class Allocate(Protocol):
    """Allocates host memory that copies start from."""

    def __call__(self, size: int) -> Tensor:
        """[size] uint8."""
        ...


class SlotRing:
    """A fixed number of host buffers, each used again when the copy out of it is over.

    Args:
        count: Buffers at most; each is allocated when it is first needed.
        allocate: Makes one, pinned where copies go to a GPU.
    """

    def __init__(self, count: int, allocate: Allocate):
        self._missing, self._allocate = count, allocate
        self._free: queue.SimpleQueue[tuple[Tensor, Copy | None]] = queue.SimpleQueue()

    def take(self, shape: tuple[int, ...], stop: threading.Event) -> Tensor | None:
        """A slot, once the copy out of the one that was given back first is over."""
        size = math.prod(shape)
        if self._missing and self._free.empty():
            self._missing -= 1
            return self._allocate(size).view(shape)
        while not stop.is_set():
            try:
                buffer, copy = self._free.get(timeout=_POLL)
            except queue.Empty:
                continue
            if copy is not None:
                copy.synchronize()
            if len(buffer) < size:
                buffer = self._allocate(size)
            return buffer[:size].view(shape)
        return None

    def give_back(self, slot: Tensor, copy: Copy | None) -> None:
        """Return a slot that was taken; `copy` is what still reads it."""
        whole = torch.empty(0, dtype=torch.uint8).set_(slot.untyped_storage())
        self._free.put((whole, copy))
