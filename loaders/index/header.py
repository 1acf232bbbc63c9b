"""The size of an image as its header says."""

from __future__ import annotations

import os
from io import BytesIO
from typing import BinaryIO

from PIL import Image

from fastsemi.loaders.index.formats import FORMATS

_HEAD = 65_536  # bytes that hold the header of nearly every image


def image_size(file: BinaryIO, max_pixels: int) -> tuple[int, int]:
    """Width and height, without regard to EXIF orientation; (0, 0) for no image or one too large."""
    try:
        with Image.open(file, formats=FORMATS) as image:
            width, height = image.size
    except Exception:  # Pillow's readers raise whatever the damaged bytes lead to; any of it means "broken"
        return (0, 0)
    return (width, height) if width * height <= max_pixels else (0, 0)


def stored_size(fd: int, offset: int, length: int, max_pixels: int) -> tuple[int, int]:
    """`image_size` of the bytes in an open file, of which it reads as few as possible."""
    size = image_size(BytesIO(os.pread(fd, min(length, _HEAD), offset)), max_pixels)
    if size == (0, 0) and length > _HEAD:
        size = image_size(BytesIO(os.pread(fd, length, offset)), max_pixels)
    return size
