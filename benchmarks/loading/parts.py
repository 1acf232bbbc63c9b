"""What the time of each row of the loaders consists of, by sampling, and what bounds the row.

    python -m benchmarks.loading.parts [--seconds 5] [--json OUT]

Each case runs in a process of its own, which Linux's `perf` samples while it works (`-e cpu-clock`: the
processors' time of all of its threads, in the kernel too); functions are added up to parts. Whole loaders and
the native operator alone, on JPEGs of ImageNet's sizes in the page cache, and the first build of the index of
a folder.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.harness import harness, photos
from benchmarks.harness.harness import Case, Measurement
from benchmarks.loading.comparison import Setup
from benchmarks.loading.engine_loaders import ENGINES
from benchmarks.loading.entropy import KNOWING, OWN, Work
from benchmarks.loading.index import make_tree
from benchmarks.loading.native_op import draw_windows
from fastsemi.common.errors import UserError
from fastsemi.loaders.index.cache import default_cache_dir
from fastsemi.loaders.index.index import build_index
from fastsemi.loaders.plan.windows import centre_crop

HERTZ = 1999
LOADERS = ("fastsemi native", "fastsemi native, JPEG index", "fastsemi native, raw .beton", "fastsemi dali")
OPERATOR = {
    "one view": OWN,
    "evaluation crop": OWN,
    "one view, known": KNOWING,
    "evaluation crop, known": KNOWING,
}
INDEX = "index, first build"
FILES = 20_000  # of the index
# The first that matches "library function".
PARTS = {
    "entropy decoding": r"decode_rows|Baseline|[Hh]uffman|decode_mcu|jpeg_fill_bit",
    "hash and index of the file": r"EntryPoints",
    "inverse DCT": r"idct|Views::(commit|flush|begin_row)|fill_block",
    "resize": r"horizontal|vertical|shuffle_products|dot_product|Views::resize|[Rr]esampl",
    "colour": r"ycc_to_rgb|planes_to_rgb|ycc_rgb|h2v[12]",
    "filter weights": r"_native.*(_filter|build_axis|quantise|evaluate|weigh|triangle|interleave|::plan)",
    "copy from the page cache": r"copy_to_iter|copy_user|rep_movs|filemap|copy_page_to_iter",
    "files in the kernel": r"kallsyms.*(open|path|lookup|dentry|inode|getname|stat|fput|ext4|fget|walk)",
    "memory in the kernel": r"kallsyms.*(fault|clear_page|folio|zap|alloc_pages|charge|lru|pte)",
    "threads in the kernel": r"kallsyms.*(sched|futex|switch|yield|wake|idle|spin|irqentry)",
    "rest of the kernel": r"kallsyms",
    "reading headers": r"_native.*(header|Header|read_file)",
    "the native operator, other": r"_native",
    "DALI": r"dali|nvimgcodec|nvjpeg|libjpeg",
    "Python, NumPy, plan": r"python|_multiarray|numpy|libtorch|_philox",
}


def loader_case(name: str, setup: Setup) -> tuple[Callable[[], object], int]:
    """A pass of a whole loader, and its images; the warm-up has learnt the JPEGs."""
    loader = ENGINES[name](setup)
    loader.run_pass(2)
    return partial(loader.run_pass, 1), len(setup.files)


def operator_case(name: str, setup: Setup) -> tuple[Callable[[], object], int]:
    """All files through the native operator with one thread."""
    windows = draw_windows(setup.sizes, 1)
    if name.startswith("evaluation"):
        windows = centre_crop(setup.sizes, 0.875)[None]
    work = Work([Path(file).read_bytes() for file in setup.files], setup.sizes, windows)
    return partial(work.cut, OPERATOR[name], windows), len(setup.files)


def index_case(name: str, setup: Setup) -> tuple[Callable[[], object], int]:
    """The first build of an index of tiny JPEGs."""
    root, cache = setup.work / "train", setup.work / "cache"
    make_tree(root, FILES, 100, hard_links=False)

    def build() -> None:
        shutil.rmtree(cache, ignore_errors=True)
        build_index(root, has_classes=True, cache_dir=cache, threads=setup.threads)

    return build, FILES


CASES: dict[str, Callable[[str, Setup], tuple[Callable[[], object], int]]] = {
    **dict.fromkeys(LOADERS, loader_case),
    **dict.fromkeys(OPERATOR, operator_case),
    INDEX: index_case,
}


def part_of(function: str) -> str:
    """The part that "library function" counts to."""
    return next((part for part, pattern in PARTS.items() if re.search(pattern, function)), "other")


def shares(report: str) -> dict[str, float]:
    """Share of each part, from the lines `percent|library|function` of `perf report`, largest first."""
    found: dict[str, float] = {}
    for line in report.splitlines():
        fields = [field.strip() for field in line.split("|")]
        if len(fields) == 3 and fields[0].endswith("%"):
            part = part_of(f"{fields[1]} {fields[2]}")
            found[part] = found.get(part, 0.0) + float(fields[0][:-1]) / 100
    total = sum(found.values())
    if not total:
        raise UserError("perf took no samples; allow it with sysctl kernel.perf_event_paranoid=1")
    return {part: share / total for part, share in sorted(found.items(), key=lambda item: -item[1])}


def sample(run: Callable[[], object], seconds: float, data: Path) -> tuple[list[float], dict[str, float]]:
    """The processors' seconds of each `run` until `seconds` are over, and the parts of all."""
    command = [
        "perf",
        "record",
        "-q",
        "-e",
        "cpu-clock",
        "-F",
        str(HERTZ),
        "-p",
        str(os.getpid()),
        "-o",
        str(data),
    ]
    recorder = subprocess.Popen([*command, "--", "sleep", str(seconds)], stderr=subprocess.DEVNULL)
    times = []
    while recorder.poll() is None or len(times) < harness.MIN_ROUNDS:
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    command = ["perf", "report", "-i", str(data), "--stdio", "--no-children", "-g", "none", "-t", "|"]
    done = subprocess.run([*command, "-F", "overhead,dso,sym"], capture_output=True, text=True)
    return times, shares(done.stdout)


