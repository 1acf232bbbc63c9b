"""Pictures of single images with their captions, as a network sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastsemi.loaders.data import Data
from fastsemi.loaders.image_set import ImageSet
from fastsemi.loaders.stream import evaluation_batches


@dataclass(frozen=True)
class Picture:
    """An image through the evaluation crop."""

    pixels: NDArray[np.uint8]  # [S, S, 3]
    name: str
    """Its path, or file and name."""
    title: str
    text: str


def load_pictures(
    data: Data, images: ImageSet, ids: Sequence[int] | NDArray[np.int64], captions: Sequence[tuple[str, str]]
) -> list[Picture]:
    """Pictures of some images of a set; those that cannot be read are left out.

    Args:
        data: Loads them.
        images: Where they are.
        ids: [n] which.
        captions: n titles and texts.
    """
    ids = np.asarray(ids, np.int64)
    if not len(ids):
        return []
    plans = evaluation_batches(images.index, ids, len(ids), data.config.eval_crop, data.config.resized_to)
    with data.load(images, plans, allow_empty=True) as loader:
        loaded = next(loader)
    pixels = loaded.images[0].cpu().numpy()
    return [
        Picture(pixels[n], images.source.name(int(ids[n])), *captions[n])
        for n in np.flatnonzero(loaded.valid).tolist()
    ]
