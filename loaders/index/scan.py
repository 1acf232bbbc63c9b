"""Lists a tree of images on disk: which files there are, in torchvision's order."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastsemi.common.errors import UserError
from fastsemi.loaders.index.formats import (
    HIDDEN,
    OUTSIDE,
    extension,
    is_hidden,
    is_image_name,
    say_no_images,
)

_CLOCK_TICK_NS = 20_000_000  # file systems stamp a change with a clock that advances every 1 to 10 ms


@dataclass(frozen=True)
class Tree:
    """What a folder holds. All paths are relative to it."""

    classes: tuple[str, ...]  # sorted; empty for a folder without classes
    folders: list[str]  # every folder that was listed, "" for the root
    folder_mtimes: list[int]  # nanoseconds, of each folder, taken before it was listed
    files: list[str]  # images in torchvision's order
    labels: NDArray[np.int32]  # [N] class of each image, -1 without classes
    skipped: dict[str, int]  # files that are no images, by extension, and what else is left out


@dataclass(frozen=True)
class _Folder:
    path: str
    mtime: int
    subfolders: list[str]
    images: list[str]
    skipped: Counter[str]


def folder_mtime(path: str) -> int:
    """Time of the last change of the list of names in a folder, in nanoseconds.

    Waits (20 ms at most) until the file system's clock has left the tick of that change, so that any
    change after this call gives another time.

    Raises:
        OSError: The folder cannot be looked at.
    """
    mtime = os.stat(path).st_mtime_ns
    while 0 <= time.time_ns() - mtime < _CLOCK_TICK_NS:
        time.sleep(_CLOCK_TICK_NS / 4e9)
        mtime = os.stat(path).st_mtime_ns
    return mtime


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one; a link that leads in a circle is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _list(root: str, relative: str) -> _Folder:
    path = os.path.join(root, relative)
    try:
        mtime = folder_mtime(path)
        with os.scandir(path) as entries:
            found = [(entry.name, is_folder(entry)) for entry in entries]
    except OSError as error:
        raise UserError(
            f"cannot list folder {path}: {error.strerror}; make it readable or remove it"
        ) from error
    seen = [(name, is_folder) for name, is_folder in found if not is_hidden(name)]
    images, skipped = _images([name for name, is_folder in seen if not is_folder])
    if len(seen) < len(found):
        skipped[HIDDEN] = len(found) - len(seen)
    subfolders = sorted(name for name, is_folder in seen if is_folder)
    return _Folder(relative, mtime, subfolders, images, skipped)


def _images(files: Sequence[str]) -> tuple[list[str], Counter[str]]:
    """The images of a folder, sorted, and its other files by extension."""
    images = sorted(filter(is_image_name, files))
    others = set(files).difference(images) if len(images) < len(files) else ()
    return images, Counter(map(extension, others))


def _walk(root: str, relative: str, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[_Folder]:
    """All folders from `root/relative` down, links followed, in no order."""
    path = os.path.join(root, relative)
    folder = _list(root, relative)
    status = os.stat(path)
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        raise UserError(f"folder {path} is a link to a folder that contains it; remove the link")
    yield folder
    for name in folder.subfolders:
        yield from _walk(root, os.path.join(relative, name), above | {identity})


def require_folder(root: str) -> None:
    """Raise `UserError` where `root` is no folder."""
    if not os.path.isdir(root):
        found = "is not a folder" if os.path.exists(root) else "does not exist"
        raise UserError(f"image folder {root} {found}; correct the path, or make the data first")


def scan(root: str, has_classes: bool) -> Tree:
    """List all images below a folder in the order of torchvision's `ImageFolder`.

    That order is: class folders sorted by name; inside a class all folders, links followed, sorted by path;
    inside a folder the names sorted; the extension is compared without case. Without classes, `root` itself
    is walked in the same way. Unlike torchvision's, the order has no hidden files and folders and no
    `__MACOSX`, and it has images of more formats (`IMAGE_EXTENSIONS`).

    Raises:
        UserError: No such folder, nothing in it, a class folder without images, a link to a parent folder.
    """
    require_folder(root)
    if not has_classes:
        return _gather((), [sorted(_walk(root, ""), key=lambda folder: folder.path)], root, None)
    top = _list(root, "")
    _require_classes(root, top.subfolders, top)
    top_status = os.stat(root)
    above = frozenset([(top_status.st_dev, top_status.st_ino)])
    by_class = [sorted(_walk(root, name, above), key=lambda folder: folder.path) for name in top.subfolders]
    return _gather(tuple(top.subfolders), by_class, root, top)


def tree_of(names: Iterable[str], root: str, has_classes: bool) -> Tree:
    """The tree of files that are listed already, as `scan` would list it; times are 0.

    Args:
        names: Of all files, relative to `root`.
        root: For messages.
        has_classes: As of `scan`.

    Raises:
        UserError: As `scan`.
    """
    inside: dict[str, list[str]] = {"": []}
    hidden = set()
    for name in names:
        parts = name.split("/")
        if (at := next((i for i, part in enumerate(parts) if is_hidden(part)), None)) is not None:
            hidden.add("/".join(parts[: at + 1]))
        else:
            inside.setdefault("/".join(parts[:-1]), []).append(parts[-1])
    folders = {path: _folder(path, files) for path, files in sorted(inside.items())}
    folders[""].skipped.update({HIDDEN: len(hidden)} if hidden else {})
    if not has_classes:
        return _gather((), [list(folders.values())], root, None)
    top = folders.pop("")
    classes = sorted({path.partition("/")[0] for path in folders})
    _require_classes(root, classes, top)
    groups = [[f for path, f in folders.items() if path.partition("/")[0] == name] for name in classes]
    return _gather(tuple(classes), groups, root, top)


def _folder(path: str, files: Sequence[str]) -> _Folder:
    return _Folder(path, 0, [], *_images(files))


def _require_classes(root: str, classes: Sequence[str], top: _Folder) -> None:
    if classes:
        return
    if top.images:
        raise UserError(
            f"folder {root} holds images but no class folders; put those of each class in a folder of "
            "their own, name a table of paths and labels as data.train or data.labels.file, or let "
            "`fastsemi init FOLDER --labels TABLE` do it (data.unlabeled is for images without class)"
        )
    raise UserError(f"folder {root} holds no class folders; expected {root}/<class>/<image>")


def _gather(classes: tuple[str, ...], groups: list[list[_Folder]], root: str, top: _Folder | None) -> Tree:
    folders = ([top] if top else []) + [folder for group in groups for folder in group]
    files: list[str] = []
    counts = []
    for label, group in enumerate(groups):
        before = len(files)
        for folder in group:
            inside = os.path.join(folder.path, "")
            files += [inside + name for name in folder.images]
        counts.append(len(files) - before)
        if counts[-1] == 0 and classes:
            raise UserError(
                f"class folder {os.path.join(root, classes[label])} {say_no_images(_skipped(group))}; "
                "add some or remove the folder"
            )
    if not files:
        raise UserError(f"folder {root} {say_no_images(_skipped(folders))}; correct the path")
    skipped = _skipped(folders)
    if top and top.images:
        skipped[OUTSIDE] = len(top.images)
    labels = np.repeat(np.arange(len(groups), dtype=np.int32), counts) if classes else np.full(len(files), -1)
    return Tree(
        classes,
        [folder.path for folder in folders],
        [folder.mtime for folder in folders],
        files,
        labels.astype(np.int32),
        skipped,
    )


def _skipped(folders: Sequence[_Folder]) -> dict[str, int]:
    return dict(sum((folder.skipped for folder in folders), Counter()))
