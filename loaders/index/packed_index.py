"""The index of many images in few files: which bytes of which file, found once and memory-mapped."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastsemi.common.errors import UserError
from fastsemi.loaders.index.index import Index, default_cache_dir

_FORMAT = 1  # of the cache; another number on disk means "build again"
_HEAD = 65_536  # bytes that hold the header of nearly every image


@dataclass(frozen=True, eq=False)
class PackedIndex(Index):
    """N images inside of files. `path(i)` is the name of image `i`: its file, then its name inside of it."""

    files: tuple[str, ...]  # absolute paths
    file: NDArray[np.int32]  # [N] which of `files`
    offset: NDArray[np.int64]  # [N] where the bytes begin in the file
    length: NDArray[np.int64]  # [N] how many there are
    extra: dict[str, NDArray[Any]] = field(default_factory=dict)  # [N] each: what a format needs besides


@dataclass
class Found:
    """The images of one file, in order; one entry an image in every list."""

    names: list[str] = field(default_factory=list)  # inside the file
    offset: list[int] = field(default_factory=list)
    length: list[int] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)  # width, height; (0, 0) if broken
    labels: list[int | str | None] = field(default_factory=list)
    extra: dict[str, list[int]] = field(default_factory=dict)
    classes: tuple[str, ...] = ()  # class names, where the file brings them


def image_size(data: bytes | memoryview, max_pixels: int) -> tuple[int, int]:
    """Width and height as the header says, without regard to EXIF; (0, 0) for no image or one too large."""
    try:
        with Image.open(BytesIO(data)) as image:
            width, height = image.size
    except Exception:  # Pillow's readers raise whatever the damaged bytes lead to; any of it means "broken"
        return (0, 0)
    return (width, height) if width * height <= max_pixels else (0, 0)


def stored_size(fd: int, offset: int, length: int, max_pixels: int) -> tuple[int, int]:
    """`image_size` of the bytes in an open file, of which it reads as few as possible."""
    size = image_size(os.pread(fd, min(length, _HEAD), offset), max_pixels)
    if size == (0, 0) and length > _HEAD:
        size = image_size(os.pread(fd, length, offset), max_pixels)
    return size


def build_packed(
    kind: str,
    files: Sequence[str],
    scan: Callable[[str], Found],
    *,
    has_classes: bool,
    max_pixels: int,
    cache_dir: Path | None = None,
    threads: int = 8,
    refresh: bool = False,
) -> PackedIndex:
    """Index the images inside `files`, or reopen the index made earlier; its arrays are memory-mapped.

    An index is kept until a file changes in time or length. Processes that start together build once: the
    others wait for the first.

    Args:
        kind: Name of the format.
        files: The files; ids count through them in this order.
        scan: Lists the images of one file; called from several threads.
        has_classes: Whether images without a class are an error; otherwise classes are not looked at.
        max_pixels: The `max_pixels` with which `scan` judges sizes.
        cache_dir: Where indexes are kept, as in `fastsemi.loaders.index.index.build_index`.
        threads: Files that are looked at at the same time.
        refresh: Look at all files again, whatever is known.

    Raises:
        UserError: No images, an image without a class, a file or the cache that cannot be used.
    """
    files = [os.path.abspath(file) for file in files]
    key = "\0".join([kind, "classes" if has_classes else "flat", str(max_pixels), *files])
    folder = (cache_dir or default_cache_dir()) / hashlib.sha256(os.fsencode(key)).hexdigest()[:24]
    stamp = _stamp(files)
    cached = None if refresh else _open(folder / stamp)
    if cached:
        return cached
    try:
        with _locked(folder):
            cached = None if refresh else _open(folder / stamp)  # another process may have built it meanwhile
            if cached is None:
                _publish(folder / stamp, *_gather(files, scan, has_classes, threads))
                cached = _open(folder / stamp)
    except OSError as error:
        raise UserError(
            f"cannot write the index of {files[0]} to {folder}: {error.strerror or error}; "
            "set FASTSEMI_CACHE to a folder that can be written"
        ) from error
    if cached is None:
        raise UserError(f"the index just written to {folder} cannot be read back; check that disk")
    return cached


def _stamp(files: Sequence[str]) -> str:
    digest = hashlib.sha256(str(_FORMAT).encode())
    for file in files:
        try:
            status = os.stat(file)
        except OSError as error:
            raise UserError(f"cannot open {file}: {error.strerror}; correct the path") from error
        digest.update(f"{status.st_mtime_ns} {status.st_size} ".encode())
    return digest.hexdigest()[:24]


def _gather(
    files: Sequence[str], scan: Callable[[str], Found], has_classes: bool, threads: int
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    with warnings.catch_warnings():  # set here, because the filter belongs to the process, not to a thread
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        Image.init()
        with ThreadPoolExecutor(max(1, threads)) as pool:
            found = list(pool.map(scan, files))
    if not any(part.names for part in found):
        raise UserError(f"{files[0]} and {len(files) - 1} more files hold no images; correct the path")
    # names of a single file do not begin with it: labels are drawn by name, and are then those of the folder
    # that it was made of
    root = files[0] if len(files) == 1 else os.path.commonpath([os.path.dirname(file) for file in files])
    names = [
        os.fsencode(name if file == root else f"{os.path.relpath(file, root)}/{name}")
        for file, part in zip(files, found, strict=True)
        for name in part.names
    ]
    classes, labels = _classes(files, found) if has_classes else ((), np.full(len(names), -1))
    sizes = np.array([size for part in found for size in part.sizes], np.int32).reshape(-1, 2)
    arrays: dict[str, NDArray[Any]] = {
        "path_blob": np.frombuffer(b"".join(names), np.uint8),
        "path_offsets": np.cumsum([0, *map(len, names)], dtype=np.int64),
        "labels": labels.astype(np.int32),
        "sizes": sizes,
        "broken": np.flatnonzero(sizes[:, 0] == 0),
        "file": np.repeat(np.arange(len(files), dtype=np.int32), [len(part.names) for part in found]),
        "offset": np.array([x for part in found for x in part.offset], np.int64),
        "length": np.array([x for part in found for x in part.length], np.int64),
    }
    extra = sorted({name for part in found for name in part.extra})
    for name in extra:
        arrays[name] = np.array([x for part in found for x in part.extra.get(name, [])], np.int64)
    return {"root": root, "classes": classes, "files": list(files), "extra": extra}, arrays


def _classes(files: Sequence[str], found: list[Found]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Class names and the class of each image: numbers as they are, names in sorted order."""
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
        numbers = np.array(labels, np.int64)
        classes = given or tuple(str(i) for i in range(int(numbers.max()) + 1))
    else:
        classes = given or tuple(sorted({str(label) for label in labels}))
        position = {name: i for i, name in enumerate(classes)}
        numbers = np.array([position.get(str(label), -1) for label in labels], np.int64)
    odd = np.flatnonzero((numbers < 0) | (numbers >= len(classes)))
    if len(odd):
        raise UserError(
            f"class {labels[odd[0]]!r} of an image in {files[0]} or beside it is not one of its "
            f"{len(classes)} classes; correct the classes of these files"
        )
    return classes, numbers


