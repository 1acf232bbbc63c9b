"""Measures cases against each other on a machine that others use too.

All cases run once in every round, in a new order each round, so that a slow minute hits all of them; ratios
are formed inside a round. Results are medians with the 20th and 80th percentile over rounds, as JSON rows.
`benchmarks.harness.compare` compares two files of them.
"""

from __future__ import annotations

import json
import math
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from benchmarks.harness.environment import environment
from fastsemi.common.errors import UserError

Unit = Literal["images_per_s", "ms"]
Timer = Callable[[Callable[[], object]], float]
MIN_ROUNDS = 5
SLEEP, LONGEST_SLEEP = 5e-4, 0.1  # seconds
CYCLES_PER_S = 3e9  # more than the clock of any GPU, so that it sleeps longer rather than shorter


def wall_seconds(run: Callable[[], object]) -> float:
    """Seconds of `run` by the host's clock."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def processor_seconds(run: Callable[[], object]) -> float:
    """Seconds that this process's threads computed: what else runs on the machine disturbs them less."""
    start = time.process_time()
    run()
    return time.process_time() - start


@dataclass
class DeviceTimer:
    """Seconds of `run` between two events on the current CUDA stream; the host's overhead is not in them.

    The device sleeps before the first event, so that the host has launched all of `run` before the device
    begins. Where the host took longer, all is measured again with a longer sleep. A `run` that waits for the
    device is measured with its waits.

    Args:
        repeats: Runs per measurement; their mean is returned.
        flush_bytes: Written before every run, so that it finds nothing of its input in the L2 cache.
    """

    repeats: int = 1
    flush_bytes: int = 0

    def __call__(self, run: Callable[[], object]) -> float:
        """Measure once."""
        seconds, host = self._between_events(run, SLEEP)
        if host:
            seconds, _ = self._between_events(run, min(2 * host, LONGEST_SLEEP))
        return seconds

    def _between_events(self, run: Callable[[], object], sleep: float) -> tuple[float, float]:
        """Seconds of one `run`, and the host's for the longest where the device did not sleep as long."""
        flush = torch.empty(self.flush_bytes, dtype=torch.uint8, device="cuda")
        pairs, late = [], 0.0
        for _ in range(self.repeats):
            flush.zero_()
            torch.cuda._sleep(round(sleep * CYCLES_PER_S))
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            began = time.perf_counter()
            run()
            end.record()
            if start.query():
                late = max(late, time.perf_counter() - began)
            pairs.append((start, end))
        torch.cuda.synchronize()
        return sum(start.elapsed_time(end) for start, end in pairs) / 1e3 / len(pairs), late


@dataclass(frozen=True)
class Case:
    """One thing to measure."""

    name: str
    run: Callable[[], object]
    """Does the work once."""
    items: int = 1
    """Images that one `run` handles; the rate is `items` per second."""
    timer: Timer = wall_seconds
    """How to time one `run`."""
    details: dict[str, Any] = field(default_factory=dict)
    """Further columns of the row."""


@dataclass(frozen=True)
class Measurement:
    """A case and its seconds in each round; entry r of all cases of one call is the same round."""

    case: Case
    seconds: tuple[float, ...]

    def values(self, unit: Unit) -> list[float]:
        """What the rounds gave: images/s, or milliseconds of one run."""
        if unit == "ms":
            return [s * 1e3 for s in self.seconds]
        return [self.case.items / s for s in self.seconds]


