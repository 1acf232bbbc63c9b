"""How long the index of a large tree takes to build, and to open again in a fresh process.

`python -m benchmarks.loading.index --files 200000 --json OUT` makes a tree of tiny images (removed at the
end) and times: the first build, the second open in fresh processes, a rebuild after one folder changed, and
torchvision's `ImageFolder`, which lists the files anew at each start and reads no headers. The files have
just been written, so they come from the page cache: on a cold disk the first build takes longer.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.harness import harness
from benchmarks.harness.environment import environment

_OPEN = """
import sys, time
from pathlib import Path
IMPORT
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
before, start, busy = resident(), time.perf_counter(), time.process_time()
root, cache, threads = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
index = OPEN
seconds, busy = time.perf_counter() - start, time.process_time() - busy
peak = next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(seconds, len(index), resident() - before, peak, busy)
"""
_OURS = (
    "from fastsemi.loaders.index.index import build_index",
    "build_index(root, has_classes=True, cache_dir=cache, threads=threads)",
)
_PEER = "from torchvision.datasets import ImageFolder", "ImageFolder(root)"

Run = tuple[float, int, int, int, float]  # seconds, images, bytes of memory added, at the peak, CPU seconds


def make_tree(root: Path, files: int, classes: int, hard_links: bool) -> None:
    """Write `files` JPEGs of 1x1 pixel, evenly over `classes` folders named as ImageNet's are."""
    buffer = io.BytesIO()
    Image.new("RGB", (1, 1)).save(buffer, "JPEG")
    for c in range(classes):
        folder = root / f"n{c:08d}"
        folder.mkdir(parents=True)
        first = folder / f"n{c:08d}_0.JPEG"
        for i in range(files // classes + (c < files % classes)):
            file = folder / f"n{c:08d}_{i}.JPEG"
            if hard_links and i:
                os.link(first, file)
            else:
                file.write_bytes(buffer.getvalue())


def run(root: Path, cache: Path, threads: int, how: tuple[str, str] = _OURS) -> Run:
    """List `root` in a fresh process; `how` is what is imported, which is not timed, and what is done."""
    program = _OPEN.replace("IMPORT", how[0]).replace("OPEN", how[1])
    command = [sys.executable, "-c", program, str(root), str(cache), str(threads)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(output[0]), int(output[1]), int(output[2]), int(output[3]), float(output[4])


def row(name: str, runs: list[Run], threads: int) -> dict[str, Any]:
    """One row of the result from several runs of one case."""
    seconds = [r[0] for r in runs]
    p20, p80 = np.percentile(seconds, [20, 80])
    median, files = statistics.median(seconds), runs[0][1]
    return {
        "name": name,
        "ms": median * 1e3,
        "unit": "ms",
        "median": median * 1e3,
        "p20": p20 * 1e3,
        "p80": p80 * 1e3,
        "n": len(runs),
        "files": files,
        "files_per_s": files / median,
        "added_mib": statistics.median(r[2] for r in runs) / 2**20,
        "peak_mib": max(r[3] for r in runs) / 2**20,
        "cpu_s": statistics.median(r[4] for r in runs),
        "threads": threads,
        "device": "cpu",
        **environment(),
        "run": f"{time.time_ns():x}",
        "samples": [1e3 * s for s in seconds],
    }


def main() -> None:
    """Make the tree, time the cases, print them, remove the tree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=200_000)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--hard-links", action="store_true", help="one real file a class, links for the rest")
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--opens", type=int, default=5, help="second opens, each in a fresh process")
    parser.add_argument("--dir", type=Path, help="where the tree is made; default: the temporary folder")
    parser.add_argument("--json", type=Path, help="file for the rows")
    args = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="fastsemi-index-", dir=args.dir))
    try:
        root, cache = work / "train", work / "cache"
        start = time.perf_counter()
        make_tree(root, args.files, args.classes, args.hard_links)
        print(f"made {args.files:,} files in {time.perf_counter() - start:.1f} s")
        rows = [row("index_build", [run(root, cache, args.threads)], args.threads)]
        opens = [run(root, cache, args.threads) for _ in range(args.opens)]
        rows.append(row("index_open", opens, args.threads))
        (root / "n00000000" / "n00000000_0.JPEG").unlink()
        rows.append(row("index_rebuild_one_folder", [run(root, cache, args.threads)], args.threads))
        rows.append(row("torchvision_ImageFolder", [run(root, cache, 1, _PEER)], 1))
    finally:
        shutil.rmtree(work)
    for r in rows:
        spread = f"p20 {r['p20']:.1f}, p80 {r['p80']:.1f}, n={r['n']}"
        print(
            f"{r['name']:26s} {r['files']:>9,} files  {r['ms']:10.1f} ms ({spread})  "
            f"{r['files_per_s']:>12,.0f} files/s  {r['cpu_s']:.1f} CPU s  "
            f"+{r['added_mib']:.1f} MiB, peak {r['peak_mib']:.0f} MiB"
        )
    if args.json:
        harness.write(args.json, [{**r, "hard_links": args.hard_links} for r in rows])


if __name__ == "__main__":
    main()
