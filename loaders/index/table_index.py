"""The index of the images of a table: their files are found, their labels become classes."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastsemi.common.errors import UserError
from fastsemi.loaders.index import scan
from fastsemi.loaders.index.formats import extension
from fastsemi.loaders.index.index import MAX_PIXELS, Index, Listed, open_index
from fastsemi.loaders.index.places import Beside, InTree, joined
from fastsemi.loaders.index.table import Part, Row, Table, read_columns, read_table, require_labels, rows_of

_log = logging.getLogger(__name__)

_WHOLE = re.compile(r"(0|[1-9][0-9]*)(\.0+)?")  # pandas writes 3.0 where a column of whole numbers has gaps
_BELOW_ZERO = re.compile(r"-[0-9]+(\.0+)?")
_NO_LABEL = ("nan", "na", "n/a", "null", "?")  # what programs write for none


def build_table_index(
    file: Path,
    *,
    has_classes: bool,
    part: Part | None = None,
    tree: Path | None = None,
    max_pixels: int = MAX_PIXELS,
    cache_dir: Path | None = None,
    threads: int = 8,
    refresh: bool = False,
) -> Index:
    """Index the images of a table, or reopen the index made earlier, which holds as that of a folder does.

    A path of the table is absolute or relative to the table's folder. With `tree` it names an image below
    that folder: relative to it, or as before, or by the file's name alone, also without its ending. The order
    does not depend on that of the rows: by class, in it as in class folders, at the end the images without a
    label (-1).

    Classes are the labels, sorted as text, or as numbers where all are whole numbers; 3 and 3.0 are one.

    Args:
        file: The table.
        has_classes: Whether images have classes; otherwise labels are not looked at.
        part: Which rows, where the table has a column `split`.
        tree: Folder of images, of which those that no row names are without label.
        max_pixels: As for `build_index`, as what follows.
        cache_dir: Where indexes are kept.
        threads: Threads that read image headers.
        refresh: Read the table and every header again.

    Raises:
        UserError: A table that cannot be read, a row whose image is missing, is given twice or has a label
            that is none, no labels at all; or as `build_index`.
    """
    columns = require_labels(file) if has_classes else read_columns(file)
    top = os.path.abspath(file.parent if tree is None else tree)
    if tree is not None:
        scan.require_folder(top)
    key = ("table", os.path.abspath(file), part or "", "tree" if tree else "rows", str(has_classes))
    state = hashlib.sha256(file.read_bytes()).hexdigest()
    listing = _Listing(file, top, part, tree is not None, has_classes)
    listed = Listed(top, key, state, listing.tree)
    index = open_index(listed, max_pixels=max_pixels, cache_dir=cache_dir, threads=threads, refresh=refresh)
    _log.info("%s: %s; %s", file, columns, _say(index) if has_classes else f"{len(index):,} images")
    return index


def _say(index: Index) -> str:
    without = int(np.count_nonzero(index.labels < 0))
    rest = f", {without:,} without label" if without else ""
    return f"{len(index) - without:,} images of {len(index.classes):,} classes{rest}"


@dataclass(frozen=True)
class _Listing:
    """Lists the images of a table as `scan.scan` lists those of a folder."""

    file: Path
    top: str
    part: Part | None
    below: bool  # whether the images are those below `top`, else those of the rows
    has_classes: bool

    def tree(self) -> scan.Tree:
        table = read_table(self.file)
        lines = {row.line for row in rows_of(table, self.part)}
        if not self.below:
            beside = Beside(self.top)
            named = _found(table, lines, beside)
            rows = {path: row for path, row in named.items() if row.line in lines}
            return self._sorted(table, list(rows), rows, beside.changed, {})
        found = scan.scan(self.top, has_classes=False)
        named = _found(table, lines, InTree(self.file, self.top, found.files))
        rows = {path: row for path, row in named.items() if row.line in lines}
        every = [path for path in found.files if path in rows or path not in named]
        changed = dict(zip(found.folders, found.folder_mtimes, strict=True))
        return self._sorted(table, every, rows, changed, _without(found.skipped, self.file, self.top))

    def _sorted(
        self,
        table: Table,
        every: Sequence[str],
        rows: dict[str, Row],
        changed: dict[str, int],
        skipped: dict[str, int],
    ) -> scan.Tree:
        """The images in their order. `changed`: when each folder was, in nanoseconds."""
        labelled = {path: row for path, row in rows.items() if row.label and row.split != "unlabeled"}
        classes, numbers = class_names(table, labelled.values()) if self.has_classes else ((), {})
        label_of = {path: numbers[row.label] for path, row in labelled.items()} if self.has_classes else {}
        unlabelled = next((row for path, row in rows.items() if path not in label_of), None)
        if self.has_classes and self.part == "val" and unlabelled is not None:
            raise UserError(
                f"{table.where(unlabelled.line)}: no label, and images to evaluate on need one; give it, or "
                "remove the row"
            )
        files = sorted(every, key=lambda path: (label_of.get(path, len(classes)), *os.path.split(path)))
        labels = np.array([label_of.get(path, -1) for path in files], np.int32)
        return scan.Tree(classes, list(changed), list(changed.values()), files, labels, skipped)


def _without(skipped: dict[str, int], file: Path, top: str) -> dict[str, int]:
    """The files that are no images, but for the table itself."""
    inside = os.path.realpath(file).startswith(os.path.realpath(top) + os.sep)
    counts = Counter(skipped) - Counter([extension(file.name)] if inside else [])
    return dict(counts)


def _found(table: Table, lines: Set[int], places: InTree | Beside) -> dict[str, Row]:
    """Each image, relative to the root, and its row. Those of `lines` must be there, others may."""
    found: dict[str, Row] = {}
    for row in table.rows:
        path = places.find(row.path)
        if path is None:
            if row.line in lines:
                raise UserError(f"{table.where(row.line)}: {places.missing(row.path)}")
            continue
        if (first := found.setdefault(path, row)) is not row:
            said = f"{table.where(row.line)}: image {row.path!r} is given twice, also in line {first.line}"
            if first.label != row.label:
                raise UserError(f"{said}, there as {first.label!r} and here as {row.label!r}; remove one")
            raise UserError(f"{said}; remove one")
    return found


def class_names(table: Table, rows: Iterable[Row]) -> tuple[tuple[str, ...], dict[str, int]]:
    """Names of classes in order, and the number of each label's class.

    Raises:
        UserError: No label, or a number below zero, which may mean none.
    """
    first: dict[str, int] = {}
    for row in rows:
        first.setdefault(row.label, row.line)
    if not first:
        raise UserError(
            f"no row of table {table.file} has a label in column {table.columns.label}; give some rows one"
        )
    below = [label for label in first if _BELOW_ZERO.fullmatch(label)]
    if below and all(_WHOLE.fullmatch(label) for label in first if label not in below):
        raise UserError(
            f"{table.where(first[below[0]])}: label {below[0]} may be a class or none; leave the field empty "
            "for an image without a label, or number the classes from 0"
        )
    number = all(_WHOLE.fullmatch(label) for label in first)
    name_of: dict[str, str] = {label: label.split(".")[0] if number else joined(label) for label in first}
    order: Callable[[str], tuple[int, str]] = lambda name: (int(name) if number else 0, name)  # noqa: E731
    classes = tuple(sorted(set(name_of.values()), key=order))
    _doubt(table, classes)
    position = {name: i for i, name in enumerate(classes)}
    return classes, {label: position[name] for label, name in name_of.items()}


def _doubt(table: Table, classes: Sequence[str]) -> None:
    """Say what may be no class, or the same as another."""
    for name in classes:
        if name.lower() in _NO_LABEL:
            text = "%s: label %r counts as a class; leave the field empty for an image without a label"
            _log.warning(text, table.file, name)
    alike: dict[str, list[str]] = {}
    for name in classes:
        alike.setdefault(" ".join(name.casefold().split()), []).append(name)
    for names in alike.values():
        if len(names) > 1:
            _log.warning(
                "%s: labels %s count as different classes", table.file, " and ".join(map(repr, names))
            )
