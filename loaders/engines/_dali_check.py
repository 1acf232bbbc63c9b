"""Which files may go to DALI: whole JPEGs and PNGs of the size that the plan counts on.

DALI 2.4 ends the whole process with a segmentation fault where several images of a batch have unreadable
headers or are smaller than their windows. So each file is looked at once, before DALI sees it.
"""

from __future__ import annotations

import os

_HEAD = 65_536  # bytes that hold the header of nearly every JPEG
_JPEG, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_PNG, _PNG_END = b"\x89PNG\r\n\x1a\n", b"\x00\x00\x00\x00IEND\xaeB`\x82"


def safe_file(path: str, size: tuple[int, int]) -> bool:
    """Whether DALI may read the file, an image of `size` (width, height)."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        length = os.fstat(fd).st_size
        head = os.pread(fd, _HEAD, 0)
        tail = head[-12:] if length <= _HEAD else os.pread(fd, 12, length - 12)
        if _safe(head, tail, size):
            return True
        # a thumbnail or colour profile may push a JPEG's size behind the head
        return head.startswith(_JPEG) and length > _HEAD and safe_bytes(os.pread(fd, length, 0), size)
    except OSError:
        return False
    finally:
        os.close(fd)


def safe_bytes(data: bytes, size: tuple[int, int]) -> bool:
    """Whether DALI may decode the file's bytes, an image of `size` (width, height)."""
    return _safe(data, data[-12:], size)


def _safe(head: bytes, tail: bytes, size: tuple[int, int]) -> bool:
    if head.startswith(_JPEG):
        if not tail.endswith(_JPEG_END):
            return False
        import simplejpeg  # only DALI needs it here; the other engines run without

        try:
            height, width, _, _ = simplejpeg.decode_jpeg_header(head)
        except ValueError:
            return False
        return bool((width, height) == size)
    if head.startswith(_PNG):
        # 16 bits a channel: Pillow clips, DALI scales
        header = int.from_bytes(head[16:20]), int.from_bytes(head[20:24])
        return header == size and head[24:25] <= b"\x08" and tail == _PNG_END
    width, height = size  # the stored pixels of a .beton
    start = b"P6 %d %d 255\n" % size
    return head.startswith(start) and len(head) == len(start) + 3 * width * height
