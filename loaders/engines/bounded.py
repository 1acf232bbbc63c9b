"""Bounds the memory in which images are decoded, for every engine: the largest ones come one at a time."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from fastsemi.common.errors import BadImageError, UserError
from fastsemi.loaders.engines.base import PILLOW_BYTES, Engine, Pending, Reading
from fastsemi.loaders.plan.types import PlannedBatch, ViewPlan

_LONG = 1e6  # seconds: who waits for the batch gives up sooner


class _Bounded:
    """A batch on its way of which some images come one after the other, by themselves."""

    def __init__(
        self,
        pending: Pending | None,
        rest: torch.Tensor,
        slot: torch.Tensor,
        rows: NDArray[np.int64],
        giants: dict[int, Future[BadImageError | None]],
    ):
        self._pending, self._rest, self._slot, self._rows, self._giants = pending, rest, slot, rows, giants

    def result(self, timeout: float) -> list[BadImageError | None]:
        """The errors of all images, in order."""
        deadline = time.monotonic() + timeout
        errors: list[BadImageError | None] = [None] * self._slot.shape[1]
        if self._pending is not None:
            found = self._pending.result(timeout)
            self._slot[:, self._rows] = self._rest
            for b, error in zip(self._rows.tolist(), found, strict=True):
                errors[b] = error
        for b, future in self._giants.items():
            errors[b] = future.result(max(0.0, deadline - time.monotonic()))
        return errors


class BoundedEngine(Engine):
    """An engine that never decodes in more memory than allowed, so far as sizes tell.

    One half of it is for the images that its threads decode at the same time, the other for one that is
    larger than a thread's share: such images wait for one another.

    Args:
        inner: Decodes; closed with this engine.
        memory: Bytes.
    """

    def __init__(self, inner: Engine, memory: int):
        super().__init__(inner.source, inner.image_size, inner.threads, inner.max_pixels)
        self.inner, self.name, self.device, self.resizes = inner, inner.name, inner.device, inner.resizes
        self._most = memory // 2
        self._alone = ThreadPoolExecutor(1, thread_name_prefix="fastsemi-giant")

    def submit(self, batch: PlannedBatch, slot: torch.Tensor) -> Pending:
        """Start filling `slot`.

        Raises:
            UserError: An image that alone needs more memory.
            ValueError: Whole images are to be resized, which the engine does not do.
        """
        if not self.resizes and any(view.resize is not None for view in batch.views):
            raise ValueError(f"the engine {self.name} resizes no whole images; use thread_pool or reference")
        sizes = self.source.sizes[batch.ids].astype(np.int64)
        giant = self._larger(batch.ids, sizes, self._most // self.threads)
        if not giant.any():
            return self.inner.submit(batch, slot)
        self.require_memory(batch.ids, sizes)
        rows, alone = np.flatnonzero(~giant), np.flatnonzero(giant)
        rest = torch.empty((slot.shape[0], len(rows), *slot.shape[2:]), dtype=slot.dtype, device=slot.device)
        pending = self.inner.submit(_part(batch, rows), rest) if len(rows) else None
        giants = {b: self._alone.submit(self._one, batch, b, slot) for b in alone.tolist()}
        return _Bounded(pending, rest, slot, rows, giants)

    def _larger(self, ids: NDArray[np.int64], sizes: NDArray[np.int64], limit: int) -> NDArray[np.bool_]:
        """Which images need more than `limit` bytes."""
        pixels = sizes.prod(1)
        larger = (pixels * PILLOW_BYTES > limit) & (pixels <= self.max_pixels)  # others are not decoded
        for b in np.flatnonzero(larger).tolist():
            larger[b] = pixels[b] * self.inner.pixel_bytes(int(ids[b])) > limit
        return larger

    def require_memory(self, ids: NDArray[np.int64], sizes: NDArray[np.int64]) -> None:
        """Refuse images of which one alone needs more memory than there is for one.

        Args:
            ids: [N] which images.
            sizes: [N, 2] their width and height.

        Raises:
            UserError: Names the largest.
        """
        larger = self._larger(ids, sizes, self._most)
        if not larger.any():
            return
        pixels = sizes.prod(1)
        worst, limit = int(np.where(larger, pixels, 0).argmax()), int(pixels[larger].min())
        i, (width, height) = int(ids[worst]), sizes[worst].tolist()
        amounts = (int(pixels[worst]) * self.inner.pixel_bytes(i), self._most)
        need, most = (f"{amount / 2**30:.2g} GiB" for amount in amounts)
        raise UserError(
            f"image {self.source.name(i)} of {width} x {height} pixels needs about {need} to decode, and one "
            f"may take {most} (half of loader.max_memory); raise that or reduce the image, or lower "
            f"data.max_pixels below {limit} and raise data.max_bad by {np.sum(pixels >= limit)}, to skip such"
        )

    def _one(self, batch: PlannedBatch, b: int, slot: torch.Tensor) -> BadImageError | None:
        pixels = torch.empty((slot.shape[0], 1, *slot.shape[2:]), dtype=slot.dtype, device=slot.device)
        (error,) = self.inner.submit(_part(batch, np.array([b])), pixels).result(_LONG)
        slot[:, b] = pixels[:, 0]
        if slot.is_cuda:  # the copy runs in this thread's stream, which who takes the batch does not wait for
            torch.cuda.current_stream(slot.device).synchronize()
        return error

    def reading(self, prefetch: int) -> Reading:
        """As the engine reads."""
        return self.inner.reading(prefetch)

    @property
    def readers(self) -> int:
        """As the engine has."""
        return self.inner.readers

    def pixel_bytes(self, i: int) -> int:
        """As of the engine."""
        return self.inner.pixel_bytes(i)

    def stage_seconds(self) -> dict[str, float]:
        """As the engine says."""
        return self.inner.stage_seconds()

    def close(self) -> None:
        """Stop the engine."""
        self._alone.shutdown(wait=True, cancel_futures=True)
        self.inner.close()


def _part(batch: PlannedBatch, rows: NDArray[np.int64]) -> PlannedBatch:
    """Some images of a batch, as an engine needs them."""
    views = tuple(
        ViewPlan(v.window[rows], v.flip[rows], resize=None if v.resize is None else v.resize[rows])
        for v in batch.views
    )
    return replace(batch, ids=batch.ids[rows], labels=batch.labels[rows], views=views, mix=None)
