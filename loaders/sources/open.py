"""Which source a name in the configuration means: a folder, a table, or files that hold images."""

from __future__ import annotations

import glob
import itertools
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fastsemi.common.errors import UserError
from fastsemi.common.object_store import heads
from fastsemi.common.urls import absolute, is_url, join, place
from fastsemi.loaders.index.formats import say_skipped
from fastsemi.loaders.index.index import build_index
from fastsemi.loaders.index.merge import merge_indexes
from fastsemi.loaders.index.remote_index import build_remote_index
from fastsemi.loaders.index.scan import is_folder, require_folder
from fastsemi.loaders.index.settings import Exif
from fastsemi.loaders.index.table import TABLES, Part, has_columns, is_table_name
from fastsemi.loaders.index.table_index import build_table_index
from fastsemi.loaders.sources.archive import ArchiveSource
from fastsemi.loaders.sources.arrow import ArrowSource
from fastsemi.loaders.sources.beton import BetonSource
from fastsemi.loaders.sources.folder import FolderSource
from fastsemi.loaders.sources.parquet import ParquetSource
from fastsemi.loaders.sources.remote import DEFAULT, Remote, remote_files, remote_folder
from fastsemi.loaders.sources.tar import TarSource

IndexedSource = FolderSource | ArchiveSource

_log = logging.getLogger(__name__)

_ARCHIVES: dict[str, type[TarSource] | type[BetonSource] | type[ParquetSource] | type[ArrowSource]] = {
    ".tar": TarSource,
    ".beton": BetonSource,
    ".parquet": ParquetSource,
    ".arrow": ArrowSource,
}
_REMOTE = (".tar", ".parquet")  # which are read where they are in a store
ARCHIVES = tuple(_ARCHIVES)  # how the names of files end that hold many images
_KINDS = dict.fromkeys((*_ARCHIVES, *TABLES))
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def open_source(
    root: Path,
    what: str | Path,
    *,
    has_classes: bool,
    max_pixels: int,
    threads: int = 8,
    refresh: bool = False,
    exif: Exif = "ignore",
    part: Part | None = None,
    labels: Path | None = None,
    remote: Remote = DEFAULT,
) -> IndexedSource:
    """Open the images called `what`; the source's `index` says which they are.

    What lies beside the images and is none is told in one line, and how many lie on their side in another.

    Args:
        root: Folder that `what` is relative to.
        what: A folder of images; a table of their paths; a `.tar`, `.beton` or `.parquet` file; a folder
            that holds such files and no other folders; or a pattern of them: `*`, `?`, `{a,b}`, `{000..123}`.
            A folder, tar and Parquet files may be URLs.
        has_classes: Whether the images have classes.
        max_pixels: Larger images count as broken.
        threads: Threads that index.
        refresh: Index anew, whatever is known.
        exif: Whether images are turned by their EXIF orientation.
        part: What the images are for: the rows of a table with a column `split`.
        labels: Table of labels of the images in a folder, which is then no folder of class folders.
        remote: How objects of a store are read, where `root` or `what` is a URL.

    Raises:
        UserError: Nothing there, files of several kinds, a `.beton` to be turned, or what the source raises.
    """
    options = {"has_classes": has_classes, "max_pixels": max_pixels, "threads": threads, "refresh": refresh}
    return _told(_open(root, what, exif, part, labels, remote, options), exif)


