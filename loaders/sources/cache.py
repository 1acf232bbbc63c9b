"""Bytes that came from far away, kept on the local disk up to a bound that all processes of a machine share.

    <folder>/bytes      how many are kept, and the lock of who changes that
    <folder>/users      locked by everyone who uses the folder: who is alone counts anew
    <folder>/ab/cdef... the bytes of one range and their checksum, written beside and then linked

What a run has put in or used stays until it ends: each image comes once an epoch, so that the one used
longest ago is the next to be needed, and replacing it would lose what is about to be read. What nobody has
used since this process began is removed for it, the oldest first.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from fastsemi.common.errors import UserError

_BLOCK = 4096  # bytes in which disks count
_CHECK = 4  # bytes of a checksum

_BEGAN = time.time()  # of the process: what any of its sources has used since then stays

_log = logging.getLogger(__name__)


def on_disk(length: int) -> int:
    """Bytes of disk that a range takes."""
    return -(-(length + _CHECK) // _BLOCK) * _BLOCK


class Cache:
    """Ranges of objects in a folder, used by any number of threads and processes.

    Args:
        folder: Of the cache; made where it is missing.
        bound: Bytes of disk at most.

    Raises:
        UserError: The folder cannot be written.
    """

    def __init__(self, folder: Path, bound: int):
        self._folder, self._bound = folder, bound
        self._since = _BEGAN
        self._full = False
        self._stale: list[tuple[float, int, Path]] | None = None  # the oldest last
        self._lock = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._count, self._users = (_opened(folder / name) for name in ("bytes", "users"))
            self._join()
        except OSError as error:
            raise UserError(
                f"loader.cache_dir {folder} cannot be written: {error.strerror or error}; name another "
                "folder, or set loader.cache_gb to 0"
            ) from error

    def get(self, key: str, length: int) -> bytes | None:
        """The bytes of a range; None where they are not here."""
        path = self._path(key)
        try:
            with open(path, "rb", buffering=0) as file:
                data = file.read()
                used = os.fstat(file.fileno()).st_mtime
            if used < self._since:
                os.utime(path)
        except OSError:
            return None
        content = data[:-_CHECK]
        if len(content) == length and zlib.crc32(content).to_bytes(_CHECK) == data[-_CHECK:]:
            return content
        with suppress(OSError), self._locked():  # torn by a power cut
            path.unlink()
            self._write(self._read() - on_disk(max(0, len(content))))
        return None

    def put(self, key: str, data: bytes) -> None:
        """Keep the bytes of a range if there is room; a disk that is full or fails is said once."""
        path = self._path(key)
        if self._full or path.exists() or not self._reserve(on_disk(len(data))):
            return
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            path.parent.mkdir(exist_ok=True)
            with open(temporary, "wb") as file:  # buffered: a write is whole or fails
                file.write(data + zlib.crc32(data).to_bytes(_CHECK))
            os.link(temporary, path)
        except OSError as error:
            with self._locked():
                self._write(self._read() - on_disk(len(data)))
            if not isinstance(error, FileExistsError):  # which another process has written meanwhile
                self._full = True
                _log.warning("%s: %s; nothing more is kept there", self._folder, error.strerror or error)
        finally:
            with suppress(OSError):
                temporary.unlink()

    def _path(self, key: str) -> Path:
        digest = hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()[:40]
        return self._folder / digest[:2] / digest[2:]

    def _join(self) -> None:
        """Count what is kept where nobody else uses the folder: a process that was killed has not."""
        with suppress(BlockingIOError):
            fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with self._locked():
                for left in self._folder.glob("*/.*"):
                    left.unlink(missing_ok=True)
                used = sum(size for _, size, _ in self._entries())
                self._write(used)
                if used > self._bound:
                    self._make_room(0)
        fcntl.flock(self._users, fcntl.LOCK_SH)

    def _reserve(self, count: int) -> bool:
        if count > self._bound:  # for which nothing need go
            return False
        with self._locked():
            if self._read() + count > self._bound and not self._make_room(count):
                self._full = count <= _BLOCK  # a smaller one may still fit
                return False
            self._write(self._read() + count)
            return True

    def _make_room(self, count: int) -> bool:
        """Remove what nobody uses, the oldest first, until `count` more bytes fit; within the lock."""
        if self._stale is None:
            found = (entry for entry in self._entries() if entry[0] < self._since)
            self._stale = sorted(found, key=lambda entry: entry[0], reverse=True)
        used = self._read()
        while self._stale and used + count > self._bound:
            _, size, path = self._stale.pop()
            with suppress(OSError):
                if path.stat().st_mtime < self._since:
                    path.unlink()
                    used -= size
        self._write(used)
        return used + count <= self._bound

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        """When each range was last used first, its bytes of disk, and its file."""
        for folder in self._folder.iterdir():
            if folder.is_dir():
                for entry in os.scandir(folder):
                    with suppress(OSError):  # another process removes it
                        status = entry.stat()
                        yield status.st_mtime, on_disk(status.st_size - _CHECK), Path(entry.path)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._lock:
            fcntl.flock(self._count, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._count, fcntl.LOCK_UN)

    def _read(self) -> int:
        return int.from_bytes(os.pread(self._count.fileno(), 8, 0))

    def _write(self, used: int) -> None:
        os.pwrite(self._count.fileno(), max(0, used).to_bytes(8), 0)


def _opened(path: Path) -> BinaryIO:
    path.touch()
    return open(path, "r+b", buffering=0)
