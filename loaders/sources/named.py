"""What is meant by words that name images: files, folders, packed files, patterns, and lists of files."""

from __future__ import annotations

import csv
import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from fastsemi.common.errors import UserError
from fastsemi.loaders.sources.open import expand_braces, require_images

LISTS = (".txt", ".csv", ".tsv")
PATH_COLUMNS = ("path", "file", "filename", "file_name", "image")
_PACKED = (".tar", ".beton", ".parquet")

Part = str | list[str]
"""What one source holds: a word for `open_source`, or image files."""


def named_images(words: Iterable[str]) -> list[Part]:
    """The sources that words mean, in their order; neighbouring image files become one.

    Args:
        words: Each a folder, a packed file, an image file of any name, a pattern of these with `*`, `**`,
            `?`, `[a-z]`, `{a,b}` or `{000..123}`, or `@LIST` for the files that a list names.

    Raises:
        UserError: Something is not there, or is a list without `@`.
    """
    parts: list[Part] = []
    for word in words:
        for part in _meaning(os.fspath(word)):
            if isinstance(part, list) and parts and isinstance(parts[-1], list):
                parts[-1] += part
            else:
                parts.append(part)
    return parts


def _meaning(word: str) -> Iterator[Part]:
    if word.startswith("@"):
        yield read_list(word[1:])
    elif os.path.isdir(word) or (os.path.isfile(word) and word.lower().endswith(_PACKED)):
        require_images(Path(), word)
        yield word
    elif os.path.exists(word):
        if word.lower().endswith(LISTS):
            raise UserError(f"{word} is no image; give @{word} where it lists images")
        yield [word]
    elif any(c in word for c in "*?[{"):
        yield from _pattern(word)
    else:
        raise UserError(f"{os.path.abspath(word)} does not exist; correct the path")


def _pattern(word: str) -> Iterator[Part]:
    found: list[str] = []
    for pattern in expand_braces(word):
        matches = sorted(glob.glob(pattern, recursive=True))
        if not matches:
            raise UserError(f"no file is called {pattern}, in {os.getcwd()}; correct the pattern")
        found += matches
    if "**" not in word and all(name.lower().endswith(_PACKED) for name in found):
        yield word  # the shards of one source
        return
    for name in found:
        yield from _meaning(name)


def read_list(file: str) -> list[str]:
    """The image files that a list names, one a line, or in a column `path` of a .csv or .tsv.

    Relative paths are meant from the working directory, as on the command line.

    Raises:
        UserError: The list cannot be read, is empty, has no such column, or names what is no file.
    """
    try:
        with open(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
            rows = list(_column(file, lines) if file.lower().endswith((".csv", ".tsv")) else _lines(lines))
    except OSError as error:
        raise UserError(f"list {file} cannot be read: {error.strerror or error}; correct the path") from None
    except csv.Error as error:
        raise UserError(f"list {file} is no table of commas or tabs: {error}; correct it") from None
    if not rows:
        raise UserError(f"list {file} names no images; write one path a line")
    for number, path in rows:
        if "\0" in path or not os.path.exists(path):
            raise UserError(
                f"line {number} of {file} names {path!r}, which is not in {os.getcwd()}; paths in a list are "
                "meant from the working directory"
            )
        if os.path.isdir(path):
            raise UserError(f"line {number} of {file} names a folder, {path}; a list names image files")
    return [path for _, path in rows]


def _lines(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(lines, 1):
        if path := line.strip("\r\n"):
            yield number, path


def _column(file: str, lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    reader = csv.reader(lines, delimiter="\t" if file.lower().endswith(".tsv") else ",")
    header: Sequence[str] = next(reader, [])
    names = [name.strip().lower() for name in header]
    there = [name for name in PATH_COLUMNS if name in names]
    if len(there) != 1:
        found = f"several columns of paths, {', '.join(there)}" if there else "no column of paths"
        raise UserError(f"list {file} has {found}; name one of its columns path")
    at = names.index(there[0])
    for row in reader:
        if len(row) > at and row[at]:
            yield reader.line_num, row[at]
