"""The engine that the others are compared with: Pillow, one image at a time, in the calling thread."""

from __future__ import annotations

import io
import re

import numpy as np
import torch
from PIL import Image

from fastsemi.common.errors import BadImageError
from fastsemi.loaders.engines.base import Engine, Pending, Reading
from fastsemi.loaders.engines.damage import damage
from fastsemi.loaders.engines.rgb import TURNS, to_rgb
from fastsemi.loaders.index.formats import FORMATS
from fastsemi.loaders.plan.types import PlannedBatch


def decode_rgb(data: bytes, name: str, max_pixels: int) -> Image.Image:
    """Decode an image of the formats of `loaders/index/formats.py` to RGB, as `to_rgb` does.

    Raises:
        BadImageError: The bytes are no complete and sound image, or a larger one than `max_pixels`.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise BadImageError(
                    name, f"{image.width} x {image.height} pixels exceed data.max_pixels of {max_pixels}"
                )
            rgb = to_rgb(image)
        if reason := damage(data):
            raise BadImageError(name, reason)
        return rgb
    except BadImageError:
        raise
    except Exception as error:  # Pillow's plugins raise many kinds on hostile files
        reason = re.sub(r" <_io\.BytesIO object at \w+>", "", str(error)) or type(error).__name__
        raise BadImageError(name, reason) from None


def check_size(size: tuple[int, int], expected: tuple[int, int], name: str) -> None:
    """Refuse an image whose size is not the one the windows were planned for.

    Raises:
        BadImageError: The sizes differ.
    """
    if size != expected:
        raise BadImageError(
            name,
            f"it is {size[0]} x {size[1]} pixels but was {expected[0]} x {expected[1]} when indexed "
            "(run once with --data.reindex true)",
        )


def cut_resized(image: Image.Image, resized: list[int], window: list[int]) -> Image.Image:
    """A window of a resized image, of which nothing else is made: one side of the whole may be huge.

    Args:
        image: Before it is resized.
        resized: Width and height to which.
        window: Left, top, width, height in the resized image.
    """
    left, top, width, height = window
    x, y = image.width / resized[0], image.height / resized[1]  # pixels of the source for one
    right, bottom = min(x * (left + width), image.width), min(y * (top + height), image.height)
    box = (x * left, y * top, right, bottom)
    return image.resize((width, height), Image.Resampling.BICUBIC, box=box)


class Done:
    """A batch that needs no waiting."""

    def __init__(self, errors: list[BadImageError | None]):
        self._errors = errors

    def result(self, timeout: float) -> list[BadImageError | None]:
        """The errors."""
        return self._errors


class ReferenceEngine(Engine):
    """Written to be read: open, convert, crop, resize, flip."""

    name = "reference"
    resizes = True

    def submit(self, batch: PlannedBatch, slot: torch.Tensor) -> Pending:
        """Fill the slot before returning."""
        return Done([self._sample(batch, b, slot.numpy()) for b in range(len(batch.ids))])

    def _sample(self, batch: PlannedBatch, b: int, out: np.ndarray) -> BadImageError | None:
        image_id = int(batch.ids[b])
        try:
            name = self.source.name(image_id)
            image = decode_rgb(self.source.read_one(image_id), name, self.max_pixels)
            if self.source.turns is not None and (turned := int(self.source.turns[image_id])) > 1:
                image = image.transpose(TURNS[turned])
            check_size(image.size, self.source.size(image_id), name)
        except BadImageError as error:
            return error
        for v, view in enumerate(batch.views):
            left, top, width, height = (int(x) for x in view.window[b])
            if view.resize is not None:
                crop = cut_resized(image, view.resize[b].tolist(), view.window[b].tolist())
            else:
                crop = image.crop((left, top, left + width, top + height))
                crop = crop.resize((self.image_size, self.image_size), Image.Resampling.BICUBIC)
            if view.flip[b]:
                crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            out[v, b] = np.asarray(crop)
        return None

    def reading(self, prefetch: int) -> Reading:
        """One image after the other."""
        return Reading(1)

    def close(self) -> None:
        """Nothing to stop."""
