"""What is meant by words that name images: files, folders, packed files, patterns, and lists of files."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from fastsemi.common.errors import UserError
from fastsemi.common.urls import is_url, place
from fastsemi.loaders.index.table import is_table_name, read_table
from fastsemi.loaders.sources.open import ARCHIVES, expand_braces, is_table, require_images

Part = str | list[str]
"""What one source holds: a word for `open_source`, or image files."""


def named_images(words: Iterable[str]) -> list[Part]:
    """The sources that words mean, in their order; neighbouring image files become one.

    Args:
        words: Each a folder, a packed file, an image file of any name, a pattern of these with `*`, `**`,
            `?`, `[a-z]`, `{a,b}` or `{000..123}`, or `@LIST` for the files that a list names; or a URL
            as of `open_source`.

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
    elif is_url(word):
        require_images(Path(), word)
        yield str(place(word))
    elif is_table(Path(word)) or (os.path.isfile(word) and word.lower().endswith(".txt")):
        raise UserError(f"{word} is no image; give @{word} where it lists images")
    elif os.path.isdir(word) or (os.path.isfile(word) and word.lower().endswith(ARCHIVES)):
        require_images(Path(), word)
        yield word
    elif os.path.exists(word):
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
    if "**" not in word and all(name.lower().endswith(ARCHIVES) for name in found):
        yield word  # the shards of one source
        return
    for name in found:
        yield from _meaning(name)


def read_list(file: str) -> list[str]:
    """The image files that a list names: one a line of text, or a row of a table, as `read_table` reads it.

    Relative paths are meant from the working directory, as on the command line.

    Raises:
        UserError: The list cannot be read, is empty, has no column of paths, or names what is no file.
    """
    if is_table_name(file):
        table = read_table(Path(file))
        rows = [(table.where(row.line), row.path) for row in table.rows]
    else:
        rows = list(_lines(file))
    if not rows:
        raise UserError(f"list {file} names no images; write one path a line")
    for where, path in rows:
        if "\0" in path or not os.path.exists(path):
            raise UserError(
                f"{where} names {path!r}, which is not in {os.getcwd()}; paths in a list are meant from the "
                "working directory"
            )
        if os.path.isdir(path):
            raise UserError(f"{where} names a folder, {path}; a list names image files")
    return [path for _, path in rows]


def _lines(file: str) -> Iterator[tuple[str, str]]:
    """Where each path stands, and the path."""
    try:
        with open(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
            for number, line in enumerate(lines, 1):
                if path := line.strip("\r\n"):
                    yield f"{file}, line {number}", path
    except OSError as error:
        raise UserError(f"list {file} cannot be read: {error.strerror or error}; correct the path") from None
