"""The index of many images in few files: which bytes of which file, found once and memory-mapped."""

from __future__ import annotations

import hashlib
import os
import stat
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastsemi.common.errors import UserError
from fastsemi.common.object_store import heads
from fastsemi.common.urls import absolute, is_url, place
from fastsemi.loaders.index.cache import (
    Arrays,
    Cached,
    cache_folder,
    open_or_build,
    open_stamped,
    read_back,
    write_stamped,
)
from fastsemi.loaders.index.formats import FORMATS
from fastsemi.loaders.index.header import Header
from fastsemi.loaders.index.index import Index, pack_paths

MOST_CLASSES = 1_000_000
_FORMAT = 4  # of the arrays and of what is refused; another number on disk means "build again"


@dataclass(frozen=True, eq=False)
class ArchiveIndex(Index):
    """N images inside of files. `path(i)` is the name of image `i`: its file, then its name inside of it."""

    files: Sequence[str]  # absolute paths, or URLs
    file: NDArray[np.int32]  # [N] which of `files`
    offset: NDArray[np.int64]  # [N] where the bytes begin in the file
    length: NDArray[np.int64]  # [N] how many there are
    extra: dict[str, NDArray[Any]] = field(default_factory=dict)  # [N] each: what a format needs besides
    tags: Sequence[str] = ()  # of each of `files` that is a URL: which object it was


@dataclass
class Found:
    """The images of one file, in order; one entry an image in every list."""

    names: list[str] = field(default_factory=list)  # inside the file
    offset: list[int] = field(default_factory=list)
    length: list[int] = field(default_factory=list)
    sizes: list[Header] = field(default_factory=list)  # width, height, EXIF orientation
    labels: list[int | str | None] = field(default_factory=list)
    extra: dict[str, list[int]] = field(default_factory=dict)
    classes: tuple[str, ...] = ()  # class names, where the file brings them
    skipped: Counter[str] = field(default_factory=Counter)  # members that are no images, by extension


def build_archive_index(
    kind: str,
    files: Sequence[str],
    scan: Callable[[str], Found],
    *,
    has_classes: bool,
    max_pixels: int,
    cache_dir: Path | None = None,
    threads: int = 8,
    refresh: bool = False,
) -> ArchiveIndex:
    """Index the images inside `files`, or reopen the index made earlier; its arrays are memory-mapped.

    An index is kept until a file changes in time or length. Processes that start together build once: the
    others wait for the first.

    Args:
        kind: Name of the format.
        files: The files; ids count through them in this order.
        scan: Lists the images of one file; called from several threads.
        has_classes: Whether images without a class are an error; otherwise classes are not looked at.
        max_pixels: The `max_pixels` with which `scan` judges sizes.
        cache_dir: Where indexes are kept, as in `build_index`.
        threads: Files that are looked at at the same time.
        refresh: Look at all files again, whatever is known.

    Raises:
        UserError: No images, an image without a class, a file or the cache that cannot be used.
    """
    files = [absolute(file) for file in files]
    tags = [entry.tag for entry in heads(files)] if is_url(files[0]) else []
    key = (kind, "classes" if has_classes else "flat", str(max_pixels), *FORMATS, *files)
    folder, stamp = cache_folder(key, cache_dir), _stamp(tags or _states(files))

    def known() -> ArchiveIndex | None:
        found = None if refresh else open_stamped(folder, stamp, _ARRAYS)
        return None if found is None else _index(found)

    def build() -> ArchiveIndex:
        meta, arrays = _gather(files, scan, has_classes, threads)
        write_stamped(folder, stamp, {**meta, "tags": tags}, arrays)
        return _index(read_back(open_stamped(folder, stamp, _ARRAYS)))

    return open_or_build(folder, files[0], known, build)


_ARRAYS = (
    *("path_blob", "path_offsets", "labels", "sizes", "broken", "orientation"),
    *("file", "offset", "length"),
)


def _index(cached: Cached) -> ArchiveIndex:
    meta = cached.meta
    return ArchiveIndex(
        root=place(meta["root"]),
        classes=tuple(meta["classes"]),
        files=tuple(meta["files"]),
        tags=tuple(meta["tags"]),
        skipped=meta["skipped"],
        extra={name: cached.arrays[name] for name in meta["extra"]},
        **{name: cached.arrays[name] for name in _ARRAYS},  # type: ignore[arg-type]
    )


def _stamp(states: Sequence[str]) -> str:
    digest = hashlib.sha256(str(_FORMAT).encode())
    for state in states:
        digest.update(f"{state} ".encode())
    return digest.hexdigest()[:24]


def _states(files: Sequence[str]) -> list[str]:
    """When each file was changed and how long it is."""
    states = []
    for file in files:
        try:
            status = os.stat(file)
        except OSError as error:
            raise UserError(f"cannot open {file}: {error.strerror}; correct the path") from error
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{file} is not a regular file; give an archive")
        states.append(f"{status.st_mtime_ns} {status.st_size}")
    return states


