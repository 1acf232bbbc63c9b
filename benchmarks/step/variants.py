"""Variants of the semi step beside one another: time and peak memory of each, as fractions of one of them."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import harness
from benchmarks.step import step_profile
from benchmarks.step.step_cases import RATIO, SIZES, ProductStep, Size
from benchmarks.step.step_rows import waiting
from fastsemi.common.precision import Precision


def add_options(parser: argparse.ArgumentParser, *, models: str) -> None:
    """What all programs of this kind take; `models` are measured where nothing is said."""
    parser.add_argument("--models", default=models, help=f"of {', '.join(SIZES)}")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", choices=("auto", "bf16", "fp16", "fp32"))
    parser.add_argument("--batch", type=int, help="labelled images of a step; default: by network and device")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="file for the rows")


def labelled(size: Size, precision: Precision, args: argparse.Namespace) -> int:
    """Labelled images of a step."""
    return args.batch or (size.gpu_batch if precision.device.type == "cuda" else size.cpu_batch)


def processor_seconds(run: Callable[[], object]) -> float:
    """Seconds that this process's threads computed: what else runs on the machine disturbs them less."""
    start = time.process_time()
    run()
    return time.process_time() - start


def measure(
    key: str,
    steps: Mapping[str, ProductStep],
    full: str,
    size: Size,
    precision: Precision,
    args: argparse.Namespace,
) -> list[dict[str, Any]]:
    """Rows of one network.

    Args:
        key: The setting that differs, and the column that holds its value.
        steps: A step for each value; they are closed.
        full: The value that the others are compared with.
        size: Network and shapes.
        precision: Device and number format.
        args: As of `add_options`.
    """
    device, count = precision.device, labelled(size, precision, args)
    cases = [
        harness.Case(
            f"{key}/{size.name}/{value}",
            step.step,
            timer=waiting(device) if device.type == "cuda" else processor_seconds,
        )
        for value, step in steps.items()
    ]
    rows = harness.rows(
        harness.measure(cases, rounds=args.rounds, progress=lambda text: print(text, file=sys.stderr)),
        unit="ms",
        threads=torch.get_num_threads(),
        configuration={
            **{"model": size.name, "network": size.model.name, "image_size": size.image_size},
            **{"labelled": count, "unlabelled": RATIO * count, "classes": size.classes},
            "precision": str(precision.dtype).removeprefix("torch."),
            "clock": "the clock" if device.type == "cuda" else "processors' time",
        },
        device=device.type,
    )
    for row, (value, step) in zip(rows, steps.items(), strict=True):
        allocated = step_profile.inspect(step.step, device)["step_bytes"]
        assert allocated is not None
        trained = sum(p.numel() for p in step.stage.model.parameters() if p.requires_grad)
        row |= {key: value, "trained": trained, "peak_bytes": step.state_bytes() + allocated}
        step.close()
    whole = next(row for row in rows if row[key] == full)
    for row in rows:
        row["of_full"] = harness.ratio(row, whole)
        row["peak_of_full"] = row["peak_bytes"] / whole["peak_bytes"]
    return rows
