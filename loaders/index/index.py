"""Who exists: the images below a folder, with class and size, found once and memory-mapped ever after."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastsemi.loaders.index import look, scan
from fastsemi.loaders.index.cache import (
    Arrays,
    Cached,
    cache_folder,
    open_generation,
    open_or_build,
    read_back,
    write_generation,
)
from fastsemi.loaders.index.formats import FORMATS
from fastsemi.loaders.index.header import BROKEN

_FORMAT = 3  # of the arrays and of what is counted; another number on disk means "build again"
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
    sizes: NDArray[np.int32]  # [N, 2] width, height in pixels; 0, 0 if broken
    broken: NDArray[np.int64]  # ids of files without a readable header
    orientation: NDArray[np.uint8] | None = field(default=None, kw_only=True)  # [N] as EXIF says, 1 to 8
    turned: bool = field(default=False, kw_only=True)  # whether engines turn by it; sizes are then turned
    skipped: Mapping[str, int] = field(default_factory=dict, kw_only=True)  # files that are no images

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

    @property
    def lying(self) -> int:
        """How many images their EXIF orientation would turn or mirror."""
        return 0 if self.orientation is None else int(np.count_nonzero(self.orientation > 1))

    def turn(self, turned: bool) -> Self:
        """The index with images turned by their EXIF orientation, or as they are stored."""
        if turned == self.turned or self.orientation is None:
            return self
        on_side = (self.orientation >= 5)[:, None]
        return replace(self, turned=turned, sizes=np.where(on_side, self.sizes[:, ::-1], self.sizes))


def pack_paths(paths: Sequence[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Paths, one after the other, and the [N + 1] places where each begins and the last ends."""
    ends = np.zeros(len(paths) + 1, np.int64)
    np.cumsum([len(path) for path in paths], out=ends[1:])
    return np.frombuffer(b"".join(paths), np.uint8), ends


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
    key = ("classes" if has_classes else "flat",)
    listed = Listed(top, key, "", lambda: scan.scan(top, has_classes))
    return open_index(
        listed,
        max_pixels=max_pixels,
        cache_dir=cache_dir,
        threads=threads,
        refresh=refresh,
        progress=progress,
    )


@dataclass(frozen=True)
class Listed:
    """Images as files that can be listed."""

    root: str  # absolute
    key: tuple[str, ...]  # what besides `root` tells this list from others
    state: str  # of what the list depends on besides the folders; another one means "list again"
    tree: Callable[[], scan.Tree]  # lists them


def open_index(
    listed: Listed,
    *,
    max_pixels: int,
    cache_dir: Path | None,
    threads: int,
    refresh: bool,
    progress: Callable[[int, int], None] | None = None,
) -> Index:
    """The index of listed files, built or reopened as `build_index` says."""
    top = listed.root
    folder = cache_folder((top, *listed.key, str(max_pixels), *FORMATS), cache_dir)

    def cached() -> Cached | None:
        return None if refresh else open_generation(folder, _ARRAYS, _FORMAT)

    def known() -> Index | None:
        found = cached()
        same = found is not None and found.meta.get("state", "") == listed.state
        return _index(found, top) if found and same and _fresh(found, top, threads) else None

    def build() -> Index:
        tree = listed.tree()
        arrays = _measure(top, tree, cached(), max_pixels, threads, progress)
        meta = {"format": _FORMAT, "root": top, "classes": tree.classes, "skipped": tree.skipped}
        write_generation(folder, {**meta, "state": listed.state}, arrays)
        return _index(read_back(open_generation(folder, _ARRAYS, _FORMAT)), top)

    return open_or_build(folder, top, known, build)


_ARRAYS = (
    *("path_blob", "path_offsets", "labels", "sizes", "broken", "orientation", "stamps"),
    *("folder_blob", "folder_offsets", "folder_mtimes"),
)


def _index(cached: Cached, root: str) -> Index:
    names = ("path_blob", "path_offsets", "labels", "sizes", "broken", "orientation")
    return Index(
        root=Path(root),
        classes=tuple(cached.meta["classes"]),
        skipped=cached.meta["skipped"],
        **{name: cached.arrays[name] for name in names},  # type: ignore[arg-type]
    )


def _fresh(cached: Cached, root: str, threads: int) -> bool:
    """Whether the folders are as they were, and no broken file has been repaired in place."""
    names = _names(cached.arrays["folder_blob"], cached.arrays["folder_offsets"])
    try:
        for name, known in zip(names, cached.arrays["folder_mtimes"].tolist(), strict=True):
            if os.stat(os.path.join(root, name)).st_mtime_ns != known:
                return False
    except OSError:
        return False
    index = _index(cached, root)
    now = look.stamps(root, index.paths(index.broken), threads)
    return np.array_equal(now, cached.arrays["stamps"][index.broken])


def _names(blob: NDArray[np.uint8], offsets: NDArray[np.int64]) -> list[str]:
    data, ends = blob.tobytes(), offsets.tolist()
    return [os.fsdecode(data[start:end]) for start, end in itertools.pairwise(ends)]


def _measure(
    root: str,
    tree: scan.Tree,
    old: Cached | None,
    max_pixels: int,
    threads: int,
    progress: Callable[[int, int], None] | None,
) -> Arrays:
    """The arrays of a new index; of files that the old one knows, the size is taken from there."""
    stamps = look.stamps(root, tree.files, threads)
    headers = _known_headers(tree.files, stamps, old)
    todo = np.flatnonzero((headers[:, 0] < 0) & (stamps[:, 1] >= 0))
    files = tree.files if len(todo) == len(tree.files) else [tree.files[i] for i in todo]
    headers[todo] = look.headers(root, files, max_pixels, threads, progress)
    headers[headers[:, 0] < 0] = BROKEN
    sizes = np.ascontiguousarray(headers[:, :2])
    path_blob, path_offsets = pack_paths([os.fsencode(file) for file in tree.files])
    folder_blob, folder_offsets = pack_paths([os.fsencode(name) for name in tree.folders])
    return {
        "path_blob": path_blob,
        "path_offsets": path_offsets,
        "labels": tree.labels,
        "sizes": sizes,
        "broken": np.flatnonzero(sizes[:, 0] == 0),
        "orientation": headers[:, 2].astype(np.uint8),
        "stamps": stamps,
        "folder_blob": folder_blob,
        "folder_offsets": folder_offsets,
        "folder_mtimes": np.array(tree.folder_mtimes, np.int64),
    }


def _known_headers(files: list[str], stamps: NDArray[np.int64], old: Cached | None) -> NDArray[np.int32]:
    """Sizes and orientation [N, 3] of the old index where path, time and length are the same, else -1."""
    headers = np.full((len(files), 3), -1, np.int32)
    if old is None:
        return headers
    names = _names(old.arrays["path_blob"], old.arrays["path_offsets"])
    row_of = {name: row for row, name in enumerate(names)}
    rows = np.array([row_of.get(file, -1) for file in files], np.int64)
    same = (rows >= 0) & (old.arrays["stamps"][rows] == stamps).all(axis=1)
    headers[same, :2] = old.arrays["sizes"][rows[same]]
    headers[same, 2] = old.arrays["orientation"][rows[same]]
    return headers
