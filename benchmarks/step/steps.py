"""The semi step: unlabelled images/s of the product's trainer against the paper's own step, in one run.

    python -m benchmarks.step.steps [--models S,B,L,H] [--json OUT.json] [--plots DIR]

Each step is a whole update on loaded batches: teacher, mixing, student, loss, backward, AdamW, EMA.
The product's batches lie on the device, where its loaders bring them beside the step before; the paper's come
from pinned memory at the start of the step. Cases: every sample kept; 35 % rejected, which the product leaves
out of the student; both compiled; the paper's step (`benchmarks.step.paper_step`), where it makes no
difference.
On a GPU the product's step holds colour jitter and RandAugment too, which the paper leaves to its workers; on
a CPU, where they would take the same cores on either side, both get augmented views (`--augment` puts them
in). Utilisation is the model's operations over the time, as a fraction of a large matrix product in the same
rounds and in the product's format.
"""

from __future__ import annotations

import argparse
import gc
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import harness
from benchmarks.step.step_cases import SIZES
from benchmarks.step.step_rows import measure_size
from fastsemi.common.errors import UserError
from fastsemi.common.precision import Precision, select_device
from fastsemi.common.settings import PrecisionName


def summary(rows: list[dict[str, Any]]) -> str:
    """One line a row."""
    lines = []
    for row in rows:
        paper = row["of_paper"]
        versus = f"{paper['median']:.2f} x ({paper['p20']:.2f} to {paper['p80']:.2f})" if paper else "-"
        launches = "" if row["launches"] is None else f"{row['launches']} launches, "
        peak = "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**30:6.2f} GiB  "
        waits = "?" if row["host_waits"] is None else row["host_waits"]
        lines.append(
            f"{row['model']:9}{row['label']:36}{row['median']:9.1f} images/s  {versus:24} "
            f"{row['tflops']['median']:7.2f} TFLOP/s  {row['utilisation']['median']:4.0%} of peak  "
            f"{peak}{launches}{waits} host waits"
        )
    return "\n".join(lines)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line, with defaults that depend on the device."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", help=f"of {', '.join(SIZES)}; default: S,B,L,H on a GPU, S on a CPU")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", choices=("auto", "bf16", "fp16", "fp32"))
    parser.add_argument("--batch", type=int, help="labelled images of a step; default: by network and device")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--steps", type=int, help="steps of one measurement")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="default: unless --quick")
    parser.add_argument("--compile-blocks", action="store_true", help="compile each block of the networks")
    parser.add_argument("--augment", action=argparse.BooleanOptionalAction, help="default: on a GPU")
    parser.add_argument("--peer-fused", action="store_true", help="the paper's step with fused attention too")
    parser.add_argument("--quick", action="store_true", help="5 rounds, small CPU batch, nothing compiled")
    parser.add_argument("--seconds", type=float, help="of all networks; what is measured by then is kept")
    parser.add_argument("--json", type=Path, help="file for the rows, written after each round")
    parser.add_argument("--plots", type=Path, help="folder for plots as PNG and SVG")
    args = parser.parse_args(argv)
    gpu = select_device(args.device).type == "cuda"
    args.models = (args.models or ("S,B,L,H" if gpu else "S")).split(",")
    unknown = [name for name in args.models if name not in SIZES]
    if unknown:
        raise UserError(f"--models {unknown[0]!r} is unknown; use {', '.join(SIZES)}")
    for name, least in (("batch", 1), ("steps", 1)):
        if getattr(args, name) is not None and getattr(args, name) < least:
            raise UserError(f"--{name} is {getattr(args, name)}; it must be at least {least}")
    args.compile = not args.quick if args.compile is None else args.compile
    args.augment = gpu if args.augment is None else args.augment
    args.rounds = args.rounds or (5 if args.quick or not gpu else 9)
    args.steps = args.steps or (5 if gpu else 1)
    args.seconds = args.seconds and args.seconds / len(args.models)
    if args.quick and not gpu:
        args.batch = args.batch or 2
    return args


def run(argv: list[str] | None = None) -> list[dict[str, Any]]:
    """Measure, print and write what the command line asks for; what is measured is kept after each round.

    Raises:
        UserError: Wrong options.
    """
    args = parse(argv)
    name: PrecisionName = args.precision
    precision = Precision.select(name, select_device(args.device))
    rows: list[dict[str, Any]] = []
    for key in args.models:
        earlier = list(rows)

        def keep(found: list[dict[str, Any]], earlier: list[dict[str, Any]] = earlier) -> None:
            if args.json:
                harness.write(args.json, [*earlier, *found])

        rows += measure_size(SIZES[key], precision, args, keep)
        gc.collect()
        torch.compiler.reset()
        if precision.device.type == "cuda":
            torch.cuda.empty_cache()
    print(summary(rows))
    if args.plots:
        from benchmarks.harness import plots

        plots.steps(rows, args.plots)
    return rows


if __name__ == "__main__":
    sys.exit(harness.exit_code(run))
