"""The size of an image as its header says, and how it is to be turned."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from io import BytesIO
from typing import BinaryIO

from PIL import ExifTags, Image

from fastsemi.loaders.index.formats import FORMATS

Header = tuple[int, int, int]  # width, height without regard to EXIF; EXIF orientation, 1 to 8

BROKEN: Header = (0, 0, 1)

_HEAD = 65_536  # bytes that hold the header of nearly every image
_NOT_TURNED = {"BMP", "GIF", "PPM", "TIFF"}  # without EXIF; TIFFs are turned by Pillow as it reads them


def image_header(file: BinaryIO, max_pixels: int) -> Header:
    """Size and EXIF orientation; `BROKEN` for no image or one too large.

    The orientation is that of `PIL.ImageOps.exif_transpose`, which looks into EXIF and XMP.
    """
    try:
        with Image.open(file, formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                return BROKEN
            return width, height, _orientation(image, file)
    except Exception:  # Pillow's readers raise whatever the damaged bytes lead to; any of it means "broken"
        return BROKEN


def stored_size(fd: int, offset: int, length: int, max_pixels: int) -> Header:
    """`image_header` of the bytes in an open file, of which it reads as few as possible."""
    head = os.pread(fd, min(length, _HEAD), offset)
    found = BROKEN
    if length <= _HEAD or not _png_describes(lambda at, count: os.pread(fd, count, offset + at), head):
        found = image_header(BytesIO(head), max_pixels)
    if found == BROKEN and length > _HEAD:
        found = image_header(BytesIO(os.pread(fd, length, offset)), max_pixels)
    return found


def _orientation(image: Image.Image, file: BinaryIO) -> int:
    if image.format in _NOT_TURNED:
        return 1
    if image.format == "PNG" and "exif" not in image.info:

        def read(at: int, count: int) -> bytes:
            file.seek(at)
            return file.read(count)

        # Pillow would decode the whole image for what may stand behind the pixels
        position = file.tell()
        described = _png_describes(read, read(0, 8))
        file.seek(position)
        if not described:
            return 1
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # as above: what it holds is no EXIF
        return 1
    return value if value in range(1, 9) else 1


def _png_describes(read: Callable[[int, int], bytes], head: bytes) -> bool:
    """Whether a PNG has chunks in which an orientation may stand; (offset, length) are read."""
    if not head.startswith(b"\x89PNG"):
        return False
    at = 8
    while len(chunk := read(at, 40)) >= 12:
        (length,), kind = struct.unpack_from(">I", chunk), chunk[4:8]
        if kind == b"eXIf" or chunk[8:].startswith((b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")):
            return True
        at += 12 + length
    return False
