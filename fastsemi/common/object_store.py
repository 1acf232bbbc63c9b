"""Objects in S3, Google Cloud Storage, Azure and on web servers, through the library obstore.

It tries again what fails, stalls or breaks off: with growing waits, until a deadline. Credentials and
endpoints are those of the environment, by the names that each provider's own tools have (`AWS_ACCESS_KEY_ID`,
`AWS_ENDPOINT_URL`, `GOOGLE_APPLICATION_CREDENTIALS`, `AZURE_STORAGE_ACCOUNT_NAME`, ...).
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote

from fastsemi.common.errors import UserError

CONNECT_S, SILENCE_S = 5.0, 20.0  # within which a connection stands, and more bytes come
REQUEST_S = 100.0  # of one attempt, as all of them below loader.timeout_s, so that the URL is named
DEADLINE_S = 60.0  # after which nothing is tried again
_RETRIES = 30
_ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT")
_PIECE = 2**23  # bytes of one request
_AT_ONCE = 8  # pieces of one range, and looks at objects
_PUT_AT_ONCE = 4  # parts of 5 MiB, which a line of 2 Mbit/s sends within REQUEST_S


class ChangedError(UserError):
    """An object is not the one that was looked at before."""


class MissingError(UserError):
    """There is no such object."""


class RefusedError(UserError):
    """Nobody without other credentials may read or write there."""


class UnreachableError(UserError):
    """A store gives no answer, whatever it is asked next."""


@dataclass(frozen=True)
class Entry:
    """An object."""

    url: str
    size: int
    """Bytes."""
    tag: str
    """Its ETag; where a server gives none, its time and size."""


def require_obstore() -> None:
    """Raise `UserError` where obstore is missing."""
    try:
        import obstore  # noqa: F401
    except ImportError as error:
        raise UserError("URLs of object stores need obstore; pip install 'fastsemi[remote]'") from error


def head(url: str) -> Entry:
    """Look at one object.

    Raises:
        UserError: It is not there (`MissingError`), or cannot be reached.
    """
    store, key = _at(url)
    import obstore

    with _told(url):
        return _entry(url, obstore.head(store, key))


def heads(urls: list[str]) -> list[Entry]:
    """Look at several objects at the same time.

    Raises:
        UserError: As `head`, for the first that cannot be looked at.
    """
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(head, urls))


def below(url: str) -> list[Entry]:
    """All objects whose URL begins with `url` and a slash, sorted by URL.

    Raises:
        UserError: The store cannot be reached, or it lists nothing, as web servers do.
    """
    store, key = _listing(url)
    import obstore

    with _told(url):
        found = [each for page in obstore.list(store, key or None) for each in page]
    return _entries(url, key, found)


def level(url: str) -> tuple[list[Entry], bool]:
    """The objects directly below `url` and a slash, sorted by URL, and whether there are folders as well.

    Of a folder of class folders this is one request, where `below` is one for each thousand images.

    Raises:
        UserError: As `below`.
    """
    store, key = _listing(url)
    import obstore

    with _told(url):
        found = obstore.list_with_delimiter(store, key or None)
    return _entries(url, key, found["objects"]), bool(found["common_prefixes"])


def _listing(url: str) -> tuple[Any, str]:
    """The store, and what the keys of a folder's objects begin with."""
    store, key = _at(url)
    if url.startswith("http"):
        raise UserError(f"{url}: a web server lists no folders; name files, as NAME-{{000..127}}.tar")
    return store, f"{key}/" if key else ""


def _entries(url: str, key: str, found: Sequence[Any]) -> list[Entry]:
    top = url[: len(url) - len(key.rstrip("/"))].rstrip("/")
    # a folder that a console made is an object of no bytes that ends in a slash
    entries = [_entry(f"{top}/{each['path']}", each) for each in found if not each["path"].endswith("/")]
    return sorted(entries, key=lambda entry: entry.url)


def fetch(url: str, start: int, length: int, tag: str) -> bytes:
    """A range of an object; large ones in pieces at the same time.

    Raises:
        UserError: It is not there, cannot be reached, ends early, or is another than `tag` says
            (`ChangedError`).
    """
    if length <= _PIECE:
        return _fetch(url, start, length, tag)
    starts = range(start, start + length, _PIECE)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        pieces = pool.map(lambda at: _fetch(url, at, min(_PIECE, start + length - at), tag), starts)
        return b"".join(pieces)


def _fetch(url: str, start: int, length: int, tag: str) -> bytes:
    store, key = _at(url)
    import obstore

    with _told(url):
        options: Any = {"range": (start, start + length)}
        if _is_strong(tag):
            options["if_match"] = f'"{tag}"'
        result = obstore.get(store, key, options=options)
        if _tag(result.meta) != tag:
            raise _changed(url)
        data = result.bytes().to_bytes()
    if len(data) != length:
        raise UserError(
            f"{url} ends {length - len(data)} bytes early; upload it again, or run with --data.reindex true"
        )
    return data


def download(url: str, to: Path) -> None:
    """Write an object to a file.

    Raises:
        UserError: As `fetch`.
    """
    entry = head(url)
    with to.open("wb") as file:
        for at in range(0, entry.size, _AT_ONCE * _PIECE):
            file.write(fetch(url, at, min(_AT_ONCE * _PIECE, entry.size - at), entry.tag))


