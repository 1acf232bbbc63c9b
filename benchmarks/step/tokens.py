"""The semi step by the share of the patches that the student sees: time and peak memory, in one run.

    python -m benchmarks.step.tokens [--models S,small] [--keep_tokens 1,0.75,0.5,0.25] [--json OUT.json]

As `benchmarks.step.adapt` with `semi.keep_tokens` in place of `model.adapt`: whole updates on loaded batches,
every sample kept. The teacher sees all patches in any case.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from typing import Any

from benchmarks.harness import harness, result_tables
from benchmarks.step import variants
from benchmarks.step.step_cases import SIZES, ProductStep, Size
from fastsemi.common.errors import UserError
from fastsemi.common.precision import Precision, select_device


def measure(
    size: Size, shares: list[str], precision: Precision, args: argparse.Namespace
) -> list[dict[str, Any]]:
    """Rows of one network, share 1 among them."""
    count = variants.labelled(size, precision, args)
    steps = {
        share: ProductStep(
            replace(size, keep_tokens=float(share)), count, precision, compiled="no", augment=False
        )
        for share in shares
    }
    return variants.measure("keep_tokens", steps, "1", size, precision, args)


def run(argv: list[str] | None = None) -> list[dict[str, Any]]:
    """Measure, print and write what the command line asks for.

    Raises:
        UserError: Wrong options.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    variants.add_options(parser, models="S,small")
    parser.add_argument("--keep_tokens", default="1,0.75,0.5,0.25", help="shares in (0, 1], 1 among them")
    args = parser.parse_args(argv)
    models, shares = args.models.split(","), args.keep_tokens.split(",")
    if unknown := [name for name in models if name not in SIZES]:
        raise UserError(f"--models {unknown[0]!r} is unknown; use {', '.join(SIZES)}")
    if wrong := [share for share in shares if not _is_share(share)]:
        raise UserError(f"--keep_tokens {wrong[0]!r} is no share in (0, 1], such as 0.5")
    shares = [f"{float(share):g}" for share in shares]
    if "1" not in shares:
        raise UserError(
            f"--keep_tokens {args.keep_tokens} lacks 1, which the others are compared with; add it"
        )
    precision = Precision.select(args.precision, select_device(args.device))
    rows: list[dict[str, Any]] = []
    for name in models:
        rows += measure(SIZES[name], shares, precision, args)
        if args.json:
            harness.write(args.json, rows)
    print(result_tables.tokens(rows))
    return rows


def _is_share(text: str) -> bool:
    try:
        return 0 < float(text) <= 1
    except ValueError:
        return False


if __name__ == "__main__":
    sys.exit(harness.exit_code(run))
