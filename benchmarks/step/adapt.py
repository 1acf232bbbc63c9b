"""The semi step by what of the network is trained: time and peak memory of each `model.adapt`, in one run.

    python -m benchmarks.step.adapt [--models T,S] [--adapt full,lora,top,head] [--json OUT.json]

Each step is a whole update through the trainer on loaded batches, every sample kept, as in
`benchmarks.step.steps`. Peak memory is what stays between steps (weights, optimizer, teacher; what student
and teacher share counts once) and the most that a step allocates besides, gradients included, by PyTorch's
own count of tensors; libraries' workspaces are not in it. LoRA has the default rank, `top` two
blocks. On a CPU time is the processors', with as many threads as OMP_NUM_THREADS says, on a GPU the clock's.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch

from benchmarks.harness import harness, result_tables
from benchmarks.step import step_profile
from benchmarks.step.step_cases import RATIO, SIZES, ProductStep, Size
from benchmarks.step.step_rows import waiting
from fastsemi.common.errors import UserError
from fastsemi.common.precision import Precision, select_device
from fastsemi.models.settings import Adapt


def processor_seconds(run: Callable[[], object]) -> float:
    """Seconds that this process's threads computed: what else runs on the machine disturbs them less."""
    start = time.process_time()
    run()
    return time.process_time() - start


def measure(
    size: Size, kinds: list[Adapt], precision: Precision, args: argparse.Namespace
) -> list[dict[str, Any]]:
    """Rows of one network, `full` among them."""
    device = precision.device
    labelled = args.batch or (size.gpu_batch if device.type == "cuda" else size.cpu_batch)
    steps = {kind: _step(size, kind, labelled, precision) for kind in kinds}
    cases = [
        harness.Case(
            f"adapt/{size.name}/{kind}",
            step.step,
            timer=waiting(device) if device.type == "cuda" else processor_seconds,
        )
        for kind, step in steps.items()
    ]
    rows = harness.rows(
        harness.measure(cases, rounds=args.rounds, progress=lambda text: print(text, file=sys.stderr)),
        unit="ms",
        threads=torch.get_num_threads(),
        configuration={
            **{"model": size.name, "network": size.model.name, "image_size": size.image_size},
            **{"labelled": labelled, "unlabelled": RATIO * labelled, "classes": size.classes},
            "precision": str(precision.dtype).removeprefix("torch."),
            "clock": "the clock" if device.type == "cuda" else "processors' time",
        },
        device=device.type,
    )
    for row, (kind, step) in zip(rows, steps.items(), strict=True):
        allocated = step_profile.inspect(step.step, device)["step_bytes"]
        assert allocated is not None
        trained = sum(p.numel() for p in step.stage.model.parameters() if p.requires_grad)
        row |= {"adapt": kind, "trained": trained, "peak_bytes": step.state_bytes() + allocated}
        step.close()
    full = next(row for row in rows if row["adapt"] == "full")
    for row in rows:
        row["of_full"] = harness.ratio(row, full)
        row["peak_of_full"] = row["peak_bytes"] / full["peak_bytes"]
    return rows


def _step(size: Size, kind: Adapt, labelled: int, precision: Precision) -> ProductStep:
    # The weights' values do not change what a step costs: these are random, the file is never read.
    model = replace(size.model, adapt=kind, weights=Path("never-read"))
    return ProductStep(replace(size, model=model), labelled, precision, compiled="no", augment=False)


def run(argv: list[str] | None = None) -> list[dict[str, Any]]:
    """Measure, print and write what the command line asks for.

    Raises:
        UserError: Wrong options.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="T,S", help=f"of {', '.join(SIZES)}")
    parser.add_argument("--adapt", default="full,lora,top,head", help=f"of {', '.join(get_args(Adapt))}")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", choices=("auto", "bf16", "fp16", "fp32"))
    parser.add_argument("--batch", type=int, help="labelled images of a step; default: by network and device")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="file for the rows")
    args = parser.parse_args(argv)
    models, kinds = args.models.split(","), args.adapt.split(",")
    for option, found, known in (("models", models, SIZES), ("adapt", kinds, get_args(Adapt))):
        if unknown := [name for name in found if name not in known]:
            raise UserError(f"--{option} {unknown[0]!r} is unknown; use {', '.join(known)}")
    if "full" not in kinds:
        raise UserError(f"--adapt {args.adapt} lacks full, which the others are compared with; add it")
    precision = Precision.select(args.precision, select_device(args.device))
    rows: list[dict[str, Any]] = []
    for name in models:
        rows += measure(SIZES[name], kinds, precision, args)
        if args.json:
            harness.write(args.json, rows)
    print(result_tables.adapt(rows))
    return rows


if __name__ == "__main__":
    sys.exit(harness.exit_code(run))