def open_unlabelled(
    whats: Sequence[str | Path],
    *,
    max_pixels: int,
    threads: int = 8,
    refresh: bool = False,
    exif: Exif = "ignore",
    remote: Remote = DEFAULT,
) -> IndexedSource:
    """Open images without classes, of one place or of several: all of them, in the order of the places.

    Args:
        whats: Each as for `open_source`, relative to the working directory; several are all files in folders
            (also those of tables), or all archives of one kind.
        max_pixels: As for `open_source`, as what follows.
        threads: Threads that index.
        refresh: Index anew.
        exif: Whether images are turned.
        remote: How objects of a store are read.

    Raises:
        UserError: As `open_source`; places of several kinds, or an image that is in two of them.
    """
    options = {"has_classes": False, "max_pixels": max_pixels, "threads": threads, "refresh": refresh}
    if len(whats) == 1:
        return _told(_open(Path(), whats[0], exif, "unlabeled", None, remote, options), exif)
    archives = [[] if is_table(Path(what)) else _files(Path(), str(what)) for what in whats]
    if all(archives):
        files = [absolute(file) for place in archives for file in place]
        if len(again := [file for file, n in Counter(files).items() if n > 1]):
            raise UserError(f"{again[0]} is named twice in data.unlabeled; name it once")
        return _told(_open_archives(files, ", ".join(map(str, whats)), exif, remote, options), exif)
    if any(map(is_url, whats)):
        raise UserError(
            f"data.unlabeled names several places ({', '.join(map(str, whats))}), one of them a folder of a "
            "store; name it alone, or give archives of one kind"
        )
    if any(archives):
        raise UserError(
            f"data.unlabeled names archives and folders ({', '.join(map(str, whats))}); give places of one "
            "kind, or pack or unpack some: fastsemi data beton"
        )
    parts = [_open(Path(), what, exif, "unlabeled", None, remote, options) for what in whats]
    return _told(FolderSource(merge_indexes([part.index for part in parts])), exif)


def _told(source: IndexedSource, exif: Exif) -> IndexedSource:
    """Turned if asked for; what was skipped is said, and how many images lie on their side."""
    index = source.index
    if skipped := say_skipped(index.skipped):
        _log.info("%s: %s", index.root, skipped)
    if index.lying and exif == "apply":
        _log.info("%s: %d of %d images are turned as EXIF says", index.root, index.lying, len(index))
    elif index.lying:
        text = "%s: %d of %d images lie on their side or mirrored, as EXIF says; data.exif apply turns them"
        _log.info(text, index.root, index.lying, len(index))
    return source.as_turned() if exif == "apply" else source


def _open(
    root: Path,
    what: str | Path,
    exif: Exif,
    part: Part | None,
    labels: Path | None,
    remote: Remote,
    options: dict[str, Any],
) -> IndexedSource:
    path = place(join(root, what))
    table = is_table(path)
    files = [] if table else _files(Path(root), str(what))
    if labels is not None and (table or files):
        raise UserError(
            f"table {labels} gives the images of a folder their labels, and {path} is no folder of images; "
            "give a list of names in its place, or data.labels.fraction 1.0 for all labels that are there"
        )
    if labels is not None and is_url(path):
        raise UserError(
            f"table {labels} gives images labels by their paths on the disk, and {path} is a URL; give class "
            "folders or archives with classes, or a list of names in its place"
        )
    if labels is not None:
        return FolderSource(build_table_index(labels, tree=path, part=part, **options))
    if table:
        return FolderSource(build_table_index(path, part=part, **options))
    if not files and is_url(path):
        entries, options = remote_folder(str(path)), {**options, "threads": remote.threads}
        return ArchiveSource(build_remote_index(str(path), entries, **options)).read_by(remote)
    if not files:
        return FolderSource(build_index(path, **options))
    return _open_archives(files, str(path), exif, remote, options)


def _open_archives(
    files: list[str], what: str, exif: Exif, remote: Remote, options: dict[str, Any]
) -> IndexedSource:
    kinds = {_suffix(file) for file in files}
    if len(kinds) > 1 or not kinds <= _ARCHIVES.keys():
        raise UserError(
            f"{what} means files of the kinds {', '.join(sorted(kinds))}; "
            f"give files of one kind of {', '.join(_ARCHIVES)}"
        )
    if kinds == {".beton"} and exif == "apply":
        raise UserError(
            f"{files[0]} does not say how its images lie, which data.exif apply asks for; give folders, tar "
            "shards or Parquet files, or set data.exif to ignore"
        )
    far = {is_url(file) for file in files}
    if len(far) > 1:
        raise UserError(f"{what} names files of the disk and of a store; name those of one, or copy some")
    source = _ARCHIVES[kinds.pop()].open(files, **options)
    return source.read_by(remote) if far.pop() else source


def is_table(path: Path) -> bool:
    """Whether a file is a table of images, and no Parquet file that holds them."""
    if not path.is_file() or not is_table_name(path):
        return False
    return path.suffix.lower() != ".parquet" or has_columns(path, labels=False)


def holds_archives(folder: Path) -> bool:
    """Whether a folder stands for the archives in it, and for no images beside them."""
    return bool(_files(Path(), str(folder)))


