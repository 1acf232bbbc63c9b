"""Which images of one index are images of another, by the place of their files."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fastsemi.loaders.index.index import Index


def ids_also_in(index: Index, other: Index, ids: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """Ids of the images of `index` that `other` has too, sorted.

    Args:
        index: Image files.
        other: Image files.
        ids: Which of `other`; None for all.
    """
    files = list(_files(other))
    there = set(files) if ids is None else {files[i] for i in ids.tolist()}
    return np.array([i for i, file in enumerate(_files(index)) if file in there], np.int64)


def _files(index: Index) -> Iterator[bytes]:
    """Absolute paths of all images."""
    root = os.fsencode(os.path.realpath(index.root))
    return (os.path.join(root, path) for path in index.iter_relative())
