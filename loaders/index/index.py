"""Who exists: the images below a folder, with class and size, found once and memory-mapped ever after."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastsemi.common.errors import UserError
from fastsemi.loaders.index import scan

_FORMAT = 1  # of the cache; another number on disk means "build again"
MAX_PIXELS = 178_956_970  # twice Pillow's MAX_IMAGE_PIXELS, where Pillow itself refuses to open an image


@dataclass(frozen=True, eq=False)
class Index:
    """N images in the order of torchvision's `ImageFolder`. The position in this order is an image's id.

    The order is what the index files of the paper's authors count in. The arrays may be memory-mapped and
    are read-only then.
    """

    root: Path  # absolute
    classes: tuple[str, ...]  # names; labels index it; empty for images without classes
    path_blob: NDArray[np.uint8]  # paths relative to root, one after the other, as the file system's bytes
    path_offsets: NDArray[np.int64]  # [N + 1] path i is path_blob[path_offsets[i]:path_offsets[i + 1]]
    labels: NDArray[np.int32]  # [N] class, -1 for none
    sizes: NDArray[np.int32]  # [N, 2] width, height in pixels before any EXIF rotation; 0, 0 if broken
    broken: NDArray[np.int64]  # ids of files without a readable header

    def __len__(self) -> int:
        return len(self.labels)

    def relative_path(self, i: int) -> str:
        """Path of image `i` below `root`.

        Raises:
            IndexError: `i` is not in 0 .. N-1.
        """
        if not 0 <= i < len(self):
            raise IndexError(f"image {i} of an index of {len(self)} images")
        start, end = self.path_offsets[i : i + 2]
        return os.fsdecode(self.path_blob[start:end].tobytes())

    def path(self, i: int) -> str:
        """Absolute path of image `i`."""
        return os.path.join(self.root, self.relative_path(i))

    def paths(self, ids: ArrayLike) -> list[str]:
        """Absolute paths of several images."""
        return [self.path(int(i)) for i in np.asarray(ids).ravel()]

    def iter_relative(self) -> Iterator[bytes]:
        """All relative paths in order, as the file system's bytes: the quick way through a large index."""
        blob, offsets = self.path_blob.tobytes(), self.path_offsets.tolist()
        return (blob[start:end] for start, end in itertools.pairwise(offsets))


