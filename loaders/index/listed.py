"""An index of files that are named one by one, made anew each time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fastsemi.loaders.index import look
from fastsemi.loaders.index.index import Index, pack_paths


def index_files(paths: Sequence[str], *, max_pixels: int, threads: int = 8) -> Index:
    """Index image files without classes, in the order in which they are named.

    Args:
        paths: The files, N of them; one without a readable header counts as broken.
        max_pixels: Images that claim more pixels count as broken.
        threads: Threads that read image headers.
    """
    absolute = [os.path.abspath(path) for path in paths]
    headers = look.headers("/", absolute, max_pixels, threads)  # [N, 3]
    blob, offsets = pack_paths([os.fsencode(path) for path in absolute])
    sizes = np.ascontiguousarray(headers[:, :2])
    return Index(
        root=Path("/"),
        classes=(),
        path_blob=blob,
        path_offsets=offsets,
        labels=np.full(len(paths), -1, np.int32),
        sizes=sizes,
        broken=np.flatnonzero(sizes[:, 0] == 0),
        orientation=headers[:, 2].astype(np.uint8),
    )
