"""Images of an index that serve one role."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastsemi.loaders.index.index import Index
from fastsemi.loaders.sources.base import Source


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of an index that serve one role, and the source of their bytes."""

    index: Index
    source: Source
    ids: NDArray[np.int64]


def digest(sets: Sequence[ImageSet], *, labels: bool) -> str:
    """A fingerprint of the names of images, and of their labels where `labels`: 16 hexadecimal digits."""
    sha = hashlib.sha256()
    for images in sets:
        for part in (images.index.path_blob, images.index.path_offsets, images.ids):
            sha.update(np.ascontiguousarray(part).data)
        if labels:
            sha.update(np.ascontiguousarray(images.index.labels).data)
    return sha.hexdigest()[:16]
