"""Which files may go to DALI: whole JPEGs and PNGs of the size that the plan counts on.

DALI 2.4 ends the whole process with a segmentation fault where several images of a batch have unreadable
headers or are smaller than their windows, and makes up pixels where the data of a JPEG is damaged. So each
file is looked at once, before DALI sees it.
"""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from fastsemi.common.errors import BadImageError
from fastsemi.loaders.engines.damage import JPEG_MAGIC, damage
from fastsemi.loaders.plan.types import PlannedBatch
from fastsemi.loaders.sources.base import Source
from fastsemi.loaders.sources.folder import FolderSource

SMALL = 16  # pixels: at smaller windows the pixels around them, which DALI's filter reads too, count too much

_UNSEEN, _DALI, _PILLOW = range(3)
_HEAD = 65_536  # bytes that hold the header of a PNG
_JPEG_END = b"\xff\xd9"
_PNG, _PNG_END = b"\x89PNG\r\n\x1a\n", b"\x00\x00\x00\x00IEND\xaeB`\x82"


class Router:
    """Decides who decodes each image, DALI or Pillow. Several threads may ask at once.

    Args:
        source: The images; DALI reads the files of a folder itself.
        max_pixels: Larger images go to Pillow, which says why it refuses them.
    """

    def __init__(self, source: Source, max_pixels: int):
        self._source, self._max_pixels = source, max_pixels
        self._route = np.zeros(len(source), np.uint8)

    def images(self, batch: PlannedBatch) -> list[bytes | None]:
        """For each sample what DALI gets, the name of its file or its bytes; None where Pillow decodes it."""
        small = batch.windows[:, :, 2:].min(axis=(0, 2)) < SMALL
        return [None if small[b] else self._image(int(i)) for b, i in enumerate(batch.ids)]

    def _image(self, i: int) -> bytes | None:
        size = self._source.size(i)
        if self._route[i] == _PILLOW or not 0 < size[0] * size[1] <= self._max_pixels:
            return None
        if isinstance(self._source, FolderSource):
            path = self._source.path(i)
            if self._route[i] == _UNSEEN:
                self._route[i] = _DALI if safe_file(path, size) else _PILLOW
            given = os.fsencode(path)
        else:
            try:
                given = self._source.read_one(i)
            except BadImageError:
                return None  # Pillow's turn gives the error
            unseen = self._route[i] == _UNSEEN
            safe = safe_bytes(given, size) and not (unseen and damage(given))
            self._route[i] = _DALI if safe else _PILLOW
        return given if self._route[i] == _DALI else None

    def refuse(self, ids: NDArray[np.int64]) -> None:
        """Send images to Pillow from now on."""
        self._route[ids] = _PILLOW


def safe_file(path: str, size: tuple[int, int]) -> bool:
    """Whether DALI may read the file, an image of `size` (width, height)."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        length = os.fstat(fd).st_size
        head = os.pread(fd, _HEAD, 0)
        if head.startswith(JPEG_MAGIC):
            data = head if length <= _HEAD else os.pread(fd, length, 0)
            return safe_bytes(data, size) and damage(data) is None
        return _safe(head, head[-12:] if length <= _HEAD else os.pread(fd, 12, length - 12), size)
    except OSError:
        return False
    finally:
        os.close(fd)


def safe_bytes(data: bytes, size: tuple[int, int]) -> bool:
    """Whether DALI may decode the file's bytes, an image of `size` (width, height)."""
    return _safe(data, data[-12:], size)


def _safe(head: bytes, tail: bytes, size: tuple[int, int]) -> bool:
    if head.startswith(JPEG_MAGIC):
        if not tail.endswith(_JPEG_END):
            return False
        import simplejpeg  # only DALI needs it here; the other engines run without

        try:
            height, width, kind, _ = simplejpeg.decode_jpeg_header(head)
        except ValueError:
            return False
        # four colours without Adobe's marker are read as their negative
        return bool((width, height) == size) and kind not in ("CMYK", "YCCK")
    if head.startswith(_PNG):
        header = int.from_bytes(head[16:20]), int.from_bytes(head[20:24])
        return header == size and _is_plain_png(head) and tail == _PNG_END
    width, height = size  # the stored pixels of a .beton
    start = b"P6 %d %d 255\n" % size
    return head.startswith(start) and len(head) == len(start) + 3 * width * height


def _is_plain_png(head: bytes) -> bool:
    """Grey or RGB of at most 8 bits without palette, alpha or animation: the others are Pillow's."""
    before, pixels, _ = head.partition(b"IDAT")
    return (
        head[24:25] <= b"\x08"
        and head[25:26] in (b"\x00", b"\x02")
        and bool(pixels)
        and not any(chunk in before for chunk in (b"tRNS", b"acTL"))
    )