def measure(name: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """The row of one case."""
    files, what = photos.jpegs(default_cache_dir().parent / "photos", args.count)
    sizes = []
    for path in files:
        path.read_bytes()  # into the page cache
        with Image.open(path) as image:
            sizes.append(image.size)
    with tempfile.TemporaryDirectory(prefix="fastsemi-parts-") as folder:
        setup = Setup(tuple(map(str, files)), np.array(sizes, np.int32), Path(folder), args.threads)
        setup = setup if name in LOADERS or name == INDEX else replace(setup, threads=1)
        run, items = CASES[name](name, setup)
        times, parts = sample(run, args.seconds, Path(folder) / "perf.data")
    configuration = {"what": what, "files": items, "hertz": HERTZ, "clock": "the processors' time"}
    measured = [Measurement(Case(name, run, items), tuple(times))]
    (row,) = harness.rows(measured, unit="images_per_s", threads=setup.threads, configuration=configuration)
    return [row | {"us": harness.spread([1e6 * t / items for t in times]), "parts": parts}]


def run() -> None:
    """Measure every case in a process of its own and print its parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", choices=CASES, action="append", help="only this one; may be given again")
    parser.add_argument("--seconds", type=float, default=5.0, help="that each case is sampled for")
    parser.add_argument("--count", type=int, default=192, help="JPEGs")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if shutil.which("perf") is None:
        raise UserError("perf is not installed; Debian: apt install linux-perf")
    rows: list[dict[str, Any]] = []
    for name in args.case or CASES:
        if args.alone:
            rows += measure(name, args)
            continue
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "row.json"
            command = [
                sys.executable,
                "-m",
                "benchmarks.loading.parts",
                "--alone",
                "--case",
                name,
                "--json",
                str(out),
            ]
            command += [
                "--seconds",
                str(args.seconds),
                "--count",
                str(args.count),
                "--threads",
                str(args.threads),
            ]
            if subprocess.run(command).returncode:
                raise UserError(f"{name} could not be measured; its error stands above")
            rows += harness.read(out)
        print(f"{name}: {rows[-1]['us']['median']:.0f} us an image; {described(rows[-1]['parts'])}")
    if args.json:
        harness.write(args.json, rows)


def described(parts: dict[str, float]) -> str:
    """Parts of at least 3 %, largest first."""
    return ", ".join(f"{part} {share:.0%}" for part, share in parts.items() if share >= 0.03)


if __name__ == "__main__":
    sys.exit(harness.exit_code(run))