def measure(
    cases: Sequence[Case],
    *,
    rounds: int = 7,
    warmup: int = 1,
    seed: int = 0,
    seconds: float | None = None,
    progress: Callable[[str], None] = lambda text: None,
    keep: Callable[[list[Measurement]], None] = lambda measured: None,
) -> list[Measurement]:
    """Run every case once a round, in random order.

    Args:
        cases: What to measure; names must differ.
        rounds: Measured rounds.
        warmup: Rounds before these, which are dropped.
        seed: Of the orders.
        seconds: After which no further round begins that might last longer; one is measured in any case.
        progress: Called with one line after each run.
        keep: Called with what there is after each measured round, so that a process that is killed has left
            something.

    Raises:
        UserError: Fewer than 5 rounds, or two cases of one name.
    """
    if rounds < MIN_ROUNDS:
        raise UserError(f"{rounds} rounds give no percentiles to speak of; use --rounds {MIN_ROUNDS} or more")
    names = [case.name for case in cases]
    if len(set(names)) < len(names):
        raise UserError(f"two cases have the same name among {', '.join(names)}; rename one")
    order, shuffle = list(range(len(cases))), random.Random(seed)
    samples: list[list[float]] = [[] for _ in cases]
    end, longest, measured = time.monotonic() + (seconds or math.inf), 0.0, []
    for r in range(-warmup, rounds):
        began = time.monotonic()
        if r >= 1 and began + longest > end:
            progress(f"{r} of {rounds} rounds: no time is left")
            break
        shuffle.shuffle(order)
        for i in order:
            took = cases[i].timer(cases[i].run)
            if r >= 0:
                samples[i].append(took)
            label = f"round {r + 1}/{rounds}" if r >= 0 else "warm-up"
            progress(f"{label}: {cases[i].name} {took:.3f} s")
        if r >= 0:
            longest = max(longest, time.monotonic() - began)
            measured = [Measurement(case, tuple(s)) for case, s in zip(cases, samples, strict=True)]
            keep(measured)
    return measured


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, 20th and 80th percentile."""
    p20, median, p80 = (float(x) for x in np.percentile(values, [20, 50, 80]))
    return {"median": median, "p20": p20, "p80": p80}


def ratio(mine: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
    """How many times as fast row `mine` is as row `other`, round by round.

    Returns:
        Median, p20 and p80 of the ratio over the rounds.

    Raises:
        UserError: The rows are not from the same rounds.
    """
    if mine["run"] != other["run"]:
        raise UserError(
            f"{mine['name']} and {other['name']} were not measured in the same rounds; run both in one"
        )
    pairs = zip(mine["samples"], other["samples"], strict=True)
    return spread([b / a if mine["unit"] == "ms" else a / b for a, b in pairs])


def rows(
    measurements: Sequence[Measurement],
    *,
    unit: Unit,
    threads: int,
    configuration: dict[str, Any],
    device: str = "cpu",
) -> list[dict[str, Any]]:
    """JSON rows of one call of `measure`.

    Args:
        measurements: Of one call, so that rows can be compared round by round.
        unit: What the numbers are: `images_per_s` or `ms`.
        threads: CPU threads that each case had.
        configuration: The settings that all cases share.
        device: Where the work ran.
    """
    shared = environment() | {"threads": threads, "device": device, "configuration": configuration}
    run = f"{time.time_ns():x}"
    result = []
    for m in measurements:
        values = m.values(unit)
        numbers = spread(values)
        head = {"name": m.case.name, unit: numbers["median"], "unit": unit, **numbers, "n": len(values)}
        result.append({**head, **m.case.details, **shared, "run": run, "samples": values})
    return result


def write(path: Path, new: Sequence[dict[str, Any]]) -> None:
    """Write rows as a JSON list, one row a line; a process that is killed leaves the file whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text("[\n" + ",\n".join(json.dumps(row) for row in new) + "\n]\n")
    part.replace(path)


def read(path: Path) -> list[dict[str, Any]]:
    """Rows that `write` wrote.

    Raises:
        UserError: The file cannot be read or holds something else.
    """
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read results from {path}: {error}; give a file that --json wrote") from None
    if not isinstance(found, list) or not all(isinstance(r, dict) and "samples" in r for r in found):
        raise UserError(f"{path} holds no results; give a file that --json wrote")
    return found


def exit_code(run: Callable[[], object]) -> int:
    """Run a benchmark's command; wrong input ends with one line and 2, like that of `fastsemi`."""
    try:
        run()
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0
