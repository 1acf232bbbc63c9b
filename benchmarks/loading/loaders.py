"""Two 224-pixel views of every image: fastsemi's engines and their peers, in one run on the same files.

    python -m benchmarks.loading.loaders [--images DIR] [--json OUT.json] [--plots DIR]

Part `views` only cuts and resizes; part `augmented` adds the weak view's colour jitter and the strong view's
RandAugment (peers: in their workers; fastsemi: on the GPU where there is one, else on the same CPU cores).
The process is held to as many cores as it has threads. Every round starts and ends with idle workers and
empty queues, with all files in the page cache, and is so many passes that it lasts half a second, 24 at the
most. What is not installed is named and left out.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.harness import harness, photos
from benchmarks.harness.environment import environment
from benchmarks.harness.photo_sources import copy_images, large_jpegs
from benchmarks.loading.comparison import AbsentError, MeasuredLoader, Setup
from benchmarks.loading.engine_loaders import ENGINES
from benchmarks.loading.peer_dali import dali
from benchmarks.loading.peer_ffcv import ffcv
from benchmarks.loading.peer_nvjpeg import nvjpeg
from benchmarks.loading.peer_spdl import spdl, torchcodec
from benchmarks.loading.peers import paper, torchvision_v2
from fastsemi.common.errors import UserError
from fastsemi.loaders.index.cache import default_cache_dir

PARTS = ("views", "augmented")
PEERS: dict[str, Callable[[Setup], MeasuredLoader]] = {
    "paper (Pillow, timm)": paper,
    "torchvision v2": torchvision_v2,
    "torchvision nvJPEG": nvjpeg,
    "DALI stock": dali,
    "DALI stock, GPU": partial(dali, gpu=True),
    "DALI stock, GPU, two decodes": partial(dali, gpu=True, two_decodes=True),
    "FFCV stock, two fields": ffcv,
    "SPDL": spdl,
    "SPDL, TorchCodec": torchcodec,
}
LOADERS: dict[str, Callable[[Setup], MeasuredLoader]] = {**ENGINES, **PEERS}
NATIVE = "fastsemi native"
# A round of a fast loader is several passes, which start up once.
MIN_SECONDS, MAX_PASSES = 0.5, 24
SCALING = "fastsemi,full decode,paper,torchvision"
SLOW = ("fastsemi reference",)  # one thread by design: measured when asked for by name


def choose(only: str | None) -> list[str]:
    """Names of the loaders that contain one of the comma-separated words of `only`; else all but slow ones.

    Raises:
        UserError: A word that no name contains.
    """
    if not only:
        return [name for name in LOADERS if name not in SLOW]
    chosen: set[str] = set()
    for word in (w.strip().lower() for w in only.split(",")):
        found = {name for name in LOADERS if word in name.lower()}
        if not found:
            raise UserError(f"--only {word!r} is part of no name; the names are: {'; '.join(LOADERS)}")
        chosen |= found
    return [name for name in LOADERS if name in chosen]


@contextmanager
def open_loaders(
    names: list[str], setup: Setup
) -> Iterator[tuple[dict[str, MeasuredLoader], dict[str, str]]]:
    """Open all that can run; the second dictionary says why the others cannot."""
    opened: dict[str, MeasuredLoader] = {}
    absent: dict[str, str] = {}
    with ExitStack() as stack:
        for name in names:
            try:
                opened[name] = LOADERS[name](setup)
            except AbsentError as error:
                absent[name] = str(error)
                print(f"absent: {name}: {error}", file=sys.stderr)
            else:
                stack.callback(opened[name].close)
        yield opened, absent


def run_part(
    part: str,
    names: list[str],
    setup: Setup,
    rounds: int,
    progress: Callable[[str], None],
    *,
    what: str = "",
    seconds: float | None = None,
    keep: Callable[[list[dict[str, Any]]], None] = lambda rows: None,
) -> list[dict[str, Any]]:
    """Rows of one part.

    Args:
        part: `views` or `augmented`.
        names: Of the loaders.
        setup: What all of them are given.
        rounds: Measured rounds.
        progress: Called with one line after each run.
        what: Which pictures these are.
        seconds: After which no further round begins.
        keep: Called with the rows so far after each round.

    Raises:
        RuntimeError: A loader did not deliver every image.
    """

    def passes(name: str, loader: MeasuredLoader, times: int) -> Callable[[], None]:
        def run() -> None:
            delivered, expected = loader.run_pass(times), times * len(setup.files)
            if delivered != expected:
                raise RuntimeError(f"{name} delivered {delivered} of {expected} images")

        return run

    with open_loaders(names, setup) as (opened, absent):
        cases = []
        for name, loader in opened.items():
            passes(name, loader, 1)()  # starts the workers
            one = harness.wall_seconds(passes(name, loader, 1))
            times = min(MAX_PASSES, math.ceil(MIN_SECONDS / one))
            cases.append(
                harness.Case(
                    f"loaders/{part}/{name}",
                    passes(name, loader, times),
                    times * len(setup.files),
                    details={"part": part, "label": name, "passes": times},
                )
            )
        measured = harness.measure(
            cases,
            rounds=rounds,
            seconds=seconds,
            progress=progress,
            keep=lambda measured: keep(_rows(measured, setup, what, absent)),
        )
    return _rows(measured, setup, what, absent)


def _rows(
    measured: list[harness.Measurement], setup: Setup, what: str, absent: dict[str, str]
) -> list[dict[str, Any]]:
    size = sum(os.path.getsize(path) for path in setup.files) / len(setup.files)
    configuration = {
        **{"images": len(setup.files), "mean_bytes": round(size), "batch": setup.batch},
        **{"mean_width": float(setup.sizes[:, 0].mean()), "mean_height": float(setup.sizes[:, 1].mean())},
        **{"image_size": setup.image_size, "views": 2, "absent": absent, "what": what},
    }
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return harness.rows(
        measured, unit="images_per_s", threads=setup.threads, configuration=configuration, device=device
    )


def summary(rows: list[dict[str, Any]]) -> str:
    """What was measured, fastest first, with the ratio of the native engine to each."""
    lines = []
    natives = {row["run"]: row for row in rows if row["label"] == NATIVE}
    for run in dict.fromkeys(row["run"] for row in rows):
        mine = sorted((row for row in rows if row["run"] == run), key=lambda row: -row["median"])
        native = natives.get(run)
        for row in mine:
            line = (
                f"{row['part']:10}{row['threads']:4} threads  {row['label']:32}{row['median']:9.0f} images/s"
            )
            line += f"  ({row['p20']:.0f} to {row['p80']:.0f}, n={row['n']})"
            if native is not None and native is not row:
                r = harness.ratio(native, row)
                line += f"  native is {r['median']:.2f} x ({r['p20']:.2f} to {r['p80']:.2f})"
            lines.append(line)
    return "\n".join(lines)


@contextmanager
def limited(threads: int) -> Iterator[None]:
    """Hold this process, and what it starts, to as many cores as it has threads."""
    environment()  # before this process gives up cores
    before, cores = torch.get_num_threads(), os.sched_getaffinity(0)
    torch.set_num_threads(threads)
    os.sched_setaffinity(0, sorted(cores)[:threads])
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
        torch.set_num_threads(before)


def measure(args: argparse.Namespace, files: list[Path], what: str, work: Path) -> list[dict[str, Any]]:
    """Rows of all parts with `args.threads` threads, on as many cores; written after each round."""
    sizes = []
    for path in files:
        path.read_bytes()  # into the page cache
        with Image.open(path) as image:
            sizes.append(image.size)
    names = choose(args.only)
    rows: list[dict[str, Any]] = []

    def keep(found: list[dict[str, Any]]) -> None:
        if args.json:
            harness.write(args.json, [*rows, *found])

    with limited(args.threads):
        for part in args.parts.split(","):
            setup = Setup(
                files=tuple(str(path) for path in files),
                sizes=np.array(sizes, dtype=np.int32),
                work=work,
                threads=args.threads,
                augment=part == "augmented",
                batch=args.batch,
            )
            options: dict[str, Any] = {"what": what, "keep": keep}
            if args.seconds:
                options["seconds"] = args.seconds / len(args.parts.split(","))
            rows += run_part(part, names, setup, args.rounds, _say, **options)
    return rows


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def scaling(args: argparse.Namespace, folder: Path, work: Path) -> list[dict[str, Any]]:
    """Rows of part `views` with the thread counts of `--scaling`, each in a process of its own.

    Of the peers only some, unless `--only` names them: one point more of each is not worth its time.
    """
    rows = []
    for threads in args.scaling:
        out = work / f"threads-{threads}.json"
        options = {"images": folder, "count": args.count, "threads": threads, "rounds": args.rounds}
        options |= {"batch": args.batch, "parts": "views", "json": out, "work": work}
        options["only"] = args.only or SCALING
        command = [sys.executable, "-m", "benchmarks.loading.loaders"]
        command += [text for name, value in options.items() for text in (f"--{name}", str(value))]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=Path(__file__).parents[2])
        rows += harness.read(out)
    return rows


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--images", type=Path, help="folder of JPEGs; by default photographs are cut to size")
    parser.add_argument(
        "--large", action="store_true", help="computed pictures of 1,600 x 1,200 pixels instead"
    )
    parser.add_argument("--count", type=int, default=1024, help="images, rounded down to whole batches")
    parser.add_argument("--threads", type=int, default=cores, help="threads, worker processes and cores")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--parts", default=",".join(PARTS), help="of " + ",".join(PARTS))
    parser.add_argument("--only", help="parts of names, separated by commas")
    parser.add_argument(
        "--scaling", type=int, nargs="*", default=[], help="further thread counts, views only"
    )
    parser.add_argument("--seconds", type=float, help="of all parts; what is measured by then is kept")
    parser.add_argument("--json", type=Path, help="file for the rows")
    parser.add_argument("--plots", type=Path, help="folder for plots as PNG and SVG")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)  # where --scaling finds what was written
    args = parser.parse_args(argv)
    if not set(args.parts.split(",")) <= set(PARTS):
        raise UserError(f"--parts {args.parts} is unknown; use {' or '.join(PARTS)}")
    for threads in (args.threads, *args.scaling):
        if not 1 <= threads <= cores:
            raise UserError(f"{threads} threads do not fit this machine; use 1 to {cores}")
    if args.count < args.batch:
        raise UserError(
            f"--count {args.count} does not fill a batch of {args.batch}; raise it or lower --batch"
        )
    args.count -= args.count % args.batch
    return args


def run(argv: list[str] | None = None) -> list[dict[str, Any]]:
    """Measure, print and write what the command line asks for.

    Raises:
        UserError: Wrong options, or no images.
    """
    args = parse(argv)
    choose(args.only)
    with tempfile.TemporaryDirectory(prefix="fastsemi-loaders-") as folder:
        work = args.work or Path(folder)
        if args.images:
            files = copy_images(args.images, Path(folder) / "images", args.count)
            what = "a folder of the user's"
        elif args.large:
            files, what = large_jpegs(Path(folder) / "large", args.count)
        else:
            files, what = photos.jpegs(default_cache_dir().parent / "photos", args.count)
        rows = measure(args, files, what, work) + scaling(args, files[0].parent, work)
    print(summary(rows))
    if args.json:
        harness.write(args.json, rows)
    if args.plots:
        from benchmarks.harness import plots

        plots.loaders(rows, args.plots)
    return rows


if __name__ == "__main__":
    sys.exit(harness.exit_code(run))
