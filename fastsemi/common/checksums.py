"""Checksums of files, written beside them and verified before anything is believed.

SHA-256; `sha256sum --check` reads the same lists.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from fastsemi.common.files import replacing

LIST = "SHA256SUMS"


def checksum(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_checksums(folder: Path) -> None:
    """Write the list of all files of a folder."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name != LIST)
    (folder / LIST).write_text("".join(f"{checksum(folder / name)}  {name}\n" for name in names))


def add_checksum(folder: Path, name: str) -> None:
    """List one more file of a folder whose other files are not looked at again."""
    listed = _read(folder)
    listed[name] = checksum(folder / name)
    with replacing(folder / LIST) as file:
        file.write("".join(f"{digest}  {name}\n" for name, digest in listed.items()))


def is_listed(folder: Path, name: str) -> bool:
    """Whether a file is on the list of a folder."""
    try:
        return name in _read(folder)
    except (OSError, ValueError):
        return False


def _read(folder: Path) -> dict[str, str]:
    """The checksums of a folder's list by name."""
    lines = (folder / LIST).read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}


def damage(folder: Path, names: Iterable[str] = ()) -> str | None:
    """What is wrong with the files of a folder, in a few words; None where all are as they were written.

    Args:
        folder: Holds a list that `write_checksums` made.
        names: Files that must be on the list.
    """
    try:
        listed = _read(folder)
    except (OSError, ValueError):
        return f"{LIST} is missing or damaged"
    if not listed:
        return f"{LIST} is empty"
    for name in (*listed, *names):
        path = folder / name
        if name not in listed:
            return f"{name} is not in {LIST}"
        if not path.is_file():
            return f"{name} is missing"
        try:
            found = checksum(path)
        except OSError as error:
            return f"{name} cannot be read: {error.strerror or error}"
        if found != listed[name]:
            return f"{name} is not what was written"
    return None
