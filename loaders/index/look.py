"""Looks at many files: when each was changed, how long it is, and what an image's header says.

The native operator does it without Python's lock, several times as fast; where it is not sure, Pillow judges.
"""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastsemi.loaders.index.header import BROKEN, Header, image_header
from fastsemi.loaders.index.regular import open_regular

try:
    from fastsemi._native import file_stamps, jpeg_headers
except ImportError:  # it was not built
    file_stamps = jpeg_headers = None

_CHUNK = 512  # files a thread takes at a time

Rows = Sequence[tuple[int, ...]] | NDArray[np.int64] | NDArray[np.int32]


def _threaded(
    of_chunk: Callable[[list[bytes]], Rows],
    columns: int,
    root: str,
    files: Sequence[str],
    threads: int,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.int64]:
    """A row for each file, in their order; `of_chunk` gets the absolute paths of some."""

    top = os.path.join(root, "")

    def rows_from(start: int) -> Rows:
        some = files[start : start + _CHUNK]
        return of_chunk([os.fsencode(file if file.startswith("/") else top + file) for file in some])

    result = np.zeros((len(files), columns), np.int64)
    done = 0
    with ThreadPoolExecutor(max(1, threads)) as pool:
        for rows in pool.map(rows_from, range(0, len(files), _CHUNK)):
            result[done : done + len(rows)] = rows
            done += len(rows)
            if progress:
                progress(done, len(files))
    return result


def _stamp(path: bytes) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return (0, -1)
    return (status.st_mtime_ns, status.st_size if stat.S_ISREG(status.st_mode) else -1)


def stamps(root: str, files: Sequence[str], threads: int) -> NDArray[np.int64]:
    """Time of change (nanoseconds) and length (bytes) of each file, [N, 2]; length -1 where it is no file.

    Args:
        root: Absolute.
        files: N paths, absolute or relative to `root`.
        threads: That look at the same time.
    """
    of_chunk = file_stamps or (lambda paths: [_stamp(path) for path in paths])
    return _threaded(of_chunk, 2, root, files, threads)


def _header(path: bytes, max_pixels: int) -> Header:
    try:
        with open_regular(path) as file:
            return image_header(file, max_pixels)
    except OSError:
        return BROKEN


def headers(
    root: str,
    files: Sequence[str],
    max_pixels: int,
    threads: int,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.int32]:
    """Width, height and EXIF orientation of each image as its header says, [N, 3]; sizes are as stored.

    `BROKEN` stands for a file that cannot be read, has no readable header or claims over `max_pixels` pixels.

    Args:
        root: As of `stamps`, as the two that follow.
        files: N paths.
        max_pixels: The most; Pillow's own limit holds besides.
        threads: That look at the same time.
        progress: Called with headers read and headers to read.
    """

    most = min(max_pixels, 2 * (Image.MAX_IMAGE_PIXELS or max_pixels))  # of more Pillow opens none

    def of_chunk(paths: list[bytes]) -> Rows:
        if jpeg_headers is None:
            return [_header(path, max_pixels) for path in paths]
        rows = jpeg_headers(paths, most)
        for i in np.flatnonzero(rows[:, 0] < 0):
            rows[i] = _header(paths[i], max_pixels)
        return rows

    Image.init()
    with warnings.catch_warnings():  # set here, because the filter belongs to the process, not to a thread
        warnings.simplefilter("ignore")
        return _threaded(of_chunk, 3, root, files, threads, progress).astype(np.int32)
