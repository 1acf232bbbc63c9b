"""Ranges of objects of a store, fetched ahead of their use through a cache on the local disk."""

from __future__ import annotations

import fnmatch
import threading
import weakref
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from fastsemi.common.errors import UserError
from fastsemi.common.object_store import Entry, below, fetch, level
from fastsemi.loaders.sources.cache import Cache

Range = tuple[int, int, int]  # number of the object, where it begins, how many bytes
_WILD = "*?["


@dataclass(frozen=True)
class Remote:
    """How objects are read."""

    cache_dir: Path | None = None
    """Folder of the cache; None for no cache."""
    cache_bytes: int = 0
    """Of disk, at most."""
    threads: int = 64
    """Requests under way at the same time."""


DEFAULT = Remote()


class Expected:
    """Ranges that are being fetched. Who lets go of it before they are read drops what came."""

    def __init__(self, futures: Sequence[Future[bytes]]):
        self._futures = futures
        weakref.finalize(self, _cancel, futures)


def _cancel(futures: Sequence[Future[bytes]]) -> None:
    for future in futures:
        future.cancel()


class Objects:
    """The objects of a source, read at random by any number of threads.

    Args:
        urls: The objects; only those that are read are looked at.
        tags: Of each; another one is an error.
        remote: How they are read.
    """

    def __init__(self, urls: Sequence[str], tags: Sequence[str], remote: Remote):
        self._urls, self._tags = urls, tags
        self._cache = Cache(remote.cache_dir, remote.cache_bytes) if remote.cache_dir else None
        self._pool = ThreadPoolExecutor(remote.threads, thread_name_prefix="fastsemi-remote")
        self._lock = threading.Lock()
        self._coming: weakref.WeakValueDictionary[Range, Future[bytes]] = weakref.WeakValueDictionary()
        weakref.finalize(self, self._pool.shutdown, wait=False, cancel_futures=True)

    def expect(self, ranges: Iterable[Range]) -> Expected:
        """Begin to fetch ranges, in this order; those that are on their way already are not fetched again."""
        found = []
        with self._lock:
            for which in ranges:
                future = self._coming.get(which)
                if future is None or future.cancelled():
                    future = self._coming[which] = self._pool.submit(self._get, *which)
                found.append(future)
        return Expected(found)

    def read(self, number: int, offset: int, length: int) -> bytes:
        """The bytes of a range, which may be on their way.

        Raises:
            UserError: The object cannot be reached, or is another one by now.
        """
        future = self._coming.get((number, offset, length))
        if future is not None:
            try:
                return future.result()
            except CancelledError:
                pass
        return self._get(number, offset, length)

    def _get(self, number: int, offset: int, length: int) -> bytes:
        url, tag = self._urls[number], self._tags[number]
        key = f"{url} {tag} {offset} {length}"
        data = self._cache.get(key, length) if self._cache else None
        if data is None:
            data = fetch(url, offset, length, tag)
            if self._cache:
                self._cache.put(key, data)
        return data

    def close(self) -> None:
        """Nothing is open."""


def remote_files(url: str, expand: Callable[[str], Iterable[str]], endings: Collection[str]) -> list[str]:
    """The archives that a URL means, sorted; none where it means a folder of images.

    Args:
        url: An object, what the names of objects begin with up to a slash, or a pattern of objects.
        expand: Expands braces.
        endings: How the names of archives end.

    Raises:
        UserError: Nothing matches a pattern, the store cannot be reached, or a web server would have to list.
    """
    if any(c in url for c in f"{_WILD}{{"):
        return [file for pattern in expand(url) for file in _matching(pattern)]
    if url.lower().endswith(tuple(endings)):
        return [url]
    found, folders = level(url)
    archives = [entry.url for entry in found if entry.url.lower().endswith(tuple(endings))]
    if folders and archives:  # folders that a console made may be empty
        folders = any("/" in entry.url[len(url) + 1 :] for entry in below(url))
    if folders:  # of classes, beside forgotten archives too
        return []
    _require_some(url, found)
    return archives


def remote_folder(url: str) -> list[Entry]:
    """The objects of a folder.

    Raises:
        UserError: There are none, or the store cannot be reached.
    """
    return _require_some(url, below(url))


def _require_some(url: str, found: list[Entry]) -> list[Entry]:
    if not found:
        raise UserError(f"{url} holds no objects; correct the URL, or upload the images first")
    return found


def _matching(pattern: str) -> list[str]:
    if not any(c in pattern for c in _WILD):
        return [pattern]
    fixed = pattern[: min(pattern.find(c) % (len(pattern) + 1) for c in _WILD)].rpartition("/")[0]
    depth = pattern.count("/")
    names = (entry.url for entry in below(fixed))
    found = [name for name in names if name.count("/") == depth and fnmatch.fnmatchcase(name, pattern)]
    if not found:
        raise UserError(f"no object is called {pattern}; correct the pattern")
    return found
