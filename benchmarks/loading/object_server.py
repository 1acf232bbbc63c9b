"""A small object store that is slow and fails as told: S3's reads, lists and writes, and plain HTTP.

    python -m benchmarks.loading.object_server FOLDER --latency 0.2 --failing 0.05

serves FOLDER/<bucket>/<key>; its first line of output is the URL, for AWS_ENDPOINT_URL. Nothing is signed or
checked. Where a real S3 server is wanted, use moto or MinIO.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape, unescape


@dataclass
class Faults:
    """What goes wrong; shares of all requests, drawn one after the other."""

    latency: float = 0.0
    """Seconds before each answer."""
    failing: float = 0.0
    """Answered with 503."""
    cut: float = 0.0
    """Answered with half of the body; then the connection is closed."""
    stalled: float = 0.0
    """Never answered: the connection is held for `stall` seconds and closed."""
    stall: float = 30.0
    """Seconds."""
    page: int = 1000
    """Objects of a page of a list."""


@dataclass
class Seen:
    """What was asked for."""

    requests: Counter[str] = field(default_factory=Counter)
    """By method, and `failed`, `cut` and `stalled`."""
    body: int = 0
    """Bytes of objects sent."""
    at_once: int = 0
    """Requests under way at the same time, at most."""


class ObjectServer:
    """Serves a folder whose folders are buckets, in threads; a context manager.

    Args:
        folder: The buckets.
        faults: What goes wrong; may be changed at any time.
        seed: Of what fails.
    """

    def __init__(self, folder: Path, faults: Faults | None = None, seed: int = 0):
        self.folder, self.faults, self.seen = folder, faults or Faults(), Seen()
        self._random, self._lock, self._busy = random.Random(seed), threading.Lock(), 0
        self.parts: dict[str, dict[int, bytes]] = {}
        outer = self

        class Handler(_Handler):
            server_of = outer

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def draw(self) -> str:
        """What happens to the next request: "", or the name of a fault."""
        with self._lock:
            at = self._random.random()
        for name, share in (
            ("failed", self.faults.failing),
            ("cut", self.faults.cut),
            ("stalled", self.faults.stalled),
        ):
            if at < share:
                return name
            at -= share
        return ""

    def count(self, name: str) -> None:
        """One more request."""
        with self._lock:
            self.seen.requests[name] += 1

    def busy(self, change: int) -> None:
        """A request begins or ends."""
        with self._lock:
            self._busy += change
            self.seen.at_once = max(self.seen.at_once, self._busy)

    def sent(self, count: int) -> None:
        """Bytes that went out."""
        with self._lock:
            self.seen.body += count


class _Handler(BaseHTTPRequestHandler):
    server_of: ObjectServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._faulty(self._get)

    def do_HEAD(self) -> None:
        self._faulty(self._get)

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._faulty(lambda fault: self._put(body))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        query = parse_qs(urlsplit(self.path).query, keep_blank_values=True)
        if "uploads" in query or "uploadId" in query:
            self._faulty(lambda fault: self._upload(query.get("uploadId")))
        else:
            self._faulty(lambda fault: self._delete(re.findall("<Key>(.*?)</Key>", body)))

    def _faulty(self, answer) -> None:  # type: ignore[no-untyped-def]
        outer = self.server_of
        outer.count(self.command)
        outer.busy(1)
        try:
            fault = outer.draw()
            time.sleep(outer.faults.latency)
            if fault:
                outer.count(fault)
            if fault == "failed":
                self._send(503, b"<Error><Code>SlowDown</Code></Error>")
            elif fault == "stalled":
                time.sleep(outer.faults.stall)
                self.close_connection = True
            else:
                answer(fault)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            outer.busy(-1)

    def _get(self, fault: str) -> None:
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        path = self.server_of.folder / unquote(parts.path).strip("/")
        if "list-type" in query:
            return self._list(path, query)
        if not path.is_file():
            return self._send(404, b"<Error><Code>NoSuchKey</Code></Error>")
        status = path.stat()
        etag = f'"{status.st_mtime_ns:x}-{status.st_size:x}"'
        if self.headers.get("If-Match") not in (None, etag):
            return self._send(412, b"<Error><Code>PreconditionFailed</Code></Error>")
        headers = {"ETag": etag, "Last-Modified": formatdate(status.st_mtime, usegmt=True)}
        start, end, code = 0, status.st_size, 200
        if asked := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "")):
            if asked[1]:
                start, end = int(asked[1]), min(int(asked[2] or end - 1) + 1, end)
            else:
                start = max(0, end - int(asked[2]))
            headers["Content-Range"], code = f"bytes {start}-{end - 1}/{status.st_size}", 206
        with path.open("rb") as file:
            file.seek(start)
            body = file.read(end - start)
        self._send(code, body, headers, cut=fault == "cut")

    def _upload(self, known: list[str] | None) -> None:
        """Begin an object of several parts, or end it."""
        parts = self.server_of.parts
        if known is None:
            upload = f"upload-{len(parts)}"
            parts[upload] = {}
            answer = f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId>"
            return self._send(200, f"{answer}</InitiateMultipartUploadResult>".encode())
        self._write(b"".join(part for _, part in sorted(parts[known[0]].items())))
        answer = "<CompleteMultipartUploadResult><ETag>new</ETag></CompleteMultipartUploadResult>"
        self._send(200, answer.encode())

    def _put(self, body: bytes) -> None:
        query = parse_qs(urlsplit(self.path).query)
        if "uploadId" in query:
            self.server_of.parts[query["uploadId"][0]][int(query["partNumber"][0])] = body
        else:
            self._write(body)
        self._send(200, b"", {"ETag": '"new"'})

    def _write(self, body: bytes) -> None:
        path = self.server_of.folder / unquote(urlsplit(self.path).path).strip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{threading.get_ident()}")
        temporary.write_bytes(body)
        os.replace(temporary, path)

    def _delete(self, keys: list[str]) -> None:
        bucket = self.server_of.folder / unquote(urlsplit(self.path).path).strip("/")
        for key in keys:
            path = bucket / unescape(key)
            path.unlink(missing_ok=True)
            for folder in path.parents:  # a bucket has no folders that are left empty
                if folder == bucket or not folder.is_dir() or any(folder.iterdir()):
                    break
                folder.rmdir()
        rows = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
        self._send(200, f"<DeleteResult>{rows}</DeleteResult>".encode())

    def _list(self, bucket: Path, query: dict[str, list[str]]) -> None:
        prefix, after = query.get("prefix", [""])[0], query.get("continuation-token", [""])[0]
        delimiter = query.get("delimiter", [""])[0]
        files = [p for p in bucket.rglob("*") if p.is_file() or not any(p.iterdir())]
        # an empty folder is what a console makes of one: an object of no bytes
        keys = [f"{p.relative_to(bucket)}{'/' * p.is_dir()}" for p in files]
        found: dict[str, Path | None] = {}
        for key in keys:
            if key.startswith(prefix):
                inside, mark, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
                found[prefix + inside + mark if mark else key] = None if mark else bucket / key
        names = sorted(name for name in found if name > after)
        page = names[: self.server_of.faults.page]
        rows = [f"<IsTruncated>{str(len(page) < len(names)).lower()}</IsTruncated>"]
        if len(page) < len(names):
            rows.append(f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>")
        for name in page:
            path = found[name]
            if path is None:
                rows.append(f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>")
                continue
            status = path.stat()
            changed = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(status.st_mtime))
            rows.append(
                f"<Contents><Key>{escape(name)}</Key><LastModified>{changed}</LastModified>"
                f"<ETag>&quot;{status.st_mtime_ns:x}-{status.st_size:x}&quot;</ETag>"
                f"<Size>{status.st_size * path.is_file()}</Size></Contents>"
            )
        body = f"<ListBucketResult><Name>{bucket.name}</Name>{''.join(rows)}</ListBucketResult>"
        self._send(200, body.encode(), {"Content-Type": "application/xml"})

    def _send(self, code: int, body: bytes, headers: dict[str, str] | None = None, cut: bool = False) -> None:
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        sent = body[: len(body) // 2] if cut else body
        self.wfile.write(sent)
        if headers and "ETag" in headers:
            self.server_of.sent(len(sent))
        if cut:
            self.wfile.flush()
            self.close_connection = True


def main() -> None:
    """Serve a folder until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--failing", type=float, default=0.0)
    options = parser.parse_args()
    with ObjectServer(options.folder, Faults(latency=options.latency, failing=options.failing)) as server:
        print(server.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
