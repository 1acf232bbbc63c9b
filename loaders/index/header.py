"""The size of an image as its header says, and how it is to be turned."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import BinaryIO

from PIL import ExifTags, Image

from fastsemi.loaders.index.formats import FORMATS

Read = Callable[[int, int], bytes]  # where from, how many bytes
Header = tuple[int, int, int]  # width, height without regard to EXIF; EXIF orientation, 1 to 8

BROKEN: Header = (0, 0, 1)

_HEAD = 65_536  # bytes that hold the header of nearly every image
_DESCRIPTION = 2**24  # bytes of EXIF and XMP that are looked into
_NO_PIXELS = b"\0\0\0\0IDAT" + zlib.crc32(b"IDAT").to_bytes(4)
_NOT_TURNED = {"BMP", "GIF", "PPM", "TIFF"}  # without EXIF; TIFFs are turned by Pillow as it reads them


def image_header(file: BinaryIO, max_pixels: int) -> Header:
    """Size and EXIF orientation; `BROKEN` for no image or one too large. No pixel is decoded.

    The orientation is that of `PIL.ImageOps.exif_transpose`, which looks into EXIF and XMP.
    """

    def read(at: int, count: int) -> bytes:
        file.seek(at)
        return file.read(count)

    return _header(file, read, max_pixels)


def stored_size(file: int | Read, offset: int, length: int, max_pixels: int) -> Header:
    """`image_header` of the bytes in an open file, of which it reads as few as possible.

    Args:
        file: Its descriptor, or what reads from it.
        offset: Where the image begins.
        length: Its bytes.
        max_pixels: As of `image_header`.
    """
    whole: Read = file if callable(file) else lambda at, count: os.pread(file, count, at)

    def read(at: int, count: int) -> bytes:
        return whole(offset + at, max(0, min(count, length - at)))

    found = _header(BytesIO(read(0, _HEAD)), read, max_pixels)
    if found == BROKEN and length > _HEAD:
        found = _header(BytesIO(read(0, length)), read, max_pixels)
    return found


def _header(file: BinaryIO, read: Read, max_pixels: int) -> Header:
    """The header of an image that `file` begins with and `read` reads any part of."""
    try:
        with Image.open(file, formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                return BROKEN
            return width, height, _orientation(image, read)
    except Exception:  # Pillow's readers raise whatever the damaged bytes lead to; any of it means "broken"
        return BROKEN


def _orientation(image: Image.Image, read: Read) -> int:
    if image.format in _NOT_TURNED:
        return 1
    try:
        if image.format == "PNG" and "exif" not in image.info:
            # Pillow would decode the whole image for what may stand behind the pixels
            with Image.open(BytesIO(_png_description(read)), formats=("PNG",)) as described:
                exif = Image.Image.getexif(described)
        else:
            exif = image.getexif()
        value = exif.get(ExifTags.Base.Orientation, 1)
    except Exception:  # as above: what it holds is no EXIF
        return 1
    return value if value in range(1, 9) else 1


def _png_description(read: Read) -> bytes:
    """A PNG without pixels: of another one the header and the chunks in which an orientation may stand."""
    found, at, left = [read(0, 8)], 8, _DESCRIPTION
    while len(chunk := read(at, 40)) >= 12 and chunk[4:8] != b"IEND":
        (length,), kind = struct.unpack_from(">I", chunk), chunk[4:8]
        size = 12 + length
        described = chunk[8:].startswith((b"Raw profile type exif\0", b"XML:com.adobe.xmp\0"))
        if (kind in (b"IHDR", b"eXIf") or described) and size <= left:
            found.append(read(at, size))
            left -= size
        at += size
    return b"".join([*found, _NO_PIXELS])