def _gather(
    files: Sequence[str], scan: Callable[[str], Found], has_classes: bool, threads: int
) -> tuple[dict[str, Any], Arrays]:
    with warnings.catch_warnings():  # set here, because the filter belongs to the process, not to a thread
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        Image.init()
        with ThreadPoolExecutor(max(1, threads)) as pool:
            found = list(pool.map(scan, files))
    if not any(part.names for part in found):
        raise UserError(f"{files[0]} and {len(files) - 1} more files hold no images; correct the path")
    # names of a single file do not begin with it: labels are drawn by name, and are then those of the folder
    # that it was made of
    root = files[0] if len(files) == 1 else str(place(_common([os.path.dirname(file) for file in files])))
    names = [
        os.fsencode(name if file == root else f"{os.path.relpath(file, root)}/{name}")
        for file, part in zip(files, found, strict=True)
        for name in part.names
    ]
    classes, labels = _classes(files, found) if has_classes else ((), np.full(len(names), -1))
    headers = np.array([size for part in found for size in part.sizes], np.int32).reshape(-1, 3)
    sizes = np.ascontiguousarray(headers[:, :2])
    path_blob, path_offsets = pack_paths(names)
    arrays: Arrays = {
        "path_blob": path_blob,
        "path_offsets": path_offsets,
        "labels": labels.astype(np.int32),
        "sizes": sizes,
        "broken": np.flatnonzero(sizes[:, 0] == 0),
        "orientation": headers[:, 2].astype(np.uint8),
        "file": np.repeat(np.arange(len(files), dtype=np.int32), [len(part.names) for part in found]),
        "offset": np.array([x for part in found for x in part.offset], np.int64),
        "length": np.array([x for part in found for x in part.length], np.int64),
    }
    extra = sorted({name for part in found for name in part.extra})
    for name in extra:
        arrays[name] = np.array([x for part in found for x in part.extra.get(name, [])], np.int64)
    skipped = dict(sum((part.skipped for part in found), Counter()))
    meta = {"root": root, "classes": classes, "files": list(files), "extra": extra, "skipped": skipped}
    return meta, arrays


def _common(folders: list[str]) -> str:
    if is_url(folders[0]) and len({file.split("/", 3)[2] for file in folders}) > 1:
        raise UserError(f"{folders[0]} and the files beside it lie in several buckets; name those of one")
    return os.path.commonpath(folders)


def _numbers(labels: Sequence[Any], files: Sequence[str]) -> NDArray[np.int64]:
    """Classes that are numbers, which name as many classes as the largest says."""
    largest = max(labels)
    if largest == min(labels) == -1:
        raise UserError(
            f"no image in {files[0]} or beside it has a label; name these files in data.unlabeled"
        )
    if largest >= MOST_CLASSES:
        raise too_large(str(largest), f"an image in {files[0]} or beside it")
    return np.array([max(-2, label) for label in labels], np.int64)  # below -1 is refused, however far


def too_large(number: str, of: str) -> UserError:
    """A class number that names more classes than there may be.

    Args:
        number: As it is written.
        of: What has it.
    """
    shown = number if len(number) <= 30 else f"{number[:20]}... ({len(number):,} digits)"
    return UserError(
        f"class {shown} of {of} is too large; number the classes from 0 to {MOST_CLASSES - 1:,} at most, or "
        "give names"
    )


def _classes(files: Sequence[str], found: list[Found]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Class names and the class of each image: numbers as they are, names in sorted order.

    Where files name their classes, -1 stands for an image without a label, as in `datasets` and `.beton`.
    """
    labels: list[int | str] = []
    for file, part in zip(files, found, strict=True):
        for name, label in zip(part.names, part.labels, strict=True):
            if label is None:
                raise UserError(
                    f"image {name} in {file} has no class; give every image one, or name these files in "
                    "data.unlabeled for unlabelled images"
                )
            labels.append(label)
    given = max((part.classes for part in found), key=len)
    if all(isinstance(label, int) for label in labels):
        numbers = _numbers(labels, files)
        classes = given or tuple(str(i) for i in range(int(numbers.max()) + 1))
    else:
        classes = given or tuple(sorted({str(label) for label in labels}))
        position = {name: i for i, name in enumerate(classes)}
        if len(position) < len(classes):
            (name, times), *_ = Counter(classes).most_common(1)
            raise UserError(
                f"class {name} is {times} of the {len(classes)} classes that {files[0]} or a file beside it "
                "names, and images give their class by name; give each class a name of its own"
            )
        numbers = np.array([position.get(str(label), -2) for label in labels], np.int64)
    none = -1 if given else 0
    odd = np.flatnonzero((numbers < none) | (numbers >= len(classes)))
    if len(odd):
        raise UserError(
            f"class {labels[odd[0]]!r} of an image in {files[0]} or beside it is not one of its "
            f"{len(classes)} classes; correct the classes of these files"
        )
    return classes, numbers