def put(url: str, file: Path | IO[bytes] | Iterator[bytes]) -> None:
    """Write a file, or its pieces, as an object, which is there whole or not at all.

    Raises:
        UserError: It cannot be written.
    """
    store, key = _at(url, writing=True)
    import obstore

    with _told(url, _NO_BUCKET):
        obstore.put(store, key, file, max_concurrency=_PUT_AT_ONCE)


def delete(urls: list[str]) -> None:
    """Remove objects of one bucket.

    Raises:
        UserError: They cannot be removed.
    """
    if not urls:
        return
    store, _ = _at(urls[0])
    import obstore

    with _told(urls[0], _NO_BUCKET):
        obstore.delete(store, [_at(url)[1] for url in urls])


def _at(url: str, *, writing: bool = False) -> tuple[Any, str]:
    """The store of a URL, and the name of the object in it; a web server's URL is written with escapes."""
    scheme, _, rest = url.partition("://")
    host, _, key = rest.partition("/")
    key = key.strip("/")
    return _store(f"{scheme}://{host}", writing), unquote(key) if scheme.startswith("http") else key


@functools.cache
def _store(bucket: str, writing: bool = False) -> Any:
    require_obstore()
    from obstore import store

    from_url: Any = store.from_url  # its overloads name each client's own options
    for name in _ENDPOINTS if bucket.startswith("s3") else ():  # the library would end the process
        if not os.environ.get(name, "http://").startswith(("http://", "https://")):
            raise UserError(f"{name} is no URL; let it begin with http:// or https://, or unset it")
    plain = bucket.startswith("http://") or _allows_http()
    client: Any = {"timeout": f"{REQUEST_S:g}s", "connect_timeout": f"{CONNECT_S:g}s"}
    if not writing:  # while a request is sent nothing comes
        client["read_timeout"] = f"{SILENCE_S:g}s"
    if plain:
        client["allow_http"] = True
    waits = {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=5), "base": 2}
    deadline = timedelta(seconds=DEADLINE_S)
    retry: Any = {"backoff": waits, "max_retries": _RETRIES, "retry_timeout": deadline}
    with _told(bucket):
        return from_url(bucket, client_options=client, retry_config=retry)


def _allows_http() -> bool:
    """Whether the environment allows connections without encryption, as to a server on this machine."""
    names = ("AWS_ALLOW_HTTP", "AZURE_ALLOW_HTTP", "GOOGLE_ALLOW_HTTP")
    return any(os.environ.get(name, "").lower() in ("1", "true", "yes") for name in names)


def _entry(url: str, meta: Any) -> Entry:
    return Entry(url, int(meta["size"]), _tag(meta))


def _tag(meta: Any) -> str:
    """Without its quotation marks, which some stores leave out in lists."""
    if meta["e_tag"]:
        return str(meta["e_tag"]).strip('"')
    return f"{meta['last_modified']:%Y-%m-%d %H:%M:%S} {meta['size']}"


def _is_strong(tag: str) -> bool:
    """Whether a server can be asked for the object of this tag alone."""
    return " " not in tag and not tag.startswith("W/")


def _changed(url: str) -> ChangedError:
    return ChangedError(f"{url} has changed since it was looked at; start again, which indexes it anew")


_NO_OBJECT = "does not exist; correct the URL, or upload it first"
_NO_BUCKET = "cannot be written, as there is no such bucket; correct the URL, or make the bucket first"


@contextmanager
def _told(url: str, missing: str = _NO_OBJECT) -> Iterator[None]:
    """Errors of the library as one line: what, where, and the cure."""
    from obstore import exceptions as kinds

    try:
        yield
    except (kinds.BaseError, OSError, ValueError) as error:
        text = str(error)
        answer = re.search(r"status code: (\d+)", text)
        code = answer[1] if answer else ""  # of lists the library names no kind of error
        if isinstance(error, FileNotFoundError) or code == "404":
            raise MissingError(f"{url} {missing}") from error
        if isinstance(error, kinds.PreconditionError):
            raise _changed(url) from error
        if isinstance(error, kinds.PermissionDeniedError | kinds.UnauthenticatedError) or code in _REFUSED:
            raise RefusedError(
                f"{url}: access is refused; give credentials by the environment (AWS_ACCESS_KEY_ID, ...)"
            ) from error
        raise _otherwise(url, error) from error


_REFUSED = ("401", "403")


def _otherwise(url: str, error: Exception) -> UserError:
    text = str(error)
    if odd := re.search(r'Error parsing Path "(.*?)"', text):
        return UserError(
            f"{url} cannot be read, as it names {odd[1]}; rename that: no part may be empty, . or .."
        )
    if re.search("[Rr]ange request not supported|non-partial response", text):
        return UserError(f"{url} cannot be read, as its server gives no parts of files; copy it to the disk")
    return UnreachableError(
        f"{url} cannot be reached ({_reason(error)}); check the network, the endpoint (AWS_ENDPOINT_URL, "
        "...) and the region"
    )


def _reason(error: Exception) -> str:
    """What is wrong, of an error of several lines that names the URL once more."""
    line = next(iter(str(error).splitlines()), "") or type(error).__name__
    tries = re.search(r"after (\d+) retries", line)
    said = line.rpartition(" - ")[2].strip().removeprefix("HTTP error: ")
    said = re.sub(r"https?://\S+", "it", said)[:120]
    return f"{said}, after {tries[1]} more tries" if tries else said
