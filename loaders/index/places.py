"""Finds the files that the paths of a table mean."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from fastsemi.loaders.index import scan


def _spellings(path: str) -> Iterable[str]:
    """A path as it is, and as Windows writes it."""
    return dict.fromkeys((path, path.replace("\\", "/")))


class Beside:
    """Finds files by paths that are absolute or relative to a folder; each folder is listed once."""

    def __init__(self, top: str):
        self._top = top
        self._folders: dict[str, dict[str, str]] = {}
        self.changed: dict[str, int] = {}  # when each folder that holds something was, before it was listed

    def find(self, path: str) -> str | None:
        """The file relative to the folder, absolute where it lies elsewhere; None where there is none."""
        for text in _spellings(path):
            whole, name = os.path.split(os.path.normpath(os.path.join(self._top, text)))
            for folder in dict.fromkeys((whole, joined(whole), unicodedata.normalize("NFD", whole))):
                names = self._list(folder)
                if found := names.get(name) or names.get(joined(name)):
                    return relative(os.path.join(folder, found), self._top)
        return None

    def missing(self, path: str) -> str:
        """Why nothing was found, and what to do, in words."""
        there = os.path.normpath(os.path.join(self._top, path))
        if os.path.isdir(there):
            return f"{path!r} is the folder {there}; name an image"
        how = "" if os.path.isabs(path) else " (paths are relative to the table's folder)"
        return f"image {there} does not exist{how}; correct the path, or remove the line"

    def _list(self, folder: str) -> dict[str, str]:
        """The files in a folder, by their names and by those with accents joined; none without a folder."""
        if folder not in self._folders:
            try:
                changed = scan.folder_mtime(folder)
                with os.scandir(folder) as entries:
                    names = [entry.name for entry in entries if not scan.is_folder(entry)]
                self._folders[folder] = {
                    **{joined(name): name for name in names},
                    **{name: name for name in names},
                }
                self.changed[relative(folder, self._top)] = changed
            except OSError:
                self._folders[folder] = {}
        return self._folders[folder]


class InTree:
    """Finds images below a folder, by path or by the file's name alone, with or without its ending."""

    def __init__(self, table: Path, top: str, files: Sequence[str]):
        self._table, self._top = os.path.abspath(table.parent), top
        self._files = {joined(path): path for path in files} | {path: path for path in files}
        self._names: dict[str, list[str]] = {}
        for path in files:
            name = joined(os.path.basename(path))
            for key in (name, os.path.splitext(name)[0]):
                self._names.setdefault(key, []).append(path)

    def find(self, path: str) -> str | None:
        """The image relative to the folder; None where there is none, or several by that name."""
        if path in self._files:
            return self._files[path]
        for text in _spellings(path):
            for folder in (self._top, self._table):
                known = relative(os.path.normpath(os.path.join(folder, text)), self._top)
                if found := self._files.get(known) or self._files.get(joined(known)):
                    return found
        named = self._names.get(joined(path), [])
        return named[0] if len(named) == 1 else None

    def missing(self, path: str) -> str:
        """Why nothing was found, and what to do, in words."""
        named = self._names.get(joined(path), [])
        if named:
            return f"{path!r} is the name of several images in {self._top}; give the path, {named[0]}"
        there = os.path.normpath(os.path.join(self._top, path))
        if os.path.isdir(there):
            return f"{path!r} is the folder {there}; name an image"
        also = "" if self._table == self._top else f", nor relative to {self._table}"
        return f"{path!r} is no image below {self._top}{also}; correct the path, or remove the line"


def joined(path: str) -> str:
    """A path with accents and letters joined (NFC), by which it is compared."""
    return unicodedata.normalize("NFC", path)


def relative(path: str, top: str) -> str:
    """An absolute path, relative to a folder that holds it."""
    inside = top if top.endswith(os.sep) else top + os.sep
    if path == top:
        return ""
    return path[len(inside) :] if path.startswith(inside) else path
