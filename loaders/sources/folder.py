"""Images as files in folders."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fastsemi.common.errors import BadImageError
from fastsemi.loaders.index.index import Index
from fastsemi.loaders.index.regular import open_regular
from fastsemi.loaders.sources.base import read_each


class FolderSource:
    """Whole-file reads of the images of an index; implements `fastsemi.loaders.sources.base.Source`.

    It holds no open file and no state, so any number of threads may read at once; reading one call's ids is
    left to the calling thread, because engines bring their own pool.

    Args:
        index: The images.
    """

    def __init__(self, index: Index):
        self.index = index

    def __len__(self) -> int:
        return len(self.index)

    def read(self, ids: Sequence[int] | NDArray) -> list[bytes | BadImageError]:
        """The bytes of each file, or in its place the error that says why it cannot be read."""
        return read_each(self.read_one, ids)

    def expect(self, ids: Sequence[int] | NDArray) -> None:
        """Files are near."""

    def read_one(self, i: int) -> bytes:
        """The bytes of one file.

        Raises:
            BadImageError: The file is missing, empty or unreadable.
        """
        path = self.index.path(i)
        try:
            with open_regular(path) as file:
                data = file.read()
        except OSError as error:
            raise BadImageError(path, error.strerror or str(error)) from error
        if not data:
            raise BadImageError(path, "the file is empty")
        return data

    @property
    def is_raw(self) -> bool:
        """Files hold encoded images."""
        return False

    def path(self, i: int) -> str:
        """Absolute path of image `i`."""
        return self.index.path(i)

    def name(self, i: int) -> str:
        """The path, for messages."""
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

    def as_stored(self) -> FolderSource:
        """The same images, none of which is turned."""
        return FolderSource(self.index.turn(False))

    def as_turned(self) -> FolderSource:
        """The same images, turned by their EXIF orientation."""
        return FolderSource(self.index.turn(True))
