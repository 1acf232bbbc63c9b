"""A toy engine: Pillow resizes straight from the window, in the calling thread."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from fastsemi.common.errors import BadImageError
from fastsemi.loaders.engines.base import Engine, Pending
from fastsemi.loaders.engines.reference import Done, check_size, decode_rgb
from fastsemi.loaders.plan.types import PlannedBatch


class ToyEngine(Engine):
    """One decode, a `resize` for each view."""

    name = "toy"

    def submit(self, batch: PlannedBatch, slot: torch.Tensor) -> Pending:
        """Fill the slot before returning."""
        return Done([self._sample(batch, b, slot.numpy()) for b in range(len(batch.ids))])

    def _sample(self, batch: PlannedBatch, b: int, out: np.ndarray) -> BadImageError | None:
        image_id = int(batch.ids[b])
        name = self.source.name(image_id)
        try:
            image = decode_rgb(self.source.read_one(image_id), name, self.max_pixels)
            check_size(image.size, self.source.size(image_id), name)
        except BadImageError as error:
            return error
        for v, view in enumerate(batch.views):
            left, top, width, height = (int(x) for x in view.window[b])
            box, size = (left, top, left + width, top + height), (self.image_size, self.image_size)
            cut = np.asarray(image.crop(box).resize(size, Image.Resampling.BICUBIC))
            out[v, b] = cut[:, ::-1] if view.flip[b] else cut
        return None

    def close(self) -> None:
        """Nothing to stop."""
