"""From JPEG files to optimizer steps: the real trainer with the real loader, against what bounds it.

    python -m benchmarks.step.end_to_end [--images DIR] [--json OUT.json] [--plots DIR]

Cases in the same rounds: `end to end`, the trainer's update fed from files; `loader alone`, both roles loaded
to the device and dropped; `step alone`, the same update on batches in memory. Every measurement opens its
loader anew and drops as many steps as can have been loaded ahead, so none begins with a full queue. Without
`--images` the files are cut from photographs of this machine, or computed where it has none.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import torch

from benchmarks.harness import harness, photos
from benchmarks.harness.photo_sources import copy_images
from benchmarks.step.step_cases import RATIO, SIZES, semi_config
from benchmarks.step.stepping import Stepping
from benchmarks.step.synthetic import SyntheticData, semi_trainer
from fastsemi.common.errors import UserError
from fastsemi.common.precision import Precision, select_device
from fastsemi.loaders.data import Data
from fastsemi.loaders.device_copy import ON_DEVICE
from fastsemi.loaders.engines.native_operator import available
from fastsemi.loaders.engines.settings import DaliOptions, EngineName
from fastsemi.loaders.index.cache import default_cache_dir
from fastsemi.loaders.settings import DataConfig, LabelsConfig, LoaderConfig
from fastsemi.training.trainer import Trainer

LOADED = 1024  # unlabelled images of one measurement of the loader, but at most
PASSES = 4  # over all images
LABELS = {
    "end to end": "JPEG files to steps",
    "loader": "loader alone",
    "step": "step alone, batches in memory",
}


def tree(files: list[Path], out: Path, classes: int) -> None:
    """Link files into `out/train/<class>/`, so that each class has as many."""
    for i, file in enumerate(files):
        folder = out / "train" / f"class{i % classes:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        try:
            os.link(file, folder / f"{i:06d}.jpg")
        except OSError:  # another file system
            shutil.copyfile(file, folder / f"{i:06d}.jpg")


class Timed:
    """Seconds of some steps of a loader that has run in, and how long they waited for it.

    Args:
        trainer: Whose steps; its loaders are opened anew for each measurement.
        load_only: Load the batches and let nobody train.
        warmup: Steps before the clock starts.
        steps: Measured steps.
        device: Where they run.
    """

    def __init__(self, trainer: Trainer, load_only: bool, warmup: int, steps: int, device: torch.device):
        self._trainer, self._load_only, self._warmup, self._steps = trainer, load_only, warmup, steps
        self._gpu = device.type == "cuda"
        self.waits: list[float] = []

    def __call__(self, run: Callable[[], object]) -> float:
        """Measure once; `run` has nothing to do with it."""
        with closing(Stepping(self._trainer)) as stepping:
            step = stepping.load if self._load_only else stepping.step
            for _ in range(self._warmup):
                step()
            self._finish()
            start, before = time.perf_counter(), stepping.waited
            for _ in range(self._steps):
                step()
            self._finish()
            seconds = time.perf_counter() - start
            self.waits.append((stepping.waited - before) / seconds)
        return seconds

    def _finish(self) -> None:
        if self._gpu:
            torch.cuda.synchronize()


def measure(args: argparse.Namespace, folder: Path, what: str, count: int) -> list[dict[str, Any]]:
    """Rows of the three cases on the images below `folder/train`."""
    size, device = SIZES[args.model], select_device(args.device)
    precision = Precision.select("auto", device)
    labelled = args.batch or (size.gpu_batch if device.type == "cuda" else size.cpu_batch)
    if count < 2 * (1 + RATIO) * labelled:
        raise UserError(
            f"{count} images are too few for steps of {(1 + RATIO) * labelled}; raise --count or lower "
            "--batch"
        )
    config = semi_config(size, labelled)
    options = DaliOptions() if args.hw_load is None else DaliOptions(hw_load=args.hw_load)
    loader = LoaderConfig(engine=cast(EngineName, args.engine), threads=args.threads, dali=options)
    labels = LabelsConfig(fraction=1 / 3, seed=0)
    data = Data(DataConfig(root=folder, labels=labels, image_size=size.image_size), loader, device=device)
    ready = SyntheticData(
        4 * labelled,
        4 * RATIO * labelled,
        classes=len(data.classes),
        image_size=size.image_size,
        device=device,
    )
    try:
        real = semi_trainer(size.model, config, data, precision, compiled=args.compile)
        cached = semi_trainer(size.model, config, ready, precision, compiled=args.compile)
        engine = data.engine(data.unlabelled)
        opened = {
            "end to end": (real, False),
            "loader": (real, True),
            "step": (cached, False),
        }
        warmup = loader.prefetch + ON_DEVICE + 2
        # Nobody trains beside the loader alone, so that a few steps would measure what had been loaded ahead.
        steps = dict.fromkeys(opened, args.steps)
        steps["loader"] = max(args.steps, math.ceil(min(LOADED, PASSES * count) / (RATIO * labelled)))
        timers = {name: Timed(*what, warmup, steps[name], device) for name, what in opened.items()}
        cases = [
            harness.Case(f"end_to_end/{name}", _nothing, steps[name] * RATIO * labelled, timer)
            for name, timer in timers.items()
        ]
        measured = harness.measure(
            cases,
            rounds=args.rounds,
            warmup=1,
            seconds=args.seconds,
            progress=lambda text: print(text, file=sys.stderr),
        )
    finally:
        data.close()
        ready.close()
    configuration = {
        **{"model": size.name, "labelled": labelled, "unlabelled": RATIO * labelled, "steps": args.steps},
        **{"images": count, "what": what, "precision": str(precision.dtype).removeprefix("torch.")},
        **{"engine": engine.name, "native": available() or "built", "compiled": args.compile},
        "decode_threads": loader.thread_count,
    }
    rows = harness.rows(
        measured,
        unit="images_per_s",
        threads=torch.get_num_threads(),
        configuration=configuration,
        device=device.type,
    )
    for row, (name, timer) in zip(rows, timers.items(), strict=True):
        row["label"] = LABELS[name]
        row["of_step"] = harness.ratio(row, rows[-1])
        row["wait_percent"] = harness.spread([100 * wait for wait in timer.waits[1:]])
    return rows


def _nothing() -> None:
    """A case's timer does the work."""


