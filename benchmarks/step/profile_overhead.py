"""What profiling costs: steps of a real job with the profiler's spans and without, in one process.

    python -m benchmarks.step.profile_overhead [--model tiny|S|B|L|H] [--pairs 100] [--json OUT.json]

The semi stage runs from JPEG files. Blocks of its steps are recorded or not, in pairs of random order, while
loader and trainer go on; a ratio is formed inside each pair, by the clock and by the processors' time, which
other processes disturb less. As the cost is below the noise of either, the spans of a step are counted too,
and one is timed alone.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.harness import harness, photos, result_tables
from benchmarks.step.end_to_end import tree
from benchmarks.step.step_cases import RATIO, SIZES, semi_config
from fastsemi.common.errors import UserError
from fastsemi.common.precision import select_device
from fastsemi.common.spans import STEP, FinishedError, Recorder, record, recording
from fastsemi.loaders.index.cache import default_cache_dir
from fastsemi.loaders.settings import DataConfig, LabelsConfig
from fastsemi.run.config import Config
from fastsemi.tools.profile.job import ProfiledStage

LIMIT = 0.02  # of a step's time
CLOCKS = ("by the clock", "processors' time")
_ENDLESS = 10**9
_TIMED_SPANS = 20_000


class Alternating(Recorder):
    """Records every other block of steps, and keeps how long each block took.

    Args:
        device: Where the step runs.
        pairs: Pairs of a recorded block and one that is not, in random order.
        steps: Of a block; the device is idle at its ends.
        warmup: Steps before the first block.

    Attributes:
        blocks: Whether each was recorded, its seconds, and the processors' seconds.
    """

    def __init__(self, device: torch.device, pairs: int, steps: int, warmup: int):
        super().__init__(device, _ENDLESS, 0)
        shuffle = random.Random(0)
        self._plan = [on for _ in range(pairs) for on in shuffle.sample((True, False), 2)]
        self._block, self._left, self._on = steps, warmup, False
        self._started: tuple[float, float] | None = None
        self._spans = count()  # its next() is one operation for all threads
        self.blocks: list[tuple[bool, float, float]] = []

    def span(self, name: str) -> AbstractContextManager[None]:
        """As `Recorder.span` in recorded blocks, else nothing."""
        inner: AbstractContextManager[None] = nullcontext()
        if self._on:
            next(self._spans)
            inner = super().span(name)
        return self._counted(inner) if name == STEP else inner

    def spans_per_step(self) -> float:
        """Of all threads, in recorded blocks; to be asked once, at the end."""
        return next(self._spans) / (self._block * len(self._plan) / 2)

    @contextmanager
    def _counted(self, span: AbstractContextManager[None]) -> Iterator[None]:
        with span:
            yield
        self._left -= 1
        if not self._left:
            self._turn()

    def _turn(self) -> None:
        """End a block and begin the next."""
        self._synchronize()
        now = time.perf_counter(), time.process_time()
        if self._started:
            self.blocks.append((self._on, now[0] - self._started[0], now[1] - self._started[1]))
        if len(self.blocks) == len(self._plan):
            raise FinishedError
        self._on, self._left, self._started = self._plan[len(self.blocks)], self._block, now


def microseconds_per_span(device: torch.device) -> float:
    """Of a span that nothing is in."""
    with recording(Recorder(device, _ENDLESS, 0)):
        started = time.perf_counter()
        for _ in range(_TIMED_SPANS):
            with record("student"):
                pass
        return 1e6 * (time.perf_counter() - started) / _TIMED_SPANS


def measure(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Rows of the clock's and the processors' time, without spans and with them."""
    size, device = SIZES[args.model], select_device("auto")
    labelled = args.batch or (size.gpu_batch if device.type == "cuda" else size.cpu_batch)
    config = Config(
        output=folder / "run",
        stages=("semi",),
        data=DataConfig(root=folder, labels=LabelsConfig(fraction=1 / 3), image_size=size.image_size),
        model=size.model,
        semi=semi_config(size, labelled),
    )
    recorder = Alternating(device, args.pairs, args.steps, warmup=config.loader.prefetch + 3)
    job = ProfiledStage(config, "semi", folder)
    try:
        with recording(recorder):
            job.trainer.run()
    finally:
        job.close()
    cases = {
        (on, clock): tuple(block[1 + clock] / args.steps for block in recorder.blocks if block[0] is on)
        for on in (False, True)
        for clock in range(len(CLOCKS))
    }
    measured = [
        harness.Measurement(
            harness.Case(
                f"profile overhead/{CLOCKS[clock]}, spans {'on' if on else 'off'}",
                recorder.blocks.__len__,  # it has run already
                details={"label": CLOCKS[clock]},
            ),
            seconds,
        )
        for (on, clock), seconds in cases.items()
    ]
    settings = {"model": size.name, "labelled": labelled, "unlabelled": RATIO * labelled, "steps": args.steps}
    rows = harness.rows(
        measured,
        unit="ms",
        threads=torch.get_num_threads(),
        configuration=settings,
        device=device.type,
    )
    spans, cost = recorder.spans_per_step(), microseconds_per_span(device)
    for row, bare in zip(rows[2:], rows, strict=False):
        row["overhead"] = middle([a / b - 1 for a, b in zip(row["samples"], bare["samples"], strict=True)])
        row |= {"spans": spans, "us_per_span": cost, "counted": spans * cost / (1e3 * bare["median"])}
    return rows


def middle(values: Sequence[float]) -> dict[str, float]:
    """The median, and between what it lies with 95 % confidence, from the order of the values alone."""
    ordered, n = sorted(values), len(values)
    away = 0.98 * math.sqrt(n)
    low, high = max(0, math.floor(n / 2 - away)), min(n - 1, math.ceil(n / 2 + away))
    return {"median": median(ordered), "low": ordered[low], "high": ordered[high]}


def run(argv: list[str] | None = None) -> list[dict[str, Any]]:
    """Measure, print and write what the command line asks for.

    Raises:
        UserError: Wrong options.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=SIZES, default="tiny", help="the smaller, the more spans weigh")
    parser.add_argument("--batch", type=int, help="labelled images of a step; default: by network and device")
    parser.add_argument("--count", type=int, default=256, help="images")
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--steps", type=int, default=4, help="of a block")
    parser.add_argument("--json", type=Path, help="file for the rows")
    args = parser.parse_args(argv)
    if args.pairs < harness.MIN_ROUNDS or args.steps < 1:
        raise UserError(f"use --pairs {harness.MIN_ROUNDS} or more, and --steps 1 or more")
    with tempfile.TemporaryDirectory(prefix="fastsemi-overhead-") as work:
        files, _ = photos.jpegs(default_cache_dir().parent / "photos", args.count)
        tree(files, Path(work), 4)
        rows = measure(args, Path(work))
    print(result_tables.profile_overhead(rows))
    if args.json:
        harness.write(args.json, rows)
    return rows


def main() -> int:
    """Run; exits with 1 where profiling costs too much, with 2 on wrong input."""
    try:
        rows = run()
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 1 if rows[2]["counted"] > LIMIT else 0


if __name__ == "__main__":
    sys.exit(main())
