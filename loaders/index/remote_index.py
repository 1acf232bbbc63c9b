"""The index of images that are objects of a store, one object an image."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from fastsemi.common.object_store import Entry, fetch
from fastsemi.common.urls import place
from fastsemi.loaders.index.archive_index import ArchiveIndex
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
from fastsemi.loaders.index.header import Header, stored_size
from fastsemi.loaders.index.index import pack_paths
from fastsemi.loaders.index.scan import tree_of

_FORMAT = 1  # of the arrays; another number on disk means "build again"
_HEAD = 65_536  # bytes that hold the header of nearly every image; of the others all are fetched
_ARRAYS = (
    *("path_blob", "path_offsets", "labels", "sizes", "broken", "orientation"),
    *("length", "tag_blob", "tag_offsets"),
)


class _Packed(Sequence[str]):
    """Texts that lie one after the other in a memory-mapped array, each with the same beginning."""

    def __init__(self, beginning: str, blob: NDArray[np.uint8], offsets: NDArray[np.int64]):
        self._beginning, self._blob, self._offsets = beginning, blob, offsets

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[str]: ...
    def __getitem__(self, i: int | slice) -> str | Sequence[str]:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        start, end = self._offsets[i : i + 2]
        return self._beginning + os.fsdecode(self._blob[start:end].tobytes())


def build_remote_index(
    url: str,
    entries: Sequence[Entry],
    *,
    has_classes: bool,
    max_pixels: int,
    cache_dir: Path | None = None,
    threads: int = 64,
    refresh: bool = False,
) -> ArchiveIndex:
    """Index objects as `build_index` does the files of a folder, in the same order, or reopen their index.

    Args:
        url: What the names of all begin with, without the slash at its end.
        entries: All objects below; another list, or another tag, means "index again".
        has_classes: As of `build_index`, as what follows.
        max_pixels: Images that claim more pixels count as broken.
        cache_dir: Where indexes are kept.
        threads: Objects whose beginnings are fetched at the same time.
        refresh: Index again, whatever is known.

    Raises:
        UserError: As `build_index`; or the store cannot be reached.
    """
    key = ("objects", "classes" if has_classes else "flat", str(max_pixels), *FORMATS, url)
    digest = hashlib.sha256(str(_FORMAT).encode())
    for entry in entries:
        digest.update(f"{entry.url} {entry.tag} {entry.size} ".encode(errors="surrogateescape"))
    folder, stamp = cache_folder(key, cache_dir), digest.hexdigest()[:24]

    def known() -> ArchiveIndex | None:
        found = None if refresh else open_stamped(folder, stamp, _ARRAYS)
        return None if found is None else _index(url, found)

    def build() -> ArchiveIndex:
        named = {entry.url[len(url) + 1 :]: entry for entry in entries}
        tree = tree_of(named, url, has_classes)
        chosen = [named[name] for name in tree.files]
        with ThreadPoolExecutor(max(1, threads)) as pool:
            headers = np.array(list(pool.map(partial(_header, max_pixels), chosen)), np.int32)
        path_blob, path_offsets = pack_paths([os.fsencode(name) for name in tree.files])
        tag_blob, tag_offsets = pack_paths([os.fsencode(entry.tag) for entry in chosen])
        arrays: Arrays = {
            "path_blob": path_blob,
            "path_offsets": path_offsets,
            "labels": tree.labels,
            "sizes": np.ascontiguousarray(headers[:, :2]),
            "broken": np.flatnonzero(headers[:, 0] == 0),
            "orientation": headers[:, 2].astype(np.uint8),
            "length": np.array([entry.size for entry in chosen], np.int64),
            "tag_blob": tag_blob,
            "tag_offsets": tag_offsets,
        }
        write_stamped(folder, stamp, {"classes": tree.classes, "skipped": tree.skipped, "extra": []}, arrays)
        return _index(url, read_back(open_stamped(folder, stamp, _ARRAYS)))

    return open_or_build(folder, url, known, build)


def _header(max_pixels: int, entry: Entry) -> Header:
    held = fetch(entry.url, 0, min(_HEAD, entry.size), entry.tag) if entry.size else b""

    def read(at: int, count: int) -> bytes:
        nonlocal held
        if min(at + count, entry.size) > len(held):
            held += fetch(entry.url, len(held), entry.size - len(held), entry.tag)
        return held[at : at + count]

    return stored_size(read, 0, entry.size, max_pixels)


def _index(url: str, cached: Cached) -> ArchiveIndex:
    arrays = cached.arrays
    count = len(arrays["labels"])
    return ArchiveIndex(
        root=place(url),
        classes=tuple(cached.meta["classes"]),
        skipped=cached.meta["skipped"],
        files=_Packed(f"{url}/", arrays["path_blob"], arrays["path_offsets"]),
        tags=_Packed("", arrays["tag_blob"], arrays["tag_offsets"]),
        file=np.arange(count, dtype=np.int32),
        offset=np.zeros(count, np.int64),
        **{name: arrays[name] for name in _ARRAYS if not name.startswith("tag_")},  # type: ignore[arg-type]
    )
