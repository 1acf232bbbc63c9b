"""Which images keep their label, by a share, a number or a list; and which labels train nothing."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastsemi.common.errors import UserError
from fastsemi.common.listed import listed
from fastsemi.loaders.index.index import Index
from fastsemi.loaders.index.regular import regular_fd
from fastsemi.loaders.index.table import has_columns, is_table_name, require_labels

_log = logging.getLogger(__name__)

_LONGEST = 20  # digits of a position; Python reads no number of 5,000


def select_labelled(
    index: Index,
    *,
    fraction: float | None = None,
    per_class: int | None = None,
    index_file: Path | None = None,
    seed: int = 0,
) -> NDArray[np.int64]:
    """Ids of the images that keep their label, sorted, [Nl].

    Exactly one way of choosing must be given. `fraction` and `per_class` rank the images of each class by a
    hash of `(seed, class name/path in the class)` and take the first ones. So the choice does not depend on
    other classes, on the order of the index or on where the folder lies, and a smaller choice with the same
    seed is a subset of a larger one.

    Args:
        index: The images, with classes.
        fraction: In (0, 1]: `max(1, round(fraction * n_c))` of the `n_c` images of each class.
        per_class: This many of each class.
        index_file: A CSV with a column `Index` of positions in the index (as the paper's authors publish),
            or a text list of image files, one a line (as SimCLR publishes): the file's name or
            `<class>/<name>`. Of a table that gave `index` its labels, all that have one.
        seed: Another seed is another choice; unused with `index_file`.

    Raises:
        UserError: None or several ways given, a value outside its range, an image without a label, an image
            or position that is not in the data or is given twice.
    """
    if sum(choice is not None for choice in (fraction, per_class, index_file)) != 1:
        raise UserError(
            "the labelled images must be chosen in exactly one way; "
            "give one of data.labels.fraction, data.labels.per_class, data.labels.file"
        )
    if not index.classes:
        raise UserError(f"images in {index.root} have no classes; labels need {index.root}/<class>/<image>")
    if index_file is not None:
        ids = _from_file(index, Path(index_file))
        _warn_of_classes_without_label(index, ids, Path(index_file))
        return ids
    every = np.flatnonzero(index.labels >= 0)
    counts = np.bincount(index.labels[every], minlength=len(index.classes))  # [C]
    if fraction is not None:
        if not 0 < fraction <= 1:
            raise UserError(
                f"data.labels.fraction {fraction} is outside (0, 1]; give for example 0.1 for 10 %"
            )
        wanted = np.maximum(1, np.rint(fraction * counts)).astype(np.int64)
    else:
        wanted = _per_class(index, per_class, counts)
    return _draw(index, every, wanted, seed)


def hold_out(index: Index, labelled: NDArray[np.int64], fraction: float, seed: int) -> NDArray[np.int64]:
    """Ids of the labelled images whose labels train nothing, sorted, [Nv].

    Of the `n_c` labelled images of each class `round(fraction * n_c)`, but never all. They are the last ones
    in the order of `select_labelled`, so that those that train with `per_class: 10` and a fraction of 0.2 are
    those of `per_class: 8`.

    Args:
        index: The images, with classes.
        labelled: [Nl] ids of the images that keep their label.
        fraction: In [0, 1).
        seed: As in `select_labelled`.

    Raises:
        UserError: No class has enough labels for one to be left out.
    """
    counts = np.bincount(index.labels[labelled], minlength=len(index.classes))  # [C]
    held = held_counts(counts, fraction)
    if not held.any():
        most = int(counts.max())
        least = 50 // most / 100 + 0.01  # just above half an image of the largest class
        cure = f"give {least:.2f} or more, or label more" if most > 1 else "label at least two of a class"
        raise UserError(
            f"data.labels.validation {fraction} holds no image out, since no class has more than {most} "
            f"labelled; {cure}"
        )
    return np.setdiff1d(labelled, _draw(index, labelled, counts - held, seed))


def held_counts(counts: NDArray[np.int64], fraction: float) -> NDArray[np.int64]:
    """How many of the labelled images [C] of each class `hold_out` takes, [C]."""
    return np.minimum(np.rint(fraction * counts).astype(np.int64), np.maximum(counts - 1, 0))


def unlabelled_ids(index: Index, labelled: NDArray[np.int64], *, include_labelled: bool) -> NDArray[np.int64]:
    """Ids of the images used without label, sorted: all but the labelled ones, or all of them."""
    use = np.ones(len(index), bool)
    if not include_labelled:
        use[labelled] = False
    return np.flatnonzero(use)


def _per_class(index: Index, per_class: int | None, counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """As many of each class [C], of smaller classes all, which is said."""
    if per_class is None or per_class < 1:
        raise UserError(f"data.labels.per_class {per_class} is below 1; give 1 or more")
    smaller = np.flatnonzero(counts < per_class)
    if len(smaller):
        named = listed([f"{index.classes[c]} ({counts[c]})" for c in smaller])
        _log.warning(
            "data.labels.per_class %d is more than %d of %d classes hold; all of their images are labelled: "
            "%s",
            *(per_class, len(smaller), len(counts), named),
        )
    return np.minimum(counts, per_class)


def _draw(index: Index, ids: NDArray[np.int64], wanted: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """The `wanted[c]` images of each class `c` among `ids` whose keys are smallest."""
    keys, labels = path_keys(index.path_blob, index.path_offsets, seed)[ids], index.labels[ids]  # [n], [n]
    counts = np.bincount(labels, minlength=len(wanted))  # [C]
    order = np.lexsort((keys, labels))  # by class, in it by key
    first = np.cumsum(counts) - counts  # [C] where each class begins in `order`
    rank = np.arange(len(ids)) - np.repeat(first, counts)
    return np.sort(ids[order[rank < np.repeat(wanted, counts)]])


def path_keys(blob: NDArray[np.uint8], offsets: NDArray[np.int64], seed: int) -> NDArray[np.uint64]:
    """A random 64-bit key for each path of an index, [N]: FNV-1a of its bytes, then mixed with the seed.

    FNV-1a is by Fowler, Noll and Vo; the mixer is the output function of SplitMix64 (Steele, Lea and
    Flood, 2014).
    """
    lengths = np.diff(offsets)
    longest_first = np.argsort(-lengths, kind="stable")
    starts = offsets[:-1][longest_first]
    # [longest] how many paths reach beyond each position; they are the first ones in this order
    reach = len(lengths) - np.cumsum(np.bincount(lengths))
    hashes = np.full(len(lengths), 0xCBF29CE484222325, np.uint64)
    for position, active in enumerate(reach[:-1].tolist()):
        hashes[:active] ^= blob[starts[:active] + position]
        hashes[:active] *= np.uint64(0x100000001B3)
    keys = np.empty_like(hashes)
    keys[longest_first] = hashes
    salt = np.array([(seed + 0x9E3779B97F4A7C15) % 2**64], np.uint64)
    return _splitmix(keys ^ _splitmix(salt))


def _splitmix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _from_file(index: Index, file: Path) -> NDArray[np.int64]:
    if has_columns(file):
        return np.flatnonzero(index.labels >= 0)
    if is_table_name(file) and file.suffix.lower() != ".csv" and file.is_file():
        require_labels(file)  # says what it lacks
    try:
        with open(regular_fd(str(file)), encoding="utf-8-sig", errors="surrogateescape") as opened:
            lines = opened.read().split("\n")
    except OSError as error:
        raise UserError(f"cannot read label index file {file}: {error.strerror}; correct the path") from error
    try:
        return _listed(index, file, lines)
    except csv.Error as error:  # a field of 131,072 characters
        raise UserError(f"label index file {file} cannot be read: {error}; write it again") from None


def _listed(index: Index, file: Path, lines: list[str]) -> NDArray[np.int64]:
    """Ids of the images that the lines of a file name."""
    header = next(csv.reader(lines[:1]), [])
    if "Index" in [field.strip() for field in header]:
        column = [field.strip() for field in header].index("Index")
        entries = _positions(index, file, lines, column)
    elif file.suffix.lower() == ".csv":
        raise UserError(
            f"label index file {file} has no column Index, and no two columns path and label; give a table "
            "of paths and labels, positions in a column Index, or a .txt list of image file names"
        )
    else:
        entries = _named(index, file, lines)
    first_line: dict[int, int] = {}
    for line, i in entries:
        if i in first_line:
            raise UserError(
                f"label index file {file} gives image {index.relative_path(i)} twice, in lines "
                f"{first_line[i]} and {line}; remove one"
            )
        if index.labels[i] < 0:
            raise UserError(
                f"label index file {file}, line {line}: image {index.relative_path(i)} has no label; give it "
                "one in the table, or remove the line"
            )
        first_line[i] = line
    if not first_line:
        raise UserError(f"label index file {file} names no image; list at least one")
    return np.array(sorted(first_line), np.int64)


def _positions(index: Index, file: Path, lines: list[str], column: int) -> Iterator[tuple[int, int]]:
    """(line, id) of each row of the authors' CSV."""
    rows = csv.reader(lines)
    next(rows)
    for row in rows:
        if not row:
            continue
        value = row[column].strip() if column < len(row) else ""
        if not value.isascii() or not value.removeprefix("-").isdigit():
            raise UserError(
                f"label index file {file}, line {rows.line_num}: {value[:100]!r} is not a position; "
                "give whole numbers in column Index"
            )
        digits = value.lstrip("0") or "0"
        if len(digits) > _LONGEST or not 0 <= int(value) < len(index):
            raise UserError(
                f"label index file {file}, line {rows.line_num}: index {digits[:_LONGEST]} is beyond the "
                f"data ({index.root} holds {len(index)} images, counted from 0); use the index file of this "
                "data"
            )
        yield rows.line_num, int(value)


def _named(index: Index, file: Path, lines: list[str]) -> Iterator[tuple[int, int]]:
    """(line, id) of each name in SimCLR's list; a name with a slash is a path below the root."""
    names = [os.fsencode(line.strip()) for line in lines]
    wanted = set(names)
    found: dict[bytes, int] = {}
    several: set[bytes] = set()
    for i, path in enumerate(index.iter_relative()):
        for name in {path, path.rsplit(b"/", 1)[-1]}:
            if name in wanted:
                if name in found:
                    several.add(name)
                found[name] = i
    for line, name in enumerate(names, start=1):
        if not name:
            continue
        where = f"label index file {file}, line {line}: {os.fsdecode(name[:100])!r}"
        if name not in found:
            raise UserError(f"{where} is not in {index.root}; use the list of this data, or remove the line")
        if name in several:
            raise UserError(f"{where} is the name of several images in {index.root}; give <class>/<name>")
        yield line, found[name]


def _warn_of_classes_without_label(index: Index, ids: NDArray[np.int64], file: Path) -> None:
    counts = np.bincount(index.labels[ids], minlength=len(index.classes))
    missing = np.flatnonzero(counts == 0)
    if len(missing):
        names = listed([index.classes[c] for c in missing])
        _log.warning(
            "label index file %s gives no label to %d of %d classes (%s)",
            *(file, len(missing), len(index.classes), names),
        )