_ARRAYS = ("path_blob", "path_offsets", "labels", "sizes", "broken", "file", "offset", "length")


def _open(place: Path) -> PackedIndex | None:
    """The index in a folder, or None where there is none or it is damaged."""
    try:
        meta = json.loads((place / "meta.json").read_text(encoding="utf-8"))
        # asarray: still mapped, without the cost of np.memmap's Python hooks on every access
        arrays = {
            name: np.asarray(np.load(place / f"{name}.npy", mmap_mode="r"))
            for name in (*_ARRAYS, *meta["extra"])
        }
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None
    return PackedIndex(
        root=Path(meta["root"]),
        classes=tuple(meta["classes"]),
        files=tuple(meta["files"]),
        extra={name: arrays.pop(name) for name in meta["extra"]},
        **arrays,
    )


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One builder at a time; the system frees the lock of a process that dies."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        with contextlib.suppress(OSError):  # a file system without locks: several build, the last one stays
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _publish(place: Path, meta: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
    """Write beside, then rename: readers see a whole index or none. Older ones are removed."""
    fresh = place.with_name(f"new-{uuid.uuid4().hex}")
    fresh.mkdir()
    for name, array in arrays.items():
        np.save(fresh / f"{name}.npy", array)
    (fresh / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    for old in place.parent.iterdir():
        if old != fresh and old.is_dir():
            shutil.rmtree(old, ignore_errors=True)  # open memory maps stay valid
    os.rename(fresh, place)
