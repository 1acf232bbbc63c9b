"""What every engine is: planned batches in, uint8 views out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from fastsemi.common.errors import BadImageError
from fastsemi.loaders.engines.settings import EngineName
from fastsemi.loaders.plan.types import PlannedBatch
from fastsemi.loaders.sources.base import Source

# Of memory a pixel while an image is decoded, measured on 13,000 x 13,000 pixels: PNGs by Pillow 10 to 14,
# JPEGs by Pillow 8.2, by thread_pool 3.3, by native 3.3 (progressive) or 0.5 (baseline, at a quarter of the
# size).
PILLOW_BYTES, JPEG_BYTES = 14, 4

_READERS = 4  # at least: they wait for a disk and need no core


class Pending(Protocol):
    """Views on their way."""

    def result(self, timeout: float) -> list[BadImageError | None]:
        """Wait until the views are in the slot.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            For each sample None, or why its pixels are missing.

        Raises:
            TimeoutError: The views did not come in time.
        """


@dataclass(frozen=True)
class Reading:
    """How an engine reads."""

    at_once: int
    """Images that are read at the same time."""
    apart: bool = False
    """Whether other threads read than decode, so that both go on at the same time."""


class Engine(ABC):
    """Cuts the planned windows out of a source's images.

    Every engine returns the same pixels for the same plan: the window, resized to the view's side with an
    antialiased bicubic filter (as Pillow's `resize` on the cropped image), flipped where planned.

    Args:
        source: Where the bytes come from.
        image_size: Side of a view in pixels, S.
        threads: Decoding threads.
        max_pixels: Larger images are refused, as a guard against decompression bombs.
    """

    name: EngineName
    stuck: bool = False
    """Whether a batch did not come in time: a thread may never return, so closing may never end."""
    resizes: bool = False
    """Whether it resizes whole images where a view's plan says so."""
    device: int | None = None
    """CUDA device on which the engine's views come into being; None where they do on the CPU."""

    def __init__(self, source: Source, image_size: int, threads: int, max_pixels: int):
        self.source, self.image_size = source, image_size
        self.threads, self.max_pixels = threads, max_pixels

    @classmethod
    def takes(cls, source: Source) -> bool:
        """Whether it can read a source."""
        return True

    @abstractmethod
    def submit(self, batch: PlannedBatch, slot: torch.Tensor) -> Pending:
        """Start filling `slot`, [V, B, S, S, 3] uint8; several batches may be on their way."""

    def reading(self, prefetch: int) -> Reading:
        """How it reads with `prefetch` batches under way: as a rule each decoding thread for itself."""
        return Reading(self.threads)

    @property
    def readers(self) -> int:
        """Threads that an engine has for reading where those that decode do not read; a batch is one's."""
        return max(_READERS, self.threads)

    def pixel_bytes(self, i: int) -> int:
        """Bytes of memory that a pixel of image `i` takes at most while it is decoded."""
        return PILLOW_BYTES

    def require_memory(self, ids: NDArray[np.int64], sizes: NDArray[np.int64]) -> None:
        """Refuse images that are too large for the memory allowed; without a bound, none is."""

    def stage_seconds(self) -> dict[str, float]:
        """Seconds its threads have spent so far, by stage (`read`, `decode`, `resize`), summed over threads.

        Empty where the engine's threads report themselves (`fastsemi.common.spans`) or cannot tell.
        """
        return {}

    @abstractmethod
    def close(self) -> None:
        """Stop all threads. Batches still on their way are dropped."""
