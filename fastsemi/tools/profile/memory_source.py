"""A source whose bytes are in memory, so that loading them is decoding alone."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fastsemi.common.errors import BadImageError
from fastsemi.loaders.sources.base import Source


class MemorySource:
    """Encoded images in memory; implements `fastsemi.loaders.sources.base.Source`.

    Args:
        source: Where they come from; names and sizes are still its own.
        ids: Which ones are held.
    """

    def __init__(self, source: Source, ids: NDArray[np.int64]):
        self._source = source
        self._held = dict(zip(ids.tolist(), source.read(ids), strict=True))

    def __len__(self) -> int:
        return len(self._source)

    def read(self, ids: Sequence[int] | NDArray) -> list[bytes | BadImageError]:
        """The bytes of each image, or why there are none."""
        return [self._held[int(i)] for i in ids]

    def expect(self, ids: Sequence[int] | NDArray) -> None:
        """They are here."""

    def read_one(self, i: int) -> bytes:
        """The bytes of one image.

        Raises:
            BadImageError: The source could not read it.
        """
        held = self._held[i]
        if isinstance(held, BadImageError):
            raise held
        return held

    def name(self, i: int) -> str:
        """As the source calls it."""
        return self._source.name(i)

    def size(self, i: int) -> tuple[int, int]:
        """Width and height in pixels."""
        return self._source.size(i)

    @property
    def sizes(self) -> NDArray[np.int32]:
        """[N, 2] width and height of every image, as `size` has them."""
        return self._source.sizes

    @property
    def turns(self) -> NDArray[np.uint8] | None:
        """As the source turns them."""
        return self._source.turns

    def as_stored(self) -> MemorySource:
        """The same images, none of which is turned."""
        stored = copy.copy(self)
        stored._source = self._source.as_stored()
        return stored

    @property
    def is_raw(self) -> bool:
        """What `read` gives is a file, also of images that are stored as pixels."""
        return False
