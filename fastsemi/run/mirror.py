"""A copy of the run directory in a bucket, from which a run goes on where its disk is gone.

    <url>/files/<SHA-256>/<path>    what was in the directory, by content: nothing is written over
    <url>/manifest.json             which of them are the newest whole state; written last

What the manifest does not name any more is removed. The directory and the manifest say whose copy it is, so
that neither another run nor another directory that went on with the same one is written over.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from fastsemi.common.checksums import checksum
from fastsemi.common.errors import UserError
from fastsemi.common.files import replacing
from fastsemi.common.object_store import MissingError, below, delete, download, put
from fastsemi.run.folder import RunFolder

_SMALL = 2**20  # bytes that are read at once

_log = logging.getLogger(__name__)


def copy(url: str, folder: RunFolder) -> None:
    """Copy a run directory as it is now to a bucket, and wait for it; a failure is a warning."""
    mirror = Mirror(url, folder)
    mirror.update()
    mirror.close()


class Mirror:
    """Copies a run directory to a bucket, in a thread that never stops the run; close it at the end.

    Args:
        url: What the names of all objects begin with.
        folder: The run directory.
    """

    def __init__(self, url: str, folder: RunFolder):
        self._url, self._folder = url, folder
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="fastsemi-mirror")
        self._waiting: Future[None] | None = None
        self._stored: set[str] | None = None  # URLs of the files in the bucket

    def fetch(self) -> int:
        """Fill a directory without checkpoints with the newest state of the bucket; how many files came.

        Raises:
            UserError: The bucket cannot be read or written, holds another run or a state of this one that
                another directory has reached, a file is not what was written, or has no room on the disk.
        """
        self._require_writable()
        try:
            there = self._manifest()
            if self._folder.checkpoints.exists():
                self._require_own(there)
                return 0
            return self._fetch(there) if there else 0
        except OSError as error:
            raise UserError(
                f"the copy of the run in {self._url} cannot be written to {self._folder.path}: "
                f"{error.strerror or error}; free the disk, or give another output"
            ) from error

    def _require_writable(self) -> None:
        put(self._at("writable"), io.BytesIO())
        with suppress(UserError):  # who may not delete keeps an empty object
            delete([self._at("writable")])

    def _require_own(self, there: dict[str, Any] | None) -> None:
        """Refuse a copy that this directory neither wrote nor was filled from."""
        here, path = _read(self._folder.mirrored), self._folder.path
        if there and (here is None or here["run"] != there["run"]):
            raise UserError(
                f"{self._url} holds a copy of another run than {path}; name another train.mirror, or an "
                "empty output to go on with that run"
            )
        if there and here and there["by"] not in (here["by"], here["after"]):
            raise UserError(
                f"{self._url} holds a copy of this run that another directory than {path} has written since; "
                "give an empty output to go on from there, or name another train.mirror"
            )

    def _fetch(self, there: dict[str, Any]) -> int:
        fresh = self._folder.fetched
        shutil.rmtree(fresh, ignore_errors=True)
        for name, digest in there["files"].items():
            to = fresh / name
            to.parent.mkdir(parents=True, exist_ok=True)
            download(self._object(digest, name), to)
            if checksum(to) != digest:
                raise UserError(
                    f"{self._object(digest, name)} is not what was uploaded; name another train.mirror"
                )
        _write(fresh / self._folder.mirrored.name, _owner(there["run"], there["by"]))
        # whose presence says that all else is there
        for path in sorted(fresh.iterdir(), key=lambda path: path.name == self._folder.checkpoints.name):
            old = self._folder.path / path.name
            shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
            path.rename(old)
        fresh.rmdir()
        return len(there["files"])

    def update(self) -> None:
        """Copy what is there now, in the background; calls that come before it has begun are one."""
        if self._waiting is None or self._waiting.running() or self._waiting.done():
            self._waiting = self._thread.submit(self._update)

    def close(self) -> None:
        """Wait until what was asked for is copied."""
        self._thread.shutdown(wait=True)

    def _update(self) -> None:
        try:
            self._copy()
        except FileNotFoundError:  # removed meanwhile for something newer, of which another update follows
            return
        except (UserError, OSError) as error:
            _log.warning("the run goes on without its copy: %s", error)

    def _copy(self) -> None:
        if not self._folder.checkpoints.exists():
            return
        there = self._manifest()
        self._require_own(there)
        owner = _read(self._folder.mirrored)
        if owner is None:
            _write(self._folder.mirrored, owner := _owner(uuid.uuid4().hex))
        stored = self._stored = self._listed() if self._stored is None else self._stored
        files: dict[str, str] = {}
        for name in _names(self._folder):
            with (self._folder.path / name).open("rb") as file:
                digest, content = _content(file)
                if self._object(digest, name) not in stored:
                    put(self._object(digest, name), content)
                    stored.add(self._object(digest, name))
            files[name] = digest
        if there is None or there["files"] != files:  # else it stays whose it was
            new = {"run": owner["run"], "by": owner["by"], "files": files}
            put(self._at("manifest.json"), io.BytesIO(json.dumps(new).encode()))
        unnamed = stored - {self._object(digest, name) for name, digest in files.items()}
        try:
            delete(sorted(unnamed))
            stored -= unnamed
        except UserError as error:
            _log.warning("what the copy of the run no longer needs stays: %s", error)

    def _listed(self) -> set[str]:
        """What is stored, also by copying that was cut before its manifest."""
        return {entry.url for entry in below(self._at("files"))}

    def _manifest(self) -> dict[str, Any] | None:
        to = self._folder.path / f".{self._folder.mirrored.name}.tmp"
        try:
            download(self._at("manifest.json"), to)
        except MissingError:
            return None
        found = _read(to)
        to.unlink()
        if found is None or not _is_sound(found.get("files")):
            raise UserError(f"{self._at('manifest.json')} is no copy of a run; name another train.mirror")
        return found

    def _object(self, digest: str, name: str) -> str:
        return self._at(f"files/{digest}/{name}")

    def _at(self, name: str) -> str:
        return f"{self._url}/{name}"


def _names(folder: RunFolder) -> list[str]:
    """The files of a run that its copy holds; of unfinished checkpoints the newest of each stage."""
    newest: dict[str, str] = {}
    for path in sorted(folder.checkpoints.glob("*-*")):
        if path.is_dir() and re.fullmatch(r"\w+-\d{9}", path.name):
            newest[path.name.rpartition("-")[0]] = path.name
    found = []
    for top, folders, files in os.walk(folder.path):
        inside = Path(top).relative_to(folder.path)
        if Path(top) == folder.checkpoints:
            folders[:] = newest.values()
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [str(inside / name) for name in files if not name.startswith(".") or name == ".metadata"]
    return sorted(name for name in found if name != folder.mirrored.name)


def _content(file: BinaryIO) -> tuple[str, BinaryIO | Iterator[bytes]]:
    """SHA-256 of an open file, and the same bytes: what is appended meanwhile belongs to the next copy."""
    size = os.fstat(file.fileno()).st_size
    if size <= _SMALL:
        content = file.read(size)
        return hashlib.sha256(content).hexdigest(), io.BytesIO(content)
    digest = hashlib.sha256()
    for piece in _pieces(file, size):
        digest.update(piece)
    return digest.hexdigest(), _pieces(file, size)


def _pieces(file: BinaryIO, size: int) -> Iterator[bytes]:
    for at in range(0, size, _SMALL):
        yield os.pread(file.fileno(), min(_SMALL, size - at), at)


def _owner(run: str, after: str | None = None) -> dict[str, Any]:
    """What a directory keeps: the run, a name of its own, and which directory's copy it was filled from."""
    return {"run": run, "by": uuid.uuid4().hex, "after": after}


def _is_sound(files: object) -> bool:
    """Whether a manifest names files inside of the directory."""
    return isinstance(files, dict) and all(
        isinstance(digest, str) and name and not name.startswith("/") and ".." not in name.split("/")
        for name, digest in files.items()
    )


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if isinstance(found["run"], str) and isinstance(found["by"], str) else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _write(path: Path, what: dict[str, Any]) -> None:
    with replacing(path) as file:
        json.dump(what, file)
