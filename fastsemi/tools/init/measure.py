"""The mean colour of images and its deviation, through the loader that training uses."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from fastsemi.common.errors import UserError
from fastsemi.loaders.data import Data
from fastsemi.loaders.settings import DataConfig, LoaderConfig
from fastsemi.loaders.stream import evaluation_batches

MOST = 2_000  # images that are looked at
BATCH = 64
LEAST = 1 / 255  # a deviation of one grey level, for images that are all alike


STRONG = 0.1  # by which a coloured pixel's channels differ: grey ones saved as coloured JPEGs differ by less
COLOURED = 0.01  # share of such pixels from which on pictures are coloured: a spot on white is enough


class Colours(NamedTuple):
    """What the pixels of images are like, of values in [0, 1], to three decimals."""

    mean: tuple[float, ...]
    """Of red, green and blue."""
    std: tuple[float, ...]
    """Standard deviation of each."""
    colourful: float
    """Share of the pixels whose largest value is more than `STRONG` above the smallest."""

    @property
    def coloured(self) -> bool:
        """Whether they are more than shades of grey."""
        return self.colourful > COLOURED


def measure_colours(config: DataConfig) -> Colours:
    """Look at the pixels of images.

    Args:
        config: The images: those of pretraining, of which at most `MOST` are looked at, evenly spread, at
            `image_size`. As many as `max_bad` of them may break off.

    Raises:
        UserError: None of them can be read, or more are broken.
    """
    data = Data(config, LoaderConfig())
    sums, colourful, count = torch.zeros(2, 3, dtype=torch.float64), 0, 0
    try:
        images = data.pretraining
        ids = np.setdiff1d(images.ids, images.index.broken)
        some = ids[np.linspace(0, len(ids) - 1, min(len(ids), MOST)).astype(np.int64)]
        plans = evaluation_batches(images.index, some, BATCH, config.eval_crop, config.resized_to)
        with data.load(images, plans, allow_empty=True) as loader:
            for batch in loader:
                pixels = batch.images[0][torch.from_numpy(batch.valid)].double().flatten(0, 2) / 255  # [N, 3]
                sums += torch.stack([pixels.sum(0), pixels.square().sum(0)])
                colourful += int((pixels.amax(1) - pixels.amin(1) > STRONG).sum())
                count += len(pixels)
    finally:
        data.close()
    if not count:
        raise UserError(
            f"none of {len(some):,} images of {images.index.root} can be decoded; check the files"
        )
    mean, square = sums / count
    std = (square - mean.square()).clamp(min=LEAST**2).sqrt()
    mean, std = ([round(value, 3) for value in values.tolist()] for values in (mean, std))
    return Colours(tuple(mean), tuple(std), round(colourful / count, 3))