def summary(rows: list[dict[str, Any]]) -> str:
    """One line a row."""
    return "\n".join(
        f"{row['label']:32}{row['median']:9.1f} images/s  {row['of_step']['median']:6.2f} of the step alone"
        + (f", loader wait {row['wait_percent']['median']:.1f} %" if "end to end" in row["name"] else "")
        for row in rows
    )


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line, with defaults that depend on the device."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, help="folder of JPEGs; by default pictures are cut to size")
    parser.add_argument("--count", type=int, help="images to use; default: 2048 on a GPU, 256 on a CPU")
    parser.add_argument("--model", help=f"of {', '.join(SIZES)}; default: B on a GPU, S on a CPU")
    parser.add_argument("--batch", type=int, help="labelled images of a step; default: by network and device")
    parser.add_argument("--classes", type=int, default=16, help="folders that the images are dealt to")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--hw_load", type=float, help="loader.dali.hw_load")
    parser.add_argument("--threads", type=int, default=0, help="decoding threads; 0 for one per core")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, help="steps of one measurement; default: 20, 2 on a CPU")
    parser.add_argument("--compile", action="store_true", help="compile student and teacher")
    parser.add_argument("--seconds", type=float, help="after which no further round begins")
    parser.add_argument("--json", type=Path, help="file for the rows")
    parser.add_argument("--plots", type=Path, help="folder for a plot as PNG and SVG")
    args = parser.parse_args(argv)
    gpu = select_device(args.device).type == "cuda"
    args.model = args.model or ("B" if gpu else "S")
    if args.model not in SIZES:
        raise UserError(f"--model {args.model!r} is unknown; use {', '.join(SIZES)}")
    args.count = args.count or (2048 if gpu else 256)
    args.steps = args.steps or (20 if gpu else 2)
    if not gpu:
        args.batch = args.batch or 2
    return args


def run(argv: list[str] | None = None) -> list[dict[str, Any]]:
    """Measure, print and write what the command line asks for.

    Raises:
        UserError: Wrong options, or too few images.
    """
    args = parse(argv)
    with tempfile.TemporaryDirectory(prefix="fastsemi-end-to-end-") as work:
        if args.images:
            files = copy_images(args.images, Path(work) / "images", args.count)
            what = "a folder of the user's"
        else:
            files, what = photos.jpegs(default_cache_dir().parent / "photos", args.count)
        tree(files, Path(work), min(args.classes, args.count // 3))
        rows = measure(args, Path(work), what, len(files))
    print(summary(rows))
    if args.json:
        harness.write(args.json, rows)
    if args.plots:
        from benchmarks.harness import plots

        plots.end_to_end(rows, args.plots)
    return rows


if __name__ == "__main__":
    sys.exit(harness.exit_code(run))
