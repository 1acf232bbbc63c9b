"""Fuzz what reads files that users bring: python tests/fuzz/readers.py --target tar.

Needs atheris (pip install atheris). Whatever a file holds, it is read or refused with a `UserError`: every
other exception, a hang and a large amount of memory end the run, and leave the input in the working folder.
"""

from __future__ import annotations

import argparse
import io
import logging
import sys
import tarfile
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["fastsemi", "tarfile", "csv", "json"]):
    from fastsemi.common.errors import UserError
    from fastsemi.loaders.index.archive_index import Found, _gather
    from fastsemi.loaders.index.index import Index, pack_paths
    from fastsemi.loaders.index.labels import select_labelled
    from fastsemi.loaders.sources import beton, parquet_scan, tar

import numpy as np
from PIL import Image

MAX_PIXELS = 10**6
SHARED = Path("/dev/shm")
WORK = Path(tempfile.mkdtemp(prefix="fastsemi-fuzz-", dir=SHARED if SHARED.is_dir() else None))


def picture() -> bytes:
    """A small PNG."""
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), (9, 99, 199)).save(buffer, "PNG")
    return buffer.getvalue()


def tar_seeds() -> list[bytes]:
    """Shards with classes of every kind, in every dialect of tar."""
    found = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=form) as shard:
            for name, data in (
                ("0.png", picture()),
                ("0.cls", b"1"),
                (f"{'long' * 20}/ä.png", picture()),
                (f"{'long' * 20}/ä.json", b'{"label": "x"}'),
            ):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                shard.addfile(member, io.BytesIO(data))
        found.append(buffer.getvalue())
    member = tarfile.TarInfo("0.cls")
    member.size = 2**62
    return [*found, member.tobuf(tarfile.GNU_FORMAT) + bytes(1024)]


def beton_seeds() -> list[bytes]:
    """Files of two images, with and without stored pixels."""
    from fastsemi.loaders.sources.open import open_source
    from fastsemi.loaders.write_beton import Encoding, write_beton

    for name in "ab":
        (WORK / "set" / name).mkdir(parents=True)
        (WORK / "set" / name / "1.png").write_bytes(picture())
    source = open_source(WORK, "set", has_classes=True, max_pixels=MAX_PIXELS)
    found = []
    for mode in ("raw", "jpeg"):
        write_beton(
            WORK / "x.beton",
            source,
            source.index,
            encoding=Encoding(mode, max_side=0),  # type: ignore[arg-type]
            max_pixels=MAX_PIXELS,
        )
        found.append((WORK / "x.beton").read_bytes())
    return found


def parquet_seeds() -> list[bytes]:
    """Files of every codec, with and without dictionaries."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": picture(), "path": "x.png"}] * 2, kind)
    table = pa.table({"image": images, "label": [0, 1]})
    found = []
    for codec in ("none", "snappy", "zstd"):
        for dictionary in (False, True):
            buffer = io.BytesIO()
            pq.write_table(table, buffer, compression=codec, use_dictionary=dictionary)
            found.append(buffer.getvalue())
    return found


def label_seeds() -> list[bytes]:
    """The two forms of label files, which the first byte chooses."""
    return [b"cIndex\n0\n2\n", b'cname,Index\n"a,b",1\n', b"t1.png\na/2.png\n", b"t\xef\xbb\xbfa/1.png\r\n"]


def _index() -> Index:
    names = [b"a/1.png", b"a/2.png", b"b/3.png"]
    blob, ends = pack_paths(names)
    sizes, none = np.full((3, 2), 9, np.int32), np.empty(0, np.int64)
    return Index(Path("/nowhere"), ("a", "b"), blob, ends, np.array([0, 0, 1], np.int32), sizes, none)


def archive(scan: Callable[[str], Found], suffix: str) -> Callable[[bytes], None]:
    """A target: the bytes as a file of a format."""
    path = WORK / f"fuzz{suffix}"

    def target(data: bytes) -> None:
        path.write_bytes(data)
        try:
            _gather([str(path)], scan, True, 1)
        except UserError:
            pass

    return target


def labels(data: bytes) -> None:
    """A target: the bytes as a file of labels."""
    path = WORK / ("labels.csv" if data[:1] == b"c" else "labels.txt")
    path.write_bytes(data[1:])
    try:
        ids = select_labelled(_index(), index_file=path)
        assert 0 < len(ids) == len(set(ids.tolist())) <= 3
    except UserError:
        pass


TARGETS = {
    "tar": (archive(lambda p: tar._scan(p, MAX_PIXELS, True), ".tar"), tar_seeds),
    "beton": (archive(lambda p: beton._scan(p, MAX_PIXELS), ".beton"), beton_seeds),
    "parquet": (archive(lambda p: parquet_scan.scan(p, MAX_PIXELS, True), ".parquet"), parquet_seeds),
    "labels": (labels, label_seeds),
}


def main() -> None:
    """Write the seeds, run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", choices=TARGETS, required=True, help="what to fuzz")
    parser.add_argument("--seconds", type=int, default=600, help="how long")
    parser.add_argument("--folder", type=Path, default=Path("build/fuzz"), help="where to work")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable()
    target, seeds = TARGETS[args.target]
    corpus = args.folder / f"corpus-{args.target}"
    corpus.mkdir(parents=True, exist_ok=True)
    for i, data in enumerate(seeds()):
        (corpus / f"seed-{i}").write_bytes(data)
    options = [f"-max_total_time={args.seconds}", "-max_len=20000", "-timeout=20", "-rss_limit_mb=4096"]
    options += [f"-artifact_prefix={args.folder}/", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
