"""The semi step by the side of the views: time and peak memory, in one run.

    python -m benchmarks.step.image_sizes [--models lite0,resnet] [--image_sizes 80,64] [--json OUT.json]

As `benchmarks.step.tokens` with the sides that `semi.image_sizes` may name in place of `semi.keep_tokens`:
whole updates on loaded batches, every sample kept. Each network is compared with its own whole side.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from typing import Any

from benchmarks.harness import harness, variant_tables
from benchmarks.step import variants
from benchmarks.step.step_cases import SIZES, ProductStep, Size
from fastsemi.common.errors import UserError
from fastsemi.common.precision import Precision, select_device


def measure(
    size: Size, sides: list[int], precision: Precision, args: argparse.Namespace
) -> list[dict[str, Any]]:
    """Rows of one network."""
    count = variants.labelled(size, precision, args)
    steps = {
        str(side): ProductStep(replace(size, image_size=side), count, precision, compiled="no", augment=False)
        for side in sides
    }
    return variants.measure("image_size", steps, str(size.image_size), size, precision, args)


def run(argv: list[str] | None = None) -> list[dict[str, Any]]:
    """Measure, print and write what the command line asks for.

    Raises:
        UserError: Wrong options.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    variants.add_options(parser, models="lite0,resnet")
    parser.add_argument("--image_sizes", help="smaller sides in pixels; default: 5/6, 2/3, 1/2 and 1/3")
    args = parser.parse_args(argv)
    models = args.models.split(",")
    if unknown := [name for name in models if name not in SIZES]:
        raise UserError(f"--models {unknown[0]!r} is unknown; use {', '.join(SIZES)}")
    asked = args.image_sizes.split(",") if args.image_sizes else []
    if wrong := [side for side in asked if not side.isdecimal() or int(side) < 1]:
        raise UserError(f"--image_sizes {wrong[0]!r} is no number of pixels, such as 64")
    precision = Precision.select(args.precision, select_device(args.device))
    rows: list[dict[str, Any]] = []
    for name in models:
        whole = SIZES[name].image_size
        smaller = list(map(int, asked)) or [whole * 5 // 6, whole * 2 // 3, whole // 2, whole // 3]
        rows += measure(SIZES[name], list(dict.fromkeys([whole, *smaller])), precision, args)
        if args.json:
            harness.write(args.json, rows)
    print(variant_tables.image_sizes(rows))
    return rows


if __name__ == "__main__":
    sys.exit(harness.exit_code(run))
