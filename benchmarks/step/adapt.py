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
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from benchmarks.harness import harness, variant_tables
from benchmarks.step import variants
from benchmarks.step.step_cases import SIZES, ProductStep, Size
from fastsemi.common.errors import UserError
from fastsemi.common.precision import Precision, select_device
from fastsemi.models.settings import Adapt


def measure(
    size: Size, kinds: list[Adapt], precision: Precision, args: argparse.Namespace
) -> list[dict[str, Any]]:
    """Rows of one network, `full` among them."""
    labelled = variants.labelled(size, precision, args)
    steps = {kind: _step(size, kind, labelled, precision) for kind in kinds}
    return variants.measure("adapt", steps, "full", size, precision, args)


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
    variants.add_options(parser, models="T,S")
    parser.add_argument("--adapt", default="full,lora,top,head", help=f"of {', '.join(get_args(Adapt))}")
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
    print(variant_tables.adapt(rows))
    return rows


if __name__ == "__main__":
    sys.exit(harness.exit_code(run))
