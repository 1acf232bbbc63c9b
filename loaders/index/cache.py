"""Where indexes are kept: arrays in a folder of their own, built by one process and memory-mapped by all.

    <cache>/<key>/lock
    <cache>/<key>/current.json, generation-<n>/*.npy    a folder's index: the newest generation is named
    <cache>/<key>/<stamp>/meta.json, *.npy              an archive's: named by the state of its files

Either way readers see a whole index or none, and an index that is replaced stays valid for who has mapped it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastsemi.common.checksums import damage, write_checksums
from fastsemi.common.errors import UserError

T = TypeVar("T")

Arrays = dict[str, NDArray[Any]]

_DAMAGED = (OSError, ValueError, KeyError, TypeError, EOFError)


@dataclass(frozen=True)
class Cached:
    """The files of one index on disk."""

    meta: dict[str, Any]
    arrays: Arrays


def default_cache_dir() -> Path:
    """`$FASTSEMI_CACHE/index`, or `~/.cache/fastsemi/index` where the variable is not set."""
    base = os.environ.get("FASTSEMI_CACHE")
    return (Path(base).expanduser() if base else Path.home() / ".cache" / "fastsemi") / "index"


def cache_folder(key: Sequence[str], cache_dir: Path | None) -> Path:
    """The folder of the index of `key`: all that its content depends on but the files themselves."""
    digest = hashlib.sha256(os.fsencode("\0".join(key))).hexdigest()[:24]
    return (cache_dir or default_cache_dir()) / digest


def open_or_build(folder: Path, of: str, known: Callable[[], T | None], build: Callable[[], T]) -> T:
    """What `known` gives, else what `build` makes; processes that start together build once.

    Args:
        folder: Of the index; made where it is missing.
        of: What is indexed, for messages.
        known: Opens the index; None where there is none, or one that is out of date.
        build: Makes and writes it. Other processes wait for it and then ask `known` again.

    Raises:
        UserError: The index cannot be written; or what `build` raises.
    """
    found = known()
    if found is not None:
        return found
    try:
        with _locked(folder):
            found = known()  # another process may have built it while this one waited
            return build() if found is None else found
    except OSError as error:
        raise UserError(
            f"cannot write the index of {of} to {folder}: {error.strerror or error}; "
            "set FASTSEMI_CACHE to a folder that can be written"
        ) from error


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One builder at a time; the system frees the lock of a process that dies."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        with contextlib.suppress(OSError):  # a file system without locks: several build, the last one stays
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def open_generation(folder: Path, names: Iterable[str], version: int) -> Cached | None:
    """The generation that `current.json` names; None where there is none or it is damaged or too old."""
    try:
        meta = json.loads((folder / "current.json").read_text(encoding="utf-8"))
        if meta["format"] != version or meta.pop("checksum") != _digest(meta):
            return None
        return Cached(meta, _load(folder / meta["folder"], names))
    except _DAMAGED:
        return None


def write_generation(folder: Path, meta: dict[str, Any], arrays: Arrays) -> None:
    """Write a new generation, then let `current.json` name it: readers see the old one or the new one."""
    place = folder / f"generation-{uuid.uuid4().hex}"
    _save(place, arrays)
    pointer = place / "current.json"
    meta = {**meta, "folder": place.name}
    pointer.write_text(json.dumps({**meta, "checksum": _digest(meta)}), encoding="utf-8")
    os.replace(pointer, folder / "current.json")
    for other in folder.glob("generation-*"):
        if other != place:  # replaced, or left by a build that was killed; open memory maps stay valid
            shutil.rmtree(other, ignore_errors=True)


def open_stamped(folder: Path, stamp: str, names: Iterable[str]) -> Cached | None:
    """The index of a stamp, with the arrays that its `meta["extra"]` lists; None as `open_generation`."""
    try:
        meta = json.loads((folder / stamp / "meta.json").read_text(encoding="utf-8"))
        return Cached(meta, _load(folder / stamp, (*names, *meta["extra"])))
    except _DAMAGED:
        return None


def write_stamped(folder: Path, stamp: str, meta: dict[str, Any], arrays: Arrays) -> None:
    """Write beside, then rename: readers see a whole index or none. Those of other stamps are removed."""
    fresh = folder / f"new-{uuid.uuid4().hex}"
    _save(fresh, arrays)
    (fresh / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    write_checksums(fresh)
    for old in folder.iterdir():
        if old != fresh and old.is_dir():
            shutil.rmtree(old, ignore_errors=True)  # open memory maps stay valid
    os.rename(fresh, folder / stamp)


def read_back(found: Cached | None) -> Cached:
    """An index that was just written.

    Raises:
        OSError: It is not there.
    """
    if found is None:
        raise OSError("the index just written cannot be read back")
    return found


def _digest(meta: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def _save(place: Path, arrays: Arrays) -> None:
    place.mkdir()
    for name, array in arrays.items():
        np.save(place / f"{name}.npy", array)
    write_checksums(place)


def _load(place: Path, names: Iterable[str]) -> Arrays:
    names = list(names)
    if reason := damage(place, [f"{name}.npy" for name in names]):
        raise ValueError(reason)
    # asarray: still mapped, without the cost of np.memmap's Python hooks on every access
    return {name: np.asarray(np.load(place / f"{name}.npy", mmap_mode="r")) for name in names}
