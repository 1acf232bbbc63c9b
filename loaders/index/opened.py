"""Opens a file of the disk or an object of a store, to be read at any place by the same code."""

from __future__ import annotations

import io
import os
from typing import BinaryIO, cast

from fastsemi.common.object_store import MissingError, RefusedError, fetch, head
from fastsemi.common.urls import is_url

_WINDOW = 2**25  # bytes that are fetched at once, in pieces at the same time


def open_bytes(path: str) -> BinaryIO:
    """A file or an object, opened for reading.

    Raises:
        OSError: The file cannot be opened.
        UserError: The object cannot be.
    """
    return cast(BinaryIO, RemoteFile(path)) if is_url(path) else open(path, "rb")


def exists(path: str) -> bool:
    """Whether there is such a file, or such an object that may be read.

    Raises:
        UserError: The store of the object cannot be reached.
    """
    if not is_url(path):
        return os.path.isfile(path)
    try:
        head(path)
    except (MissingError, RefusedError):  # which S3 answers where nobody may list
        return False
    return True


def read_at(file: BinaryIO, at: int, count: int) -> bytes:
    """Some bytes of what `open_bytes` opened; fewer where it ends."""
    if isinstance(file, RemoteFile):
        return file.read_at(at, count)
    return os.pread(file.fileno(), count, at)


class RemoteFile(io.RawIOBase):
    """An object as a file: the window that was read last is kept, so reading on or again asks for nothing.

    Args:
        url: The object.

    Raises:
        UserError: It is not there, or cannot be reached; or, when it is read, what `fetch` raises.
    """

    def __init__(self, url: str):
        self._entry, self._position = head(url), 0
        self._start, self._window = 0, b""
        self._large = (0, b"")  # a range that was larger: of Parquet, read by pyarrow and then for its places

    def read_at(self, at: int, count: int) -> bytes:
        """Some bytes; fewer where the object ends."""
        count = max(0, min(count, self._entry.size - at))
        for start, held in ((self._start, self._window), self._large):
            if start <= at and at + count <= start + len(held):
                return held[at - start : at - start + count]
        if count > _WINDOW:
            self._large = at, self._fetch(at, count)
            return self._large[1]
        self._start, self._window = at, self._fetch(at, min(_WINDOW, self._entry.size - at))
        return self._window[:count]

    def _fetch(self, at: int, count: int) -> bytes:
        return fetch(self._entry.url, at, count, self._entry.tag)

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """As of `io.RawIOBase`."""
        data = self.read_at(self._position, len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As of `io.RawIOBase`."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._entry.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        """As of `io.RawIOBase`."""
        return self._position

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True