def build_index(
    root: Path,
    *,
    has_classes: bool,
    max_pixels: int = MAX_PIXELS,
    cache_dir: Path | None = None,
    threads: int = 8,
    refresh: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Index:
    """Index the images below a folder, or reopen the index made earlier.

    The index is kept in `cache_dir`. A later call opens it if no folder below `root` has changed its list
    of names (one stat a folder, none a file) and no broken file has been touched. Otherwise the tree is
    listed again, and only files that are new or changed in time or length are opened. An image that is
    overwritten in place is therefore not noticed until its folder changes; `refresh` is the cure.
    Processes that start together build once: the others wait for the first.

    Args:
        root: `root/<class>/**/<image>` with classes, `root/**/<image>` without.
        has_classes: Whether the folders in `root` are classes.
        max_pixels: Images that claim more pixels count as broken; Pillow's own limit is the largest.
        cache_dir: Where indexes are kept; default `$FASTSEMI_CACHE`, else `~/.cache/fastsemi`, then `/index`.
        threads: Threads that read image headers.
        refresh: Read every header again, whatever is known.
        progress: Called with headers read and headers to read.

    Raises:
        UserError: A missing or empty folder, a class folder without images, images outside class folders,
            a folder that cannot be listed, a cache that cannot be written.
    """
    top = os.path.abspath(root)
    scan.require_folder(top)
    key = "\0".join([top, "classes" if has_classes else "flat", str(max_pixels)])
    folder = (cache_dir or default_cache_dir()) / hashlib.sha256(os.fsencode(key)).hexdigest()[:24]
    cached = None if refresh else _open(folder)
    if cached and cached.fresh(top, threads):
        return cached.index(top)
    try:
        with _locked(folder):
            if not refresh:
                cached = _open(folder)  # another process may have built it while this one waited
            if not (cached and cached.fresh(top, threads)):
                tree = scan.scan(top, has_classes)
                cached = _build(folder, top, tree, cached, max_pixels, threads, progress)
    except OSError as error:
        raise UserError(
            f"cannot write the index of {top} to {folder}: {error.strerror or error}; "
            "set FASTSEMI_CACHE to a folder that can be written"
        ) from error
    return cached.index(top)


def default_cache_dir() -> Path:
    """`$FASTSEMI_CACHE/index`, or `~/.cache/fastsemi/index` where the variable is not set."""
    base = os.environ.get("FASTSEMI_CACHE")
    return (Path(base).expanduser() if base else Path.home() / ".cache" / "fastsemi") / "index"


@dataclass(frozen=True)
class _Cached:
    """The files of one index on disk."""

    meta: dict[str, Any]
    arrays: dict[str, NDArray[Any]]

    def fresh(self, root: str, threads: int) -> bool:
        """Whether the folders are as they were, and no broken file has been repaired in place."""
        names = _unpack(self.arrays["folder_blob"], self.arrays["folder_offsets"])
        try:
            for name, known in zip(names, self.arrays["folder_mtimes"].tolist(), strict=True):
                if os.stat(os.path.join(root, name)).st_mtime_ns != known:
                    return False
        except OSError:
            return False
        index = self.index(root)
        now = scan.stamps(index.paths(index.broken), threads)
        return np.array_equal(now, self.arrays["stamps"][index.broken])

    def index(self, root: str) -> Index:
        names = ("path_blob", "path_offsets", "labels", "sizes", "broken")
        return Index(Path(root), tuple(self.meta["classes"]), *(self.arrays[name] for name in names))


def _pack(names: list[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    parts = [os.fsencode(name) for name in names]
    offsets = np.zeros(len(parts) + 1, np.int64)
    np.cumsum([len(part) for part in parts], out=offsets[1:])
    return np.frombuffer(b"".join(parts), np.uint8), offsets


def _unpack(blob: NDArray[np.uint8], offsets: NDArray[np.int64]) -> list[str]:
    data, ends = blob.tobytes(), offsets.tolist()
    return [os.fsdecode(data[start:end]) for start, end in itertools.pairwise(ends)]


_ARRAYS = (
    *("path_blob", "path_offsets", "labels", "sizes", "broken", "stamps"),
    *("folder_blob", "folder_offsets", "folder_mtimes"),
)


def _open(folder: Path) -> _Cached | None:
    """The index that `current.json` names, or None where there is none or it is damaged."""
    try:
        meta = json.loads((folder / "current.json").read_text(encoding="utf-8"))
        if meta["format"] != _FORMAT:
            return None
        place = folder / meta["folder"]
        # asarray: still mapped, without the cost of np.memmap's Python hooks on every access
        arrays = {name: np.asarray(np.load(place / f"{name}.npy", mmap_mode="r")) for name in _ARRAYS}
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None
    return _Cached(meta, arrays)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One builder at a time; the system frees the lock of a process that dies."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        with contextlib.suppress(OSError):  # a file system without locks: several build, the last one stays
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(
    folder: Path,
    root: str,
    tree: scan.Tree,
    old: _Cached | None,
    max_pixels: int,
    threads: int,
    progress: Callable[[int, int], None] | None,
) -> _Cached:
    paths = [os.path.join(root, file) for file in tree.files]
    stamps = scan.stamps(paths, threads)
    sizes = _known_sizes(tree.files, stamps, old)
    todo = np.flatnonzero((sizes[:, 0] < 0) & (stamps[:, 1] >= 0))
    sizes[todo] = scan.sizes([paths[i] for i in todo], max_pixels, threads, progress)
    np.maximum(sizes, 0, out=sizes)
    path_blob, path_offsets = _pack(tree.files)
    folder_blob, folder_offsets = _pack(tree.folders)
    arrays: dict[str, NDArray[Any]] = {
        "path_blob": path_blob,
        "path_offsets": path_offsets,
        "labels": tree.labels,
        "sizes": sizes,
        "broken": np.flatnonzero(sizes[:, 0] == 0),
        "stamps": stamps,
        "folder_blob": folder_blob,
        "folder_offsets": folder_offsets,
        "folder_mtimes": np.array(tree.folder_mtimes, np.int64),
    }
    return _publish(folder, {"format": _FORMAT, "root": root, "classes": tree.classes}, arrays)


def _known_sizes(files: list[str], stamps: NDArray[np.int64], old: _Cached | None) -> NDArray[np.int32]:
    """Sizes [N, 2] from the old index where path, time and length are the same, -1 elsewhere."""
    sizes = np.full((len(files), 2), -1, np.int32)
    if old is None:
        return sizes
    names = _unpack(old.arrays["path_blob"], old.arrays["path_offsets"])
    row_of = {name: row for row, name in enumerate(names)}
    rows = np.array([row_of.get(file, -1) for file in files], np.int64)
    same = (rows >= 0) & (old.arrays["stamps"][rows] == stamps).all(axis=1)
    sizes[same] = old.arrays["sizes"][rows[same]]
    return sizes


def _publish(folder: Path, meta: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> _Cached:
    """Write a new generation, then let `current.json` name it: readers see the old one or the new one."""
    place = folder / f"generation-{uuid.uuid4().hex}"
    place.mkdir()
    for name, array in arrays.items():
        np.save(place / f"{name}.npy", array)
    pointer = place / "current.json"
    pointer.write_text(json.dumps({**meta, "folder": place.name}), encoding="utf-8")
    os.replace(pointer, folder / "current.json")
    for other in folder.glob("generation-*"):
        if other != place:  # replaced, or left by a build that was killed; open memory maps stay valid
            shutil.rmtree(other, ignore_errors=True)
    opened = _open(folder)
    if opened is None:
        raise OSError(f"the index just written to {place} cannot be read back")
    return opened
