"""The engine of machines without DALI: one decode for all views, in C++ threads that never hold the GIL.

This module hands batches to the operator (`native_operator`), which is C++: `kernels/csrc`, its JPEG decoder
in `kernels/csrc/jpeg`.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastsemi.common.errors import BadImageError
from fastsemi.common.spans import record
from fastsemi.loaders.engines.base import JPEG_BYTES, PILLOW_BYTES, Engine, Pending, Reading
from fastsemi.loaders.engines.jpeg_index import JpegIndex
from fastsemi.loaders.engines.native_operator import Operator, Ticket
from fastsemi.loaders.engines.reference import Done
from fastsemi.loaders.index.formats import is_jpeg_name
from fastsemi.loaders.index.regular import regular_fd
from fastsemi.loaders.plan.types import PlannedBatch
from fastsemi.loaders.sources.base import Source
from fastsemi.loaders.sources.beton import BetonSource
from fastsemi.loaders.sources.folder import FolderSource


class _Submitted:
    """A batch in the operator, or still being read."""

    def __init__(
        self, engine: NativeEngine, ids: NDArray[np.int64], ticket: Future[Ticket] | Ticket, lost: dict
    ):
        self._engine, self._ids, self._ticket, self._lost = engine, ids, ticket, lost

    def result(self, timeout: float) -> list[BadImageError | None]:
        deadline = time.monotonic() + timeout
        ticket = self._ticket.result(timeout) if isinstance(self._ticket, Future) else self._ticket
        reasons = self._engine.operator.wait(ticket, max(0.0, deadline - time.monotonic()))
        name = self._engine.source.name
        return [
            self._lost.get(b) or (BadImageError(name(int(i)), reason) if reason else None)
            for b, (i, reason) in enumerate(zip(self._ids, reasons, strict=True))
        ]


class NativeEngine(Engine):
    """Partial JPEG decode and a SIMD resize, in a pool of C++ threads.

    JPEG files in folders are read by the thread that decodes them; bytes of other sources by a few readers.

    Args:
        source: As of every engine; so are the others.
        index_bytes: Memory for where parts of the JPEGs begin, at most; 0 for none.
    """

    name = "native"

    def __init__(self, source: Source, image_size: int, threads: int, max_pixels: int, index_bytes: int = 0):
        super().__init__(source, image_size, threads, max_pixels)
        self.index = JpegIndex.create(source.sizes, index_bytes)
        self.operator = Operator(threads, index=self.index)
        self._readers = ThreadPoolExecutor(self.readers, thread_name_prefix="fastsemi-read")
        self._file: int | None = None  # a .beton of pixels

    def submit(self, batch: PlannedBatch, slot: torch.Tensor) -> Pending:
        """Queue the batch; the operator works on batches in the order they come."""
        lost: dict[int, BadImageError] = {}
        if isinstance(self.source, FolderSource):
            paths = [self.source.path(int(i)) for i in batch.ids]
            if all(map(is_jpeg_name, paths)):
                ticket = self.operator.submit_paths(
                    [os.fsencode(path) for path in paths], **self._arguments(batch, slot), ids=batch.ids
                )
                return _Submitted(self, batch.ids, ticket, lost)
        if isinstance(self.source, BetonSource) and self.source.is_file and self.source.raw[batch.ids].all():
            return self._submit_pixels(batch, slot, self.source)
        return _Submitted(self, batch.ids, self._readers.submit(self._read, batch, slot, lost), lost)

    def _submit_pixels(self, batch: PlannedBatch, slot: torch.Tensor, source: BetonSource) -> Pending:
        """Images stored as pixels need no decoding: the operator cuts them out of the file."""
        if self._file is None:
            try:
                self._file = regular_fd(source.index.files[0])
            except OSError as error:
                reason = error.strerror or str(error)
                return Done([BadImageError(source.name(int(i)), reason) for i in batch.ids])
        offsets = np.asarray(source.index.offset[batch.ids], np.int64)
        ticket = self.operator.submit_pixels(self._file, offsets, **self._arguments(batch, slot))
        return _Submitted(self, batch.ids, ticket, {})

    def _read(self, batch: PlannedBatch, slot: torch.Tensor, lost: dict[int, BadImageError]) -> Ticket:
        with record("read"):
            contents = self.source.read(batch.ids)
        lost.update((b, c) for b, c in enumerate(contents) if isinstance(c, BadImageError))
        encoded = [b"" if isinstance(c, BadImageError) else c for c in contents]
        return self.operator.submit(encoded, **self._arguments(batch, slot), ids=batch.ids)

    def _arguments(self, batch: PlannedBatch, slot: torch.Tensor) -> dict[str, Any]:
        return {
            "windows": batch.windows,
            "flips": batch.flips,
            "out": slot.numpy(),
            "max_pixels": self.max_pixels,
            "sizes": np.ascontiguousarray(self.source.sizes[batch.ids], dtype=np.int32),
        }

    def reading(self, prefetch: int) -> Reading:
        """Plain files and pixels are read by the threads that decode, all else by readers, one a batch."""
        if (isinstance(self.source, BetonSource) and self.source.is_raw and self.source.is_file) or (
            isinstance(self.source, FolderSource) and is_jpeg_name(self.source.path(0))
        ):
            return Reading(self.threads)
        return Reading(min(self.readers, prefetch), apart=True)

    def pixel_bytes(self, i: int) -> int:
        """Fewer of a JPEG."""
        return JPEG_BYTES if is_jpeg_name(self.source.name(i)) else PILLOW_BYTES

    def stage_seconds(self) -> dict[str, float]:
        """What the operator's threads have spent so far."""
        return self.operator.times()

    def close(self) -> None:
        """Drop what has not started and end all threads."""
        self._readers.shutdown(wait=True, cancel_futures=True)
        self.operator.close()
        if self._file is not None:
            os.close(self._file)
            self._file = None
