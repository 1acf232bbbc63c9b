"""What the native operator's own entropy decoder is worth, and what it has learnt of the files beside it.

    python -m benchmarks.loading.entropy [--images FOLDER] [--json OUT]

The operator cuts views of 224 pixels with libjpeg-turbo's entropy decoder, with its own one, with its own one
while it learns where parts of the files begin (the first epoch), and when it knows (later ones). Of JPEGs of
ImageNet's sizes and of 1,600 x 1,200 pixels, or of a folder: one view and two with windows as
RandomResizedCrop draws them (area 0.08 to 1), and the centre of 0.875 that evaluation shows. One thread,
by the processor's time, files in memory.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg

from benchmarks.harness.harness import Case, exit_code, measure, processor_seconds, ratio, rows, spread, write
from benchmarks.harness.photo_sources import LARGE, large_jpegs
from benchmarks.harness.photos import jpegs
from benchmarks.loading.native_op import ANY_SIZE, SIDE, draw_windows
from fastsemi import _native
from fastsemi.common.errors import UserError
from fastsemi.loaders.engines.jpeg_index import JpegIndex
from fastsemi.loaders.plan.windows import centre_crop

LIBJPEG, OWN, LEARNING, KNOWING = "libjpeg-turbo's", "own", "own, first epoch", "own, later epochs"


class Work:
    """Some files and windows; each decoder cuts all of them once."""

    def __init__(self, files: list[bytes], sizes: np.ndarray, windows: np.ndarray):
        index = JpegIndex.create(sizes, 2**40)
        if index is None:
            raise UserError("the images are too small for an index; give larger ones with --images")
        self.files, self.sizes, self.windows, self.index = files, sizes, windows, index
        memory = {"words": index.words, "starts": index.starts}
        self.operators = {
            LIBJPEG: _native.Operator(1, "", False),
            OWN: _native.Operator(1),
            LEARNING: _native.Operator(1, **memory),
            KNOWING: _native.Operator(1, **memory),
        }
        whole = np.zeros((1, len(files), 4), np.int32)
        whole[..., 2:] = sizes
        self.cut(KNOWING, whole)
        self.known = index.words.copy()

    def cut(self, decoder: str, windows: np.ndarray) -> np.ndarray:
        """Views [V, B, S, S, 3]."""
        operator, ids = self.operators[decoder], np.arange(len(self.files))
        out = np.zeros((*windows.shape[:2], SIDE, SIDE, 3), np.uint8)
        arguments = (windows, np.zeros(windows.shape[:2], bool), out, ANY_SIZE, self.sizes, ids)
        for code, message in operator.wait(operator.submit(self.files, False, *arguments), 600):
            if code:
                raise UserError(f"a file is no JPEG that the operator reads ({message}); remove it")
        return out

    def run(self, decoder: str) -> None:
        """All files; `LEARNING` begins with nothing, `KNOWING` with all, which leaves the time of a copy."""
        self.index.words[:] = self.known if decoder == KNOWING else 0
        self.cut(decoder, self.windows)

    def check(self) -> None:
        """All decoders give the same views."""
        expected = self.cut(LIBJPEG, self.windows)
        for decoder in self.operators:
            if not np.array_equal(self.cut(decoder, self.windows), expected):
                raise UserError(f"the views of {decoder} differ from those of {LIBJPEG}")

    def cases(self) -> list[Case]:
        """One a decoder."""
        count = len(self.files)
        return [Case(d, partial(self.run, d), count, processor_seconds) for d in self.operators]


def file_sets(folder: Path, args: argparse.Namespace) -> Iterator[tuple[str, list[Path]]]:
    """What the files are, and the files."""
    if args.images:
        yield "JPEGs", sorted(args.images.rglob("*.jp*g"))
        return
    paths, what = jpegs(folder / "imagenet", args.count)
    yield f"JPEGs of ImageNet's sizes ({what})", paths
    paths, what = large_jpegs(folder / "large", args.large)
    yield f"JPEGs of {LARGE[0]:,} x {LARGE[1]:,} pixels ({what})", paths


def result(work: Work, what: str, views: str, rounds: int) -> list[dict[str, Any]]:
    """Rows of one kind of files and views."""
    work.check()
    count = len(work.files)
    configuration = {
        "what": what,
        "files": count,
        "kib": sum(map(len, work.files)) / count / 1024,
        "views": views,
        "side": SIDE,
        "clock": "the processor's clock",
        "index_bytes": work.index.words.nbytes / count,
    }
    found = rows(
        measure(work.cases(), rounds=rounds), unit="images_per_s", threads=1, configuration=configuration
    )
    by_name = {row["name"]: row for row in found}
    for row in found:
        row["decoder"] = row["name"]
        row["us"] = spread([1e6 / rate for rate in row["samples"]])
        row["of_libjpeg"] = None if row["decoder"] == LIBJPEG else ratio(row, by_name[LIBJPEG])
        row["of_own"] = ratio(row, by_name[OWN]) if row["decoder"] in (LEARNING, KNOWING) else None
        row["name"] = f"{what}/{views}/{row['decoder']}"
    return found


def run() -> None:
    """Measure all and print a line for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, help="folder of JPEGs, in place of those that are made")
    parser.add_argument("--count", type=int, default=100, help="files of ImageNet's sizes")
    parser.add_argument("--large", type=int, default=12, help="files of 1,600 pixels")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for what, paths in file_sets(Path(folder), args):
            files = [path.read_bytes() for path in paths]
            if not files:
                raise UserError(f"no JPEGs below {args.images}; give a folder that holds some")
            headers = [simplejpeg.decode_jpeg_header(data) for data in files]
            sizes = np.array([(width, height) for height, width, *_ in headers], np.int32)
            for views, windows in (
                ("one", draw_windows(sizes, 1)),
                ("two", draw_windows(sizes, 2)),
                ("evaluation", centre_crop(sizes, 0.875)[None]),
            ):
                found += result(Work(files, sizes, windows), what, views, args.rounds)
                for row in found[-4:]:
                    shares = [row[of] and row[of]["median"] for of in ("of_libjpeg", "of_own")]
                    text = ", ".join(f"{share:.2f} x" if share else "-" for share in shares)
                    us = row["us"]
                    print(
                        f"{row['name']}: {us['median']:.0f} us ({us['p20']:.0f} to {us['p80']:.0f}), {text}"
                    )
                if args.json:
                    write(args.json, found)


def main() -> int:
    """Run the benchmark."""
    return exit_code(run)


if __name__ == "__main__":
    sys.exit(main())