def require_images(root: Path, what: str | Path) -> None:
    """Refuse a name that means nothing, before anything is read.

    Args:
        root: Folder that `what` is relative to.
        what: As in `open_source`.

    Raises:
        UserError: Neither a folder nor a file that holds or names images.
    """
    path = place(join(root, what))
    if _is_text_table(path):
        return
    files = _files(Path(root), str(what))
    if is_url(path):
        heads(files[:1])  # of a folder there are some, or listing it had failed
    elif not files:
        require_folder(os.path.abspath(path))


EVALUATION_FOLDERS = ("val", "valid", "validation", "test")  # what they are called, the likeliest first


def require_evaluation(root: Path, what: str) -> None:
    """Refuse evaluation images that are not there, and say where others may be.

    Args:
        root: Folder that `what` is relative to.
        what: As in `open_source`.

    Raises:
        UserError: Neither a folder nor a file that holds images.
    """
    path = absolute(join(root, what))
    if is_url(path) or os.path.exists(path) or _files(Path(root), what):
        require_images(root, what)
        return
    there = [name for name in EVALUATION_FOLDERS if (Path(root) / name).is_dir()]
    cure = f"set data.val to {' or '.join(there)}, which is there" if there else "correct data.val"
    raise UserError(
        f"image folder {path} of evaluation images does not exist; {cure}, or set it to null and "
        "data.labels.validation to 0.2 to evaluate on a part of the labels"
    )


def _is_text_table(path: Path) -> bool:
    """Whether a file is a table that is no Parquet file, for which pyarrow would have to be asked."""
    return path.is_file() and is_table_name(path) and _suffix(str(path)) not in _ARCHIVES


def _suffix(file: str) -> str:
    return os.path.splitext(file)[1].lower()


def _files(root: Path, what: str) -> list[str]:
    """The archives that `what` means, sorted; none where it means a folder of images."""
    path = join(root, what)
    if is_url(path):
        if is_table_name(Path(path)) and _suffix(path) not in _ARCHIVES:
            raise UserError(f"{path} is a table, which is read from the disk alone; copy it there")
        files = remote_files(path, expand_braces, ARCHIVES)
        if odd := next((file for file in files if _suffix(file) not in _REMOTE), None):
            raise UserError(
                f"{odd} cannot be read where it is, as {' and '.join(_REMOTE)} files can; copy it to the disk"
            )
        return files
    if os.path.isdir(path):
        with os.scandir(path) as entries:
            found = [(entry.path, is_folder(entry)) for entry in entries]
        # class folders beside forgotten archives are a folder of images
        if any(inside for _, inside in found):
            return []
        return sorted(file for file, _ in found if _suffix(file) in _ARCHIVES and not is_table(Path(file)))
    if os.path.exists(path) or not any(c in what for c in "*?[{"):
        if _suffix(path) in _ARCHIVES:
            return [path]
        if os.path.isfile(path):
            raise UserError(
                f"{path} is neither a folder nor a file of the kinds {', '.join(_KINDS)}; name one of "
                "those, or unpack it"
            )
        return []
    inside = "" if os.path.isabs(what) else glob.escape(str(root))
    files = list(
        itertools.chain.from_iterable(
            sorted(glob.glob(os.path.join(inside, pattern))) or _missing(pattern, path)
            for pattern in expand_braces(what)
        )
    )
    return files


def _missing(pattern: str, path: str) -> list[str]:
    raise UserError(f"no file is called {pattern}, which {path} asks for; correct the pattern")


def expand_braces(pattern: str) -> Iterator[str]:
    """`a-{00..02}.tar` and `{x,y}.tar` as a shell expands them.

    Raises:
        UserError: A range that runs backwards.
    """
    match = _BRACES.search(pattern)
    if match is None:
        yield pattern
        return
    span = _RANGE.fullmatch(match[1])
    if span and int(span[1]) > int(span[2]):
        raise UserError(f"range {match[0]} of {pattern} runs backwards; swap its ends")
    numbers = range(int(span[1]), int(span[2]) + 1) if span else ()
    for part in [f"{n:0{len(span[1])}}" for n in numbers] if span else match[1].split(","):
        yield from expand_braces(pattern[: match.start()] + part + pattern[match.end() :])
