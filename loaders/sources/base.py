"""Where the bytes of images come from: what every source offers to an engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fastsemi.common.errors import BadImageError


class Source(Protocol):
    """Encoded images by id. All methods may be called from several threads at once."""

    def __len__(self) -> int:
        """Number of images; ids are 0 .. N-1."""
        ...

    def read(self, ids: Sequence[int] | NDArray) -> list[bytes | BadImageError]:
        """The encoded bytes of each image, in the order of `ids`.

        An image that cannot be read gives the error in its place instead of raising it, so that one bad file
        does not lose the batch: the caller counts it against `data.max_bad` or raises it.
        """
        ...

    def expect(self, ids: Sequence[int] | NDArray) -> object | None:
        """Say which images are read next, so that those far away are on their way by then.

        Returns:
            What to hold until they have been read; None where nothing is gained by telling.
        """
        ...

    def read_one(self, i: int) -> bytes:
        """The encoded bytes of one image.

        Raises:
            BadImageError: It cannot be read.
        """
        ...

    def name(self, i: int) -> str:
        """What to call image `i` in a message: the path of its file, or shard and key."""
        ...

    @property
    def is_raw(self) -> bool:
        """Whether all images are stored as pixels, which nothing has to decode."""
        ...

    def size(self, i: int) -> tuple[int, int]:
        """Width and height of image `i` in pixels, turned where `turns` says so; (0, 0) if broken."""
        ...

    @property
    def sizes(self) -> NDArray[np.int32]:
        """[N, 2] width and height of every image, as `size` has them."""
        ...

    @property
    def turns(self) -> NDArray[np.uint8] | None:
        """[N] EXIF orientation by which engines turn each image; None where they turn none."""
        ...

    def as_stored(self) -> Source:
        """The same images, none of which is turned."""
        ...


def read_each(read_one: Callable[[int], bytes], ids: Sequence[int] | NDArray) -> list[bytes | BadImageError]:
    """`Source.read` by way of `read_one`, with errors in the places of the images that have them."""
    result: list[bytes | BadImageError] = []
    for i in ids:
        try:
            result.append(read_one(int(i)))
        except BadImageError as error:
            result.append(error)
    return result
