"""Places that are URLs of object stores and web servers, beside those that are paths."""

from __future__ import annotations

import os
import re
from pathlib import Path, PosixPath
from urllib.parse import urlsplit

from fastsemi.common.errors import UserError

SCHEMES = ("s3", "gs", "az", "http", "https")
_OTHER = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(//|/[^/])")
_URL = re.compile(rf"({'|'.join(SCHEMES)}):/{{1,2}}(?=[^/])")  # a path drops one of the two slashes


class UrlPath(PosixPath):
    """A URL that is joined and named as a path is. No file of the disk has it."""

    def __str__(self) -> str:
        return _URL.sub(r"\1://", super().__str__(), count=1)

    def __fspath__(self) -> str:
        return str(self)


def is_url(what: str | Path) -> bool:
    """Whether a place is a URL of a kind that is read."""
    return _URL.match(str(what)) is not None


def place(what: str | Path) -> Path:
    """A place as a path: of a URL one that keeps its form.

    Raises:
        UserError: A URL that holds a password or a query, which would be written down with it; that leads
            out of its bucket, or is of another kind.
    """
    if not is_url(what):
        if (other := _OTHER.match(str(what))) and not os.path.exists(f"{other[1]}:"):
            raise UserError(
                f"{other[1]}:// begins no URL that is read; give a bucket or a server after one of "
                f"{', '.join(f'{scheme}://' for scheme in SCHEMES)}, or a path"
            )
        return Path(what)
    path = _without_dots(UrlPath(what))
    try:
        parts = urlsplit(str(path))
    except ValueError as error:
        raise UserError(f"{path} is no URL ({error}); correct it") from None
    if "@" in parts.netloc:
        raise UserError(
            f"a URL of {parts.hostname} holds a user or a password, which logs would keep; leave it out, "
            "and give credentials by the environment (AWS_ACCESS_KEY_ID, ...)"
        )
    if parts.scheme in ("http", "https") and parts.query:
        raise UserError(
            f"a URL of {parts.hostname} has a query (after ?), which files have none; leave it out"
        )
    return path


def _without_dots(path: UrlPath) -> UrlPath:
    """With `..` taken back, as on a disk."""
    scheme, bucket, *names = path.parts
    found: list[str] = []
    for name in names:
        if name != "..":
            found.append(name)
        elif found:
            found.pop()
        else:
            raise UserError(f"{path} leads out of its bucket; correct the URL")
    return UrlPath(scheme, bucket, *found)


def join(root: str | Path, what: str | Path) -> str:
    """`what` below `root`; as it is where it is absolute or a URL."""
    return str(place(what)) if is_url(what) else str(place(os.path.join(place(root), what)))


def absolute(what: str | Path) -> str:
    """A place with nothing left to what the working directory is."""
    return str(place(what)) if is_url(what) else os.path.abspath(what)
