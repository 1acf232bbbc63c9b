"""Images in tar shards of WebDataset's layout: members of one sample share their name up to the first dot."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from fastsemi.common.errors import UserError
from fastsemi.loaders.index.archive_index import Found, build_archive_index
from fastsemi.loaders.index.header import stored_size
from fastsemi.loaders.index.scan import IMAGE_EXTENSIONS
from fastsemi.loaders.sources.archive import ArchiveSource

_LABEL_KEYS = ("cls", "label", "class", "target")  # of a sample's .json, the first that is there


class TarSource(ArchiveSource):
    """Images of uncompressed tar shards, read at random without unpacking.

    A sample's class is its member `.cls` (a number or a name), else the field cls, label, class or target of
    its member `.json`. A file `classes.txt` beside the first shard names the classes, one a line, in order.
    """

    @classmethod
    def open(
        cls,
        files: Sequence[str],
        *,
        has_classes: bool,
        max_pixels: int,
        cache_dir: Path | None = None,
        threads: int = 8,
        refresh: bool = False,
    ) -> TarSource:
        """Index the shards, or reopen their index.

        Raises:
            UserError: A shard that is no plain tar, or what `build_archive_index` raises.
        """
        names = Path(files[0]).with_name("classes.txt")
        # the names belong to the index: listed with the shards, a change to them makes it anew
        listed = [*files, str(names)] if has_classes and names.is_file() else list(files)
        index = build_archive_index(
            "tar",
            listed,
            partial(_scan, max_pixels=max_pixels, has_classes=has_classes),
            has_classes=has_classes,
            max_pixels=max_pixels,
            cache_dir=cache_dir,
            threads=threads,
            refresh=refresh,
        )
        return cls(index)


def _scan(path: str, max_pixels: int, has_classes: bool) -> Found:
    if path.endswith("classes.txt"):
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        return Found(classes=tuple(line.strip() for line in lines if line.strip()))
    try:
        with open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            return _members(tar, file.fileno(), max_pixels, has_classes)
    except tarfile.TarError as error:
        raise UserError(
            f"{path} is no complete, uncompressed tar ({error}); decompress it (gunzip), or write it again"
        ) from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}; make it readable") from error


def _members(tar: tarfile.TarFile, fd: int, max_pixels: int, has_classes: bool) -> Found:
    found, key, has_image = Found(), None, False
    label: int | str | None = None
    label_of_json: int | str | None = None
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # tarfile would remember every member
        if not member.isreg():
            continue
        folder, base = os.path.split(member.name)
        stem, _, extension = base.partition(".")
        extension = extension.lower()
        if os.path.join(folder, stem) != key:
            if has_image:
                found.labels.append(label if label is not None else label_of_json)
            key, has_image, label, label_of_json = os.path.join(folder, stem), False, None, None
        if f".{extension}" in IMAGE_EXTENSIONS and not has_image:
            has_image = True
            found.names.append(member.name)
            found.offset.append(member.offset_data)
            found.length.append(member.size)
            found.sizes.append(stored_size(fd, member.offset_data, member.size, max_pixels))
        elif has_classes and extension == "cls":
            label = _parse(os.pread(fd, member.size, member.offset_data))
        elif has_classes and extension == "json":
            label_of_json = _from_json(os.pread(fd, member.size, member.offset_data))
    if has_image:
        found.labels.append(label if label is not None else label_of_json)
    return found


def _parse(data: bytes) -> int | str | None:
    text = data.decode("utf-8", "replace").strip()
    return int(text) if text.isascii() and text.isdigit() else text or None


def _from_json(data: bytes) -> int | str | None:
    try:
        fields = json.loads(data)
    except ValueError:
        return None
    if not isinstance(fields, dict):
        return None
    value = next((fields[key] for key in _LABEL_KEYS if key in fields), None)
    return value if isinstance(value, int | str) and not isinstance(value, bool) else None
