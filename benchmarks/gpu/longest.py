"""The ten longest kernels of the semi step, and how much of the step the device works.

    python -m benchmarks.gpu.longest --model B --compiled no|blocks|whole --json OUT.json

On a CPU, to try it, operators stand in for kernels.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.harness import harness
from benchmarks.harness.environment import environment
from benchmarks.step.step_cases import SIZES, ProductStep
from benchmarks.step.step_rows import waiting
from fastsemi.common.precision import Precision, select_device

WARMUP, STEPS, SHOWN = 3, 3, 10


def longest(step: ProductStep, device: torch.device) -> tuple[list[dict[str, Any]], float]:
    """Kernels of a step by their time, the longest first, and milliseconds of a step by the clock.

    The clock runs in steps of their own: the profiler makes launches slower.
    """
    gpu = device.type == "cuda"

    def steps() -> None:
        for _ in range(STEPS):
            step.step()

    timer = waiting(device)
    for _ in range(WARMUP):
        step.step()
    seconds = timer(steps) / STEPS
    kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * gpu
    with profile(activities=kinds) as found:
        timer(steps)
    where = DeviceType.CUDA if gpu else DeviceType.CPU
    rows = []
    for event in found.key_averages():
        if event.device_type == where:
            spent = event.self_device_time_total if gpu else event.self_cpu_time_total  # microseconds
            rows.append({"kernel": event.key, "ms": spent / 1e3 / STEPS, "launches": event.count / STEPS})
    return sorted(rows, key=lambda row: -row["ms"]), 1e3 * seconds


def main() -> None:
    """Profile, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=SIZES, default="B")
    parser.add_argument("--compiled", choices=("no", "blocks", "whole"), default="no")
    parser.add_argument("--json", type=Path, help="where to write the rows")
    args = parser.parse_args()
    device, size = select_device("auto"), SIZES[args.model]
    labelled = size.gpu_batch if device.type == "cuda" else size.cpu_batch
    precision = Precision.select("auto", device)
    step = ProductStep(size, labelled, precision, compiled=args.compiled, augment=True)
    try:
        rows, wall = longest(step, device)
    finally:
        step.close()
    busy = sum(row["ms"] for row in rows)
    for row in rows[:SHOWN]:
        share = f"{row['ms'] / busy:4.0%}"
        print(f"{row['ms']:9.3f} ms {share} {row['launches']:6.0f} x  {row['kernel'][:100]}")
    print(f"{busy:.1f} ms of kernels in {wall:.1f} ms of a step, {len(rows)} kernels")
    if args.json:
        shared = {"model": size.name, "compiled": args.compiled, "labelled": labelled, "wall_ms": wall}
        shared |= {"busy_ms": busy, "n": STEPS, **environment()}
        harness.write(args.json, [{**row, **shared, "samples": [row["ms"]]} for row in rows[:SHOWN]])


if __name__ == "__main__":
    sys.exit(harness.exit_code(main))
