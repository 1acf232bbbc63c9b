"""How fast images come from an object store that is slow and fails, beside the same shard on the disk.

`python -m benchmarks.loading.remote --json OUT` packs JPEGs into a tar shard, serves it from another process
with a latency before each answer and a share of requests that fail, and loads two views of every image with
the native engine: from the disk, from the store, and from the store through a cache that holds all images.
All pixels of an epoch must be the same. The ceiling is what the latency allows: requests at once over
seconds, so long as the server keeps up.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.harness import harness
from benchmarks.harness.harness import Case
from benchmarks.harness.photos import jpegs
from fastsemi.loaders.engines.choose import create_engine
from fastsemi.loaders.plan.draws import AugmentConfig, View
from fastsemi.loaders.plan.types import LoadedBatch
from fastsemi.loaders.prefetch import Prefetcher
from fastsemi.loaders.sources.archive import ArchiveSource
from fastsemi.loaders.sources.open import open_source
from fastsemi.loaders.sources.remote import Remote
from fastsemi.loaders.stream import Stream

_SIDE, _MAX_PIXELS = 224, 10**8


def _shard(path: Path, images: Sequence[Path]) -> None:
    with tarfile.open(path, "w") as tar:
        for i, image in enumerate(images):
            for name, data in ((f"{i:05}.jpg", image.read_bytes()), (f"{i:05}.cls", b"%d" % (i % 10))):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


@contextmanager
def _served(folder: Path, latency: float, failing: float) -> Iterator[None]:
    """The store in a process of its own, at the addresses that `s3://` means meanwhile."""
    command = [sys.executable, "-m", "benchmarks.loading.object_server", str(folder)]
    command += ["--latency", str(latency), "--failing", str(failing)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        os.environ |= {
            "AWS_ENDPOINT_URL": server.stdout.readline().strip(),
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "none",
            "AWS_SECRET_ACCESS_KEY": "none",
            "AWS_REGION": "us-east-1",
        }
        try:
            yield
        finally:
            server.terminate()


class _Epochs:
    """Loads every image once a call, in the order of the next epoch."""

    def __init__(self, source: ArchiveSource, batch: int, prefetch: int, threads: int):
        views = {View.WEAK: AugmentConfig(), View.STRONG: AugmentConfig()}
        ids = np.arange(len(source))
        self._stream = Stream(source.index, ids, batch, 1, views, None, 0, _SIDE, "unlabelled")
        self._engine = create_engine(
            "native", source, image_size=_SIDE, threads=threads, max_pixels=_MAX_PIXELS
        )
        self._prefetch, self._steps, self._next = prefetch, len(ids) // batch, 0

    def __call__(self) -> None:
        steps = range(self._next, self._next + self._steps)
        self._next = steps.stop
        for _ in self._load(steps):
            pass

    def checksum(self) -> int:
        """Of all pixels of the first epoch."""
        found = 0
        for batch in self._load(range(self._steps)):
            found = zlib.crc32(batch.images.numpy(), found)
        return found

    def _load(self, steps: range) -> Iterator[LoadedBatch]:
        plans = (self._stream.plan(step, 0) for step in steps)
        with Prefetcher(self._engine, plans, depth=self._prefetch) as batches:
            yield from batches


def main() -> None:
    """Pack, serve, time, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--latency", type=float, default=0.2, help="seconds before each answer")
    parser.add_argument("--failing", type=float, default=0.05, help="share of requests that fail")
    parser.add_argument("--requests", type=int, nargs="+", default=[64, 256], help="at once, one case each")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--prefetch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=harness.MIN_ROUNDS)
    parser.add_argument("--json", type=Path, help="file for the rows")
    args = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="fastsemi-remote-"))
    try:
        os.environ["FASTSEMI_CACHE"] = str(work / "cache")
        files, what = jpegs(work / "jpegs", args.images)
        (work / "store" / "bucket").mkdir(parents=True)
        _shard(work / "store" / "bucket" / "train.tar", files)
        options = {"has_classes": True, "max_pixels": _MAX_PIXELS}
        sources = {"disk": open_source(work / "store" / "bucket", "train.tar", **options)}
        with _served(work / "store", args.latency, args.failing):
            url = Path("s3://bucket")
            for requests in args.requests:
                far = Remote(None, 0, requests)
                sources[f"store, {requests} requests"] = open_source(url, "train.tar", remote=far, **options)
            kept = Remote(work / "objects", 2**34, args.requests[-1])
            sources["store, all in the cache"] = open_source(url, "train.tar", remote=kept, **options)
            images = args.images // args.batch * args.batch
            epochs = {
                name: _Epochs(source, args.batch, args.prefetch, args.threads)
                for name, source in sources.items()
            }
            if len({each.checksum() for each in epochs.values()}) > 1:
                raise SystemExit("the store's pixels are not those of the disk")
            cases = [Case(name, epoch, images) for name, epoch in epochs.items()]
            found = harness.measure(cases, rounds=args.rounds, progress=print)
    finally:
        shutil.rmtree(work)
    size = sum(length for length in sources["disk"].index.length.tolist()) / args.images / 1024
    shared = vars(args) | {"json": None, "what": what, "kib": size}
    rows = harness.rows(found, unit="images_per_s", threads=args.threads, configuration=shared)
    for row in rows:
        print(f"{row['name']:28s} {row['median']:8.0f} images/s ({row['p20']:.0f} to {row['p80']:.0f})")
    if args.json:
        harness.write(args.json, rows)


if __name__ == "__main__":
    main()
