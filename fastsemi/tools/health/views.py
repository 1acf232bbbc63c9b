"""Every image once as a small square, through the loader that training uses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fastsemi.common.errors import BadImageError
from fastsemi.loaders.bad_images import BadImages
from fastsemi.loaders.batches import Batches
from fastsemi.loaders.image_set import ImageSet
from fastsemi.loaders.plan.types import PlannedBatch, ViewPlan
from fastsemi.loaders.settings import DataConfig, LoaderConfig

SIDE, CELLS = 32, 8  # of the grey view, and of the coarse one in colour, in pixels
_BATCH = 256
_GREY = np.array([0.299, 0.587, 0.114], np.float32)  # luma of ITU-R BT.601


@dataclass(frozen=True)
class SmallViews:
    """N whole images, squeezed into squares; a kilobyte and a fifth each."""

    grey: NDArray[np.uint8]  # [N, SIDE, SIDE]
    colour: NDArray[np.uint8]  # [N, CELLS, CELLS, 3]
    readable: NDArray[np.bool_]  # [N] False where the file is broken, and the view is black
    broken: dict[str, str]
    """Why each broken file cannot be decoded, by its name."""


class _Collected(BadImages):
    """Keeps every broken file, and refuses none."""

    def __init__(self) -> None:
        super().__init__()
        self.reasons: dict[str, str] = {}

    def record(self, error: BadImageError) -> None:
        """Keep why a file is broken."""
        self.reasons[error.path] = error.reason


def small_views(
    sets: Sequence[ImageSet],
    data: DataConfig,
    loader: LoaderConfig,
    progress: Callable[[int], None] = lambda count: None,
) -> SmallViews:
    """Decode every image of some sets, one set after the other.

    Args:
        sets: Of N images together.
        data: Limits of the images.
        loader: How they are read.
        progress: Called with the number of images that have just been looked at.

    Raises:
        UserError: An image that is too large for `loader.max_memory`, or a read that does not return.
    """
    total, done, bad = sum(len(images.ids) for images in sets), 0, _Collected()
    grey = np.zeros((total, SIDE, SIDE), np.uint8)
    colour = np.zeros((total, CELLS, CELLS, 3), np.uint8)
    readable = np.zeros(total, bool)
    batches = Batches(replace(data, image_size=SIDE), loader, bad=bad)
    try:
        for images in sets:
            batches.require_memory(images)
            with batches.load(images, _whole(images), allow_empty=True) as loaded:
                for batch in loaded:
                    rows = slice(done, done + len(batch.valid))
                    pixels = batch.images[0].numpy().astype(np.float32)  # [B, SIDE, SIDE, 3]
                    cells = pixels.reshape(len(pixels), CELLS, SIDE // CELLS, CELLS, SIDE // CELLS, 3)
                    valid = batch.valid
                    grey[rows][valid] = np.rint(pixels @ _GREY)[valid]
                    colour[rows][valid] = np.rint(cells.mean((2, 4)))[valid]
                    readable[rows] = valid
                    done += len(valid)
                    progress(len(valid))
    finally:
        batches.close()
    return SmallViews(grey, colour, readable, bad.reasons)


def _whole(images: ImageSet) -> Iterator[PlannedBatch]:
    """Windows of whole images."""
    for start in range(0, len(images.ids), _BATCH):
        ids = images.ids[start : start + _BATCH]
        sizes = np.maximum(images.index.sizes[ids], 1)
        window = np.concatenate([np.zeros_like(sizes), sizes], axis=1).astype(np.int32)
        view = ViewPlan(window=window, flip=np.zeros(len(ids), dtype=bool))
        yield PlannedBatch(ids, np.asarray(images.index.labels[ids], dtype=np.int64), (view,))
