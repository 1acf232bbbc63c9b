"""Images in tar shards of WebDataset's layout: members of one sample share their name up to the first dot."""

from __future__ import annotations

import json
import os
import tarfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from fastsemi.common.errors import UserError
from fastsemi.loaders.index.archive_index import Found, build_archive_index, too_large
from fastsemi.loaders.index.formats import FURTHER, HIDDEN, extension, is_hidden, is_image_name
from fastsemi.loaders.index.header import Read, stored_size
from fastsemi.loaders.index.opened import exists, open_bytes, read_at
from fastsemi.loaders.sources.archive import ArchiveSource

_LONGEST = 30  # digits of a class number; Python reads none of 5,000
_LABEL_KEYS = ("cls", "label", "class", "target")  # of a sample's .json, the first that is there


class TarSource(ArchiveSource):
    """Images of uncompressed tar shards, read at random without unpacking.

    A sample's class is its member `.cls` (a number or a name), else the field cls, label, class or target of
    its member `.json`. A file `classes.txt` beside the first shard names the classes, one a line, in order.

    Names with several dots: an image `22.05.jpg` has the class of `22.05.cls`, else that of `22.cls`, its
    sample. Beside an image `22.jpg` it is not one of its own, unless it has a class of its own. What is left
    out is counted. A class that stands apart from its image counts for all images of its name in the shard.
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
        names = os.path.join(os.path.dirname(files[0]), "classes.txt")
        # the names belong to the index: listed with the shards, a change to them makes it anew
        listed = [*files, names] if has_classes and exists(names) else list(files)
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
        return Found(classes=_class_names(path))
    try:
        with open_bytes(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            return _members(path, tar, partial(read_at, file), max_pixels, has_classes)
    except (tarfile.TarError, ArithmeticError, MemoryError, RecursionError, ValueError) as error:
        # sizes that none has, headers of headers without end
        raise UserError(
            f"{path} is no complete, uncompressed tar ({error}); decompress it (gunzip), or write it again"
        ) from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}; make it readable") from error


def _class_names(path: str) -> tuple[str, ...]:
    try:
        with open_bytes(path) as file:
            lines = file.read().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text in UTF-8 ({error}); write it again as UTF-8") from None
    return tuple(line.strip() for line in lines if line.strip())


@dataclass
class _Image:
    name: str
    stem: str  # the name up to the last dot
    offset: int
    length: int


@dataclass
class _Sample:
    """Members in a row that share their name up to the first dot."""

    key: str
    images: list[_Image] = field(default_factory=list)
    labels: dict[tuple[str, str], int | str] = field(default_factory=dict)  # by stem, and cls or json


def _members(path: str, tar: tarfile.TarFile, read: Read, max_pixels: int, has_classes: bool) -> Found:
    skipped: Counter[str] = Counter()
    samples = _samples(path, tar, read, has_classes, skipped)
    elsewhere = _labels(samples)
    plain = {sample.key for sample in samples for image in sample.images if image.stem == sample.key}
    found = Found(skipped=skipped)
    for sample in samples:
        first = True
        for image in sample.images:
            is_plain = image.stem == sample.key
            own = _label(path, image, [image.stem], sample, elsewhere)
            # beside x.jpg an x.seg.png is no image of its own, unless it has a class of its own
            if (is_plain and not first) or (not is_plain and sample.key in plain and own is None):
                skipped[FURTHER] += 1
                continue
            first = first and not is_plain
            found.names.append(image.name)
            found.offset.append(image.offset)
            found.length.append(image.length)
            found.sizes.append(stored_size(read, image.offset, image.length, max_pixels))
            found.labels.append(_label(path, image, [image.stem, sample.key], sample, elsewhere))
    return found


def _samples(
    path: str, tar: tarfile.TarFile, read: Read, has_classes: bool, skipped: Counter[str]
) -> list[_Sample]:
    samples: list[_Sample] = []
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # tarfile would remember every member
        if not member.isreg():
            continue
        folder, base = os.path.split(member.name)
        if any(is_hidden(part) and part not in (".", "..") for part in member.name.split("/")):
            skipped[HIDDEN] += 1
            continue
        key, (stem, kind) = os.path.join(folder, base.partition(".")[0]), os.path.splitext(member.name)
        if not samples or samples[-1].key != key:
            samples.append(_Sample(key))
        kind = kind.lower()
        if member.issparse() and (is_image_name(base) or kind in (".cls", ".json")):
            raise UserError(
                f"{member.name} in {path} is stored without its zeros (tar --sparse), so that it cannot be "
                "read in one piece; write the shard again without --sparse"
            )
        if is_image_name(base):
            samples[-1].images.append(_Image(member.name, stem, member.offset_data, member.size))
        elif kind not in (".cls", ".json"):
            skipped[extension(base)] += 1
        elif has_classes:
            content = read(member.offset_data, member.size)
            of = f"{member.name} in {path}"
            label = _parse(content, of) if kind == ".cls" else _from_json(content)
            if label is not None and samples[-1].labels.setdefault((stem, kind), label) != label:
                raise _several(path, stem, {samples[-1].labels[stem, kind], label})
    return samples


def _labels(samples: list[_Sample]) -> dict[tuple[str, str], set[int | str]]:
    """All classes of a shard: those of members that do not stand beside their image."""
    found: dict[tuple[str, str], set[int | str]] = defaultdict(set)
    for sample in samples:
        for name, label in sample.labels.items():
            found[name].add(label)
    return found


def _label(
    path: str,
    image: _Image,
    stems: list[str],
    sample: _Sample,
    elsewhere: dict[tuple[str, str], set[int | str]],
) -> int | str | None:
    names = [(stem, kind) for stem in stems for kind in (".cls", ".json")]
    for name in names:
        if name in sample.labels:
            return sample.labels[name]
    for name in names:
        labels = elsewhere.get(name, set())
        if len(labels) > 1:
            raise _several(path, image.name, labels)
        if labels:
            return next(iter(labels))
    return None


def _several(path: str, image: str, labels: set[int | str]) -> UserError:
    named = ", ".join(sorted(map(str, labels)))
    return UserError(
        f"image {image} in {path} has several classes ({named}); put each image beside its class, or give "
        "every sample a name of its own"
    )


def _parse(data: bytes, of: str) -> int | str | None:
    text = data.decode("utf-8", "replace").strip()
    if not (text.isascii() and text.isdigit()):
        return text or None
    if len(number := text.lstrip("0")) > _LONGEST:
        raise too_large(number, of)
    return int(number or "0")


def _from_json(data: bytes) -> int | str | None:
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict):
        return None
    value = next((fields[key] for key in _LABEL_KEYS if key in fields), None)
    return value if isinstance(value, int | str) and not isinstance(value, bool) else None
