"""The `ffcv` engine: FFCV's decoder and compiler on a `.beton`, under fastsemi's plan."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastsemi.common.errors import BadImageError, UserError
from fastsemi.loaders.engines.base import Engine, Pending
from fastsemi.loaders.engines.reference import ReferenceEngine
from fastsemi.loaders.engines.thread_pool import Futures
from fastsemi.loaders.plan.types import PlannedBatch, ViewPlan
from fastsemi.loaders.sources.base import Source
from fastsemi.loaders.sources.beton import BetonSource
from fastsemi.loaders.sources.beton_format import JPEG_MODE, RAW_MODE

CURE = (
    "install FFCV's libraries (Debian: apt install pkg-config libopencv-dev libturbojpeg0-dev), then "
    "pip install 'fastsemi[ffcv]'"
)


def available() -> str | None:
    """None where FFCV can be imported, else why not and the cure, in one line."""
    try:
        import ffcv.libffcv
        import ffcv.pipeline  # noqa: F401
    except (ImportError, OSError) as error:
        return f"FFCV cannot be imported ({error}); {CURE}"
    return None


@functools.cache
def _compiled(views: int) -> Callable[..., Any]:
    """The operation, compiled by FFCV: once a process and number of views, in some seconds."""
    from ffcv.pipeline.compiler import Compiler

    from fastsemi.loaders.engines.ffcv_operation import PlannedViews

    return Compiler.compile(PlannedViews(views, 0).generate_code())


@functools.cache
def _threads(count: int) -> ThreadPoolExecutor:
    """Decoding threads, shared by all engines and kept to the end of the process.

    FFCV makes a decoder for each thread that ever decodes and never frees it, so new threads for every engine
    would leave memory behind.
    """
    return ThreadPoolExecutor(count, thread_name_prefix="fastsemi-ffcv")


@dataclass(frozen=True)
class _Work:
    """A batch in the form that the operation reads."""

    batch: PlannedBatch
    records: NDArray[np.void]  # [B]
    windows: NDArray[np.int32]  # [V, B, 4]
    flips: NDArray[np.bool_]  # [V, B]
    slot: torch.Tensor  # [V, B, S, S, 3]


class FfcvEngine(Engine):
    """FFCV's JPEG decoder in an FFCV operation gives all views from one decode.

    The operation is run by threads of this engine instead of FFCV's loader: that draws the windows itself, is
    told its order before an epoch, keeps tables of all samples in every process, and waits for ever when an
    operation fails. What FFCV cannot decode goes to Pillow, which decodes it or says why not.

    Args:
        source: A `.beton`.
        image_size: Side of a view in pixels, S.
        threads: Decoding threads.
        max_pixels: Larger images are refused.

    Raises:
        UserError: FFCV is not installed, or the source is no single `.beton`.
    """

    name = "ffcv"

    def __init__(self, source: Source, image_size: int, threads: int, max_pixels: int):
        super().__init__(source, image_size, threads, max_pixels)
        if not isinstance(source, BetonSource) or not source.is_file:
            raise UserError(
                "the ffcv engine reads only one .beton file; write one with fastsemi data beton and name it "
                "in data.train, or choose another loader.engine"
            )
        reason = available()
        if reason is not None:
            raise UserError(reason)
        self._index = source.index
        self._reference = ReferenceEngine(source, image_size, 1, max_pixels)
        # copy on write, because a read-only array has another type for the compiler; nothing writes to it
        self._file: NDArray[np.uint8] | None = np.asarray(np.memmap(source.index.files[0], np.uint8, "c"))
        self._pool = _threads(threads)
        self._pending: set[Future[list[BadImageError | None]]] = set()

    @classmethod
    def takes(cls, source: Source) -> bool:
        """A `.beton` alone, and one only."""
        return isinstance(source, BetonSource) and source.is_file

    def submit(self, batch: PlannedBatch, slot: torch.Tensor) -> Pending:
        """Queue the batch in chunks small enough to keep all threads busy to its end."""
        count = len(batch.ids)
        chunk = max(1, min(16, count // (2 * self.threads)))
        work = _Work(batch, self._records(batch), batch.windows, batch.flips, slot)
        parts = [np.arange(start, min(start + chunk, count)) for start in range(0, count, chunk)]
        futures = [self._pool.submit(self._chunk, work, part) for part in parts]
        self._pending.update(futures)
        for future in futures:
            future.add_done_callback(self._pending.discard)
        return Futures(futures)

    def _records(self, batch: PlannedBatch) -> NDArray[np.void]:
        from fastsemi.loaders.engines.ffcv_operation import RECORD

        index = self._index
        records = np.zeros(len(batch.ids), RECORD)
        records["mode"] = np.where(index.extra["raw"][batch.ids], RAW_MODE, JPEG_MODE)
        records["width"], records["height"] = index.sizes[batch.ids].T
        records["ptr"], records["size"] = index.offset[batch.ids], index.length[batch.ids]
        return records

    def _chunk(self, work: _Work, part: NDArray[np.int64]) -> list[BadImageError | None]:
        file = self._file
        assert file is not None
        sizes = work.records[part]["width"] * work.records[part]["height"]
        ends = work.records[part]["ptr"] + work.records[part]["size"]
        good = (sizes > 0) & (sizes <= self.max_pixels) & (ends <= len(file))
        failed = np.zeros(len(work.records), np.uint8)
        failed[part[~good]] = 1
        if good.any():
            buffer = np.empty(3 * int(sizes[good].max()), np.uint8)
            _compiled(len(work.windows))(
                part[good],
                (work.slot.numpy(), buffer, failed),
                work.records,
                (file, work.windows, work.flips),
            )
        return [self._pillow(work, b) if failed[b] else None for b in part.tolist()]

    def _pillow(self, work: _Work, b: int) -> BadImageError | None:
        views = tuple(ViewPlan(v.window[b : b + 1], v.flip[b : b + 1]) for v in work.batch.views)
        one = PlannedBatch(work.batch.ids[b : b + 1], work.batch.labels[b : b + 1], views)
        return self._reference.submit(one, work.slot[:, b : b + 1]).result(0)[0]

    def close(self) -> None:
        """Drop what has not started, wait for what has, and let the file go."""
        pending = list(self._pending)
        for future in pending:
            future.cancel()
        wait([future for future in pending if not future.cancelled()])
        self._file = None
