"""The native engine where its C++ operator is not built: a pool of threads over kept libraries."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor, wait

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

from fastsemi.common.errors import BadImageError
from fastsemi.common.spans import record
from fastsemi.loaders.engines.base import JPEG_BYTES, PILLOW_BYTES, Engine, Pending
from fastsemi.loaders.engines.damage import JPEG_MAGIC, simplejpeg
from fastsemi.loaders.engines.reference import check_size, cut_resized, decode_rgb
from fastsemi.loaders.index.formats import is_jpeg_name
from fastsemi.loaders.plan.types import PlannedBatch
from fastsemi.loaders.sources.base import Source


def decode(data: bytes, name: str, max_pixels: int) -> np.ndarray:
    """Decode to [H, W, 3] uint8: RGB and grey JPEGs with libjpeg-turbo where it is, all else with Pillow.

    Raises:
        BadImageError: As `decode_rgb`.
    """
    if simplejpeg is not None and data.startswith(JPEG_MAGIC):
        try:
            height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
            if colorspace in ("YCbCr", "Gray", "RGB") and height * width <= max_pixels:
                return simplejpeg.decode_jpeg(data, colorspace="RGB")
        except ValueError:
            pass  # Pillow judges: it reads some files that libjpeg-turbo's simple interface refuses
    return np.array(decode_rgb(data, name, max_pixels))  # a copy, which PyTorch may write to


class Futures:
    """Chunks of a batch on their way."""

    def __init__(self, futures: list[Future[list[BadImageError | None]]]):
        self._futures = futures

    def result(self, timeout: float) -> list[BadImageError | None]:
        """The errors of all chunks, in order."""
        deadline = time.monotonic() + timeout
        wait(self._futures, timeout=timeout)
        return [error for f in self._futures for error in f.result(max(0.0, deadline - time.monotonic()))]


class ThreadPoolEngine(Engine):
    """Each image decoded once, by libjpeg-turbo, and resized by PyTorch; both release the GIL."""

    name = "thread_pool"
    resizes = True

    def __init__(self, source: Source, image_size: int, threads: int, max_pixels: int):
        super().__init__(source, image_size, threads, max_pixels)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="fastsemi-decode")

    def submit(self, batch: PlannedBatch, slot: torch.Tensor) -> Pending:
        """Queue the batch in chunks small enough to keep all threads busy to its end."""
        count = len(batch.ids)
        chunk = max(1, min(16, count // (2 * self.threads)))
        parts = [range(start, min(start + chunk, count)) for start in range(0, count, chunk)]
        return Futures([self._pool.submit(self._chunk, batch, part, slot) for part in parts])

    def _chunk(self, batch: PlannedBatch, part: range, slot: torch.Tensor) -> list[BadImageError | None]:
        return [self._sample(batch, b, slot) for b in part]

    def _sample(self, batch: PlannedBatch, b: int, slot: torch.Tensor) -> BadImageError | None:
        image_id = int(batch.ids[b])
        try:
            name = self.source.name(image_id)
            with record("read"):
                data = self.source.read_one(image_id)
            with record("decode"):
                pixels = decode(data, name, self.max_pixels)
            check_size((pixels.shape[1], pixels.shape[0]), self.source.size(image_id), name)
        except BadImageError as error:
            return error
        with record("resize"):
            self._resize(pixels, batch, b, slot)
        return None

    def _resize(self, pixels: np.ndarray, batch: PlannedBatch, b: int, slot: torch.Tensor) -> None:
        image = torch.from_numpy(pixels).permute(2, 0, 1)[None]  # [1, 3, H, W], channels last
        size = (self.image_size, self.image_size)
        for v, view in enumerate(batch.views):
            left, top, width, height = view.window[b].tolist()
            if view.resize is not None:
                whole = Image.fromarray(pixels)
                cut = np.array(cut_resized(whole, view.resize[b].tolist(), view.window[b].tolist()))
                crop = torch.from_numpy(cut).permute(2, 0, 1)[None]
            else:
                crop = image[:, :, top : top + height, left : left + width]
                if (height, width) != size:
                    crop = interpolate(crop, size, mode="bicubic", antialias=True)
            if view.flip[b]:
                crop = crop.flip(-1)
            slot[v, b] = crop[0].permute(1, 2, 0)

    def pixel_bytes(self, i: int) -> int:
        """Fewer of a JPEG."""
        return JPEG_BYTES if simplejpeg and is_jpeg_name(self.source.name(i)) else PILLOW_BYTES

    def close(self) -> None:
        """Drop what has not started and wait for what has."""
        self._pool.shutdown(wait=True, cancel_futures=True)
