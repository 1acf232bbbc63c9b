"""How long commands take from their start to their end, where little is to be computed.

`python -m benchmarks.loading.start --json OUT` runs each in fresh processes, in turn: what `import torch` and
`import timm` take, which any training begins with; help; refusals; an engine from a built index to its first
batch of 64 images; and a whole run on 100 images. CPU seconds are those of all threads.
"""

from __future__ import annotations

import argparse
import functools
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.harness import harness
from benchmarks.harness.environment import environment

CLASSES, TRAIN, VAL, SIDE = 4, 20, 5, 64  # folders, pictures of each, pixels
PRESET = "configs/practical/from_scratch_small.yaml"

# Prints milliseconds of its own and of the CPU: imports are not in them.
_ENGINE = """
import sys, time
from pathlib import Path
import torch
from fastsemi.loaders.data import Data
from fastsemi.loaders.settings import DataConfig, LoaderConfig
from fastsemi.loaders.stream import evaluation_batches
start, busy = time.perf_counter(), time.process_time()
data = Data(DataConfig(root=Path(sys.argv[1]), image_size=64), LoaderConfig())
images = data.train
with data.load(images, evaluation_batches(images.index, images.ids[:64], 64, 0.875, None)) as batches:
    next(batches)
print(time.perf_counter() - start, time.process_time() - busy)
data.close()
"""

Seconds = tuple[float, float]  # by the clock, of the CPU


def make_pictures(root: Path) -> None:
    """Write JPEGs of noise about a colour of each class."""
    rng = np.random.default_rng(0)
    for part, count in (("train", TRAIN), ("val", VAL)):
        for c in range(CLASSES):
            folder = root / part / f"class{c}"
            folder.mkdir(parents=True)
            for i in range(count):
                colour = rng.integers(0, 64, 3) + 48 * c
                noise = rng.integers(-40, 40, (SIDE, SIDE, 3))
                pixels = np.clip(colour + noise, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.jpg")


def whole(words: list[str], code: int = 0) -> Seconds:
    """A process from its start to its end, which is to give an exit code."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != code:
        raise SystemExit(f"{' '.join(words)} ended with {done.returncode}: {done.stderr[-500:]}")
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def engine(root: Path) -> Seconds:
    """From a built index to the first batch, in a fresh process that has imported what it needs."""
    words = [sys.executable, "-c", _ENGINE, str(root)]
    wall, cpu = map(float, subprocess.run(words, check=True, capture_output=True, text=True).stdout.split())
    return wall, cpu


def cases(root: Path, work: Path) -> dict[str, Callable[[], Seconds]]:
    """What is measured, by what it is called."""
    fastsemi = ["-m", "fastsemi"]
    run = [*fastsemi, "train", "--config", PRESET, "--data.labels.per_class", "5", "--device", "cpu"]
    short = ["--finetune.length", "20 steps", "--finetune.spread_ratio", "0", "--finetune.batch", "20"]
    short += ["--semi.length", "20 steps", "--semi.batch", "20", "--semi.unlabelled_ratio", "3"]
    here = ["--data.root", str(root)]

    def train() -> Seconds:
        output = tempfile.mkdtemp(dir=work)
        return whole([*run, *short, *here, "--output", output])

    return {
        "`import torch`": lambda: whole(["-c", "import torch"]),
        "`import timm`": lambda: whole(["-c", "import timm"]),
        "`fastsemi --help`": lambda: whole([*fastsemi, "--help"]),
        "`fastsemi train --help`": lambda: whole([*fastsemi, "train", "--help"]),
        "refusal: no such folder": lambda: whole([*run, "--data.root", str(work / "gone")], 2),
        "refusal: no such network": lambda: whole([*run, *here, "--model.name", "gone"], 2),
        "`fastsemi probe`, 100 images": lambda: whole([*fastsemi, "probe", *run[3:], *here]),
        "`fastsemi train`, 100 images, 40 steps": train,
        "engine: built index to 64 images": functools.partial(engine, root),
    }


def row(label: str, runs: list[Seconds]) -> dict[str, Any]:
    """One row of the result."""
    samples = [1e3 * wall for wall, _ in runs]
    p20, p80 = np.percentile(samples, [20, 80])
    return {
        "name": label.replace("`", ""),
        "label": label,
        "ms": statistics.median(samples),
        "unit": "ms",
        "median": statistics.median(samples),
        "p20": p20,
        "p80": p80,
        "n": len(runs),
        "cpu_s": statistics.median(cpu for _, cpu in runs),
        "device": "cpu",
        **environment(),
        "run": f"{time.time_ns():x}",
        "samples": samples,
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="file for the rows")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fastsemi-start-") as folder:
        work = Path(folder)
        os.environ["FASTSEMI_CACHE"] = str(work / "cache")
        make_pictures(work / "pictures")
        found = cases(work / "pictures", work)
        engine(work / "pictures")  # builds the index
        runs: dict[str, list[Seconds]] = {label: [] for label in found}
        for _ in range(args.rounds):
            for label, measure in found.items():
                runs[label].append(measure())
    rows = [row(label, seconds) for label, seconds in runs.items()]
    for r in rows:
        spread = f"p20 {r['p20']:.1f}, p80 {r['p80']:.1f}"
        print(f"{r['name']:42s} {r['median']:9.1f} ms ({spread})  {r['cpu_s']:.2f} CPU s")
    if args.json:
        harness.write(args.json, rows)


if __name__ == "__main__":
    main()
