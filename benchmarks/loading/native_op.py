"""The C++ operator against what bounds it and what it replaces, all cases interleaved in one run.

    python -m benchmarks.loading.native_op [--images FOLDER] [--threads 2] [--json OUT]

Two views of 224 pixels of every JPEG in the folder, windows as RandomResizedCrop draws them (area 0.08 to 1,
ratio 3/4 to 4/3). Without a folder, photographs at ImageNet's sizes are cut
(`benchmarks.harness.photos`). Files are read before the clock starts.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import simplejpeg
import torch
from torch.nn.functional import interpolate

from benchmarks.harness.harness import Case, measure, ratio, rows, write
from benchmarks.harness.photos import cut
from fastsemi import _native
from fastsemi.common.errors import UserError
from fastsemi.loaders.engines.native_operator import Operator

SIDE = 224
ANY_SIZE = 10**9
CEILING = "full decode alone"


def draw_windows(sizes: np.ndarray, views: int) -> np.ndarray:
    """RandomResizedCrop windows [V, B, 4] for sizes [B, 2]."""
    rng = np.random.default_rng(1)
    windows = np.zeros((views, len(sizes), 4), np.int32)
    for v, b in np.ndindex(views, len(sizes)):
        width, height = sizes[b]
        w = h = 0
        while not (0 < w <= width and 0 < h <= height):
            area = rng.uniform(0.08, 1.0) * width * height
            aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
            w, h = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        windows[v, b] = rng.integers(0, width - w + 1), rng.integers(0, height - h + 1), w, h
    return windows


class Work:
    """What is timed; each method handles all files once with the same number of threads."""

    def __init__(self, files: list[bytes], threads: int):
        self.files = files
        headers = [simplejpeg.decode_jpeg_header(data) for data in files]
        self.sizes = np.array([(width, height) for height, width, *_ in headers], np.int32)
        self.windows = draw_windows(self.sizes, 2)
        self.flips = np.random.default_rng(2).random(self.windows.shape[:2]) < 0.5
        self.out = np.zeros((2, len(files), SIDE, SIDE, 3), np.uint8)
        self.pool = ThreadPoolExecutor(threads)
        self.operators = {name: Operator(threads, name) for name in _native.available_kernels()}
        self.local = threading.local()

    def chunks(self, work: Callable[[int], None]) -> None:
        """Call `work` for every file in the pool."""

        def run(start: int) -> None:
            for b in range(start, min(start + 8, len(self.files))):
                work(b)

        list(self.pool.map(run, range(0, len(self.files), 8)))

    def full_decode(self, b: int) -> None:
        """The whole image to RGB, into memory that is kept."""
        if not hasattr(self.local, "buffer"):
            self.local.buffer = bytearray(int(self.sizes.prod(1).max()) * 3)
        simplejpeg.decode_jpeg(self.files[b], buffer=self.local.buffer)

    def torch_views(self, b: int) -> None:
        """The whole image, then PyTorch's antialiased resize."""
        image = torch.from_numpy(simplejpeg.decode_jpeg(self.files[b])).permute(2, 0, 1)[None]
        for v, (left, top, width, height) in enumerate(self.windows[:, b].tolist()):
            crop = image[:, :, top : top + height, left : left + width]
            view = interpolate(crop, (SIDE, SIDE), mode="bicubic", antialias=True)[0].permute(1, 2, 0).numpy()
            self.out[v, b] = view[:, ::-1] if self.flips[v, b] else view

    def native(self, kernels: str) -> None:
        """The operator."""
        operator = self.operators[kernels]
        ticket = operator.submit(self.files, self.windows, self.flips, self.out, ANY_SIZE, self.sizes)
        errors = [error for error in operator.wait(ticket, 600) if error]
        if errors:
            raise UserError(f"a benchmark file is broken: {errors[0]}; remove it")

    def cases(self, portable: bool) -> list[Case]:
        """The ceiling first."""
        names = [name for name in self.operators if portable or name != "portable"]
        runs: dict[str, Callable[[], None]] = {
            CEILING: lambda: self.chunks(self.full_decode),
            "simplejpeg + torch": lambda: self.chunks(self.torch_views),
        }
        runs |= {f"native ({name})": partial(self.native, name) for name in names}
        return [Case(name, run, len(self.files)) for name, run in runs.items()]

    def close(self) -> None:
        """End all threads."""
        self.pool.shutdown()
        for operator in self.operators.values():
            operator.close()


def main() -> int:
    """Time all cases and print one line for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, help="folder of JPEGs; by default photographs are cut")
    parser.add_argument("--count", type=int, default=200, help="files to cut")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--portable", action="store_true", help="also the kernels without SIMD instructions")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            paths = sorted(args.images.rglob("*.jp*g")) if args.images else cut(Path(folder), args.count)
            files = [path.read_bytes() for path in paths]
        work = Work(files, args.threads)
        measured = measure(work.cases(args.portable), rounds=args.rounds)
        work.close()
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    mean = sum(map(len, files)) / len(files) / 1024
    result = rows(
        measured,
        unit="images_per_s",
        threads=args.threads,
        configuration={"files": len(files), "mean_kib": round(mean), "views": 2, "side": SIDE},
    )
    print(f"{len(files)} JPEGs of {mean:.0f} KiB on average, {args.threads} threads, images/s")
    for row in result:
        share = ratio(row, result[0])
        print(
            f"{row['name']:20} {row['median']:7.0f} (p20 {row['p20']:.0f}, p80 {row['p80']:.0f}), times the "
            f"{CEILING}: {share['median']:.2f} (p20 {share['p20']:.2f}, p80 {share['p80']:.2f})"
        )
    if args.json:
        write(args.json, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
