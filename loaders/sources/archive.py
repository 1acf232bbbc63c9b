"""Images in files that hold many of them, read at random by `pread`, or in objects of a store."""

from __future__ import annotations

import copy
import os
import threading
import weakref
from collections.abc import Iterable, Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from fastsemi.common.errors import BadImageError
from fastsemi.loaders.index.archive_index import ArchiveIndex
from fastsemi.loaders.index.regular import regular_fd
from fastsemi.loaders.sources.base import read_each
from fastsemi.loaders.sources.remote import Objects, Range, Remote

_OPEN_FILES = 128  # a set of more files opens the rest anew for each read


class _Files:
    """Open files by number, shared by all threads: `pread` has no position to fight over."""

    def __init__(self, paths: Sequence[str]):
        self._paths, self._lock = paths, threading.Lock()
        self._open: dict[int, int] = {}
        weakref.finalize(self, _close, self._open)

    def expect(self, ranges: Iterable[Range]) -> None:
        """Files are near."""

    def read(self, number: int, offset: int, length: int) -> bytes:
        fd = self._open.get(number)
        if fd is not None:
            return _pread(fd, offset, length)
        with self._lock:
            if number not in self._open and len(self._open) < _OPEN_FILES:
                self._open[number] = regular_fd(self._paths[number])
            fd = self._open.get(number)
        if fd is not None:
            return _pread(fd, offset, length)
        fd = regular_fd(self._paths[number])
        try:
            return _pread(fd, offset, length)
        finally:
            os.close(fd)

    def close(self) -> None:
        with self._lock:
            _close(self._open)


def _close(files: dict[int, int]) -> None:
    while files:
        os.close(files.popitem()[1])


def _pread(fd: int, offset: int, length: int) -> bytes:
    data = os.pread(fd, length, offset)
    while len(data) < length:  # a read may be cut short at 2 GiB or by a signal
        more = os.pread(fd, length - len(data), offset + len(data))
        if not more:
            raise OSError(0, f"the file ends {length - len(data)} bytes early")
        data += more
    return data


class ArchiveSource:
    """Reads the images of an archive index; implements `fastsemi.loaders.sources.base.Source`.

    Files are opened when first read and closed by `close` or with the object. A source that was closed opens
    them again when it is read. Of objects of a store nothing is open.

    Args:
        index: The images.
    """

    def __init__(self, index: ArchiveIndex):
        self.index = index
        self._files: _Files | Objects = _Files(index.files)

    def read_by(self, remote: Remote) -> Self:
        """The same images, which lie in a store; they are fetched ahead and kept as told."""
        far = copy.copy(self)
        far._files = Objects(self.index.files, self.index.tags, remote)
        return far

    def expect(self, ids: Sequence[int] | NDArray) -> object | None:
        """Begin to fetch images of a store, in their order; None for files."""
        index, rows = self.index, np.asarray(ids)
        ranges = zip(*(part[rows].tolist() for part in (index.file, index.offset, index.length)), strict=True)
        return self._files.expect(each for each in ranges if each[2])

    def __len__(self) -> int:
        return len(self.index)

    def read(self, ids: Sequence[int] | NDArray) -> list[bytes | BadImageError]:
        """The bytes of each image, or in its place the error that says why it cannot be read."""
        coming = self.expect(ids)
        contents = read_each(self.read_one, ids)
        del coming
        return contents

    def read_one(self, i: int) -> bytes:
        """The encoded bytes of one image.

        Raises:
            BadImageError: They are missing or unreadable.
        """
        return self._stored(i)

    def _stored(self, i: int) -> bytes:
        index = self.index
        length = int(index.length[i])
        if length == 0:
            raise BadImageError(self.name(i), "it is empty")
        try:
            return self._files.read(int(index.file[i]), int(index.offset[i]), length)
        except OSError as error:
            raise BadImageError(self.name(i), error.strerror or str(error)) from error

    @property
    def is_raw(self) -> bool:
        """Images are stored encoded, if the format has no other way."""
        return False

    def name(self, i: int) -> str:
        """File and name inside of it, for messages."""
        return self.index.path(i)

    def size(self, i: int) -> tuple[int, int]:
        """Width and height in pixels as the header says; (0, 0) if broken."""
        width, height = self.index.sizes[i]
        return int(width), int(height)

    @property
    def sizes(self) -> NDArray[np.int32]:
        """[N, 2] width and height of every image, as `size` has them."""
        return self.index.sizes

    @property
    def turns(self) -> NDArray[np.uint8] | None:
        """[N] EXIF orientation by which engines turn each image; None where they turn none."""
        return self.index.orientation if self.index.turned else None

    def as_stored(self) -> Self:
        """The same images, none of which is turned."""
        return self._with(self.index.turn(False))

    def as_turned(self) -> Self:
        """The same images, turned by their EXIF orientation."""
        return self._with(self.index.turn(True))

    def _with(self, index: ArchiveIndex) -> Self:
        other = copy.copy(self)  # which reads the same open files, or what is on its way
        other.index = index
        return other

    def close(self) -> None:
        """Close all files. Nothing may be reading."""
        self._files.close()
