"""Variants of the semi step beside one another: time and peak memory of each, as fractions of one of them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import harness, variant_tables
from benchmarks.step import step_profile
from benchmarks.step.step_cases import RATIO, SIZES, ProductStep, Size
from benchmarks.step.step_rows import waiting
from fastsemi.common.errors import UserError
from fastsemi.common.precision import Precision, select_device


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


def compare(
    argv: list[str] | None,
    doc: str | None,
    field: str,
    *,
    models: str,
    values: str,
    full: str,
    parse: Callable[[str], float | None],
    kind: str,
    cycle: Callable[[list[str]], int] = lambda values: 1,
) -> list[dict[str, Any]]:
    """Measure the values of a setting that `Size` has, print the rows and write them.

    Args:
        argv: The command line; None for the process's.
        doc: What `--help` says.
        field: Name of the setting, of the option, of the column and of the table.
        models: Networks that are measured where nothing is said.
        values: As the option takes them, where nothing is said.
        full: The value that the others are compared with.
        parse: A value of the option as a number; None for what is none.
        kind: What a value is, for messages.
        cycle: How many steps are timed at once, of the values.

    Raises:
        UserError: Wrong options.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, models=models)
    parser.add_argument(f"--{field}", default=values, help=f"each {kind}; {full} among them")
    args = parser.parse_args(argv)
    names, given = args.models.split(","), getattr(args, field).split(",")
    if unknown := [name for name in names if name not in SIZES]:
        raise UserError(f"--models {unknown[0]!r} is unknown; use {', '.join(SIZES)}")
    parsed = {text: parse(text) for text in given}
    if wrong := [text for text, value in parsed.items() if value is None]:
        raise UserError(f"--{field} {wrong[0]!r} is no {kind}")
    numbers = {f"{value:g}": value for value in parsed.values()}
    if full not in numbers:
        raise UserError(
            f"--{field} {getattr(args, field)} lacks {full}, which the others are compared with; add it"
        )
    precision = Precision.select(args.precision, select_device(args.device))
    rows: list[dict[str, Any]] = []
    for name in names:
        size = SIZES[name]
        count = labelled(size, precision, args)
        steps = {
            text: ProductStep(replace(size, **{field: value}), count, precision, compiled="no", augment=False)
            for text, value in numbers.items()
        }
        rows += measure(field, steps, full, size, precision, args, cycle(list(numbers)))
        if args.json:
            harness.write(args.json, rows)
    print(variant_tables.TABLES[field](rows))
    return rows


def measure(
    key: str,
    steps: Mapping[str, ProductStep],
    full: str,
    size: Size,
    precision: Precision,
    args: argparse.Namespace,
    count_steps: int = 1,
) -> list[dict[str, Any]]:
    """Rows of one network.

    Args:
        key: The setting that differs, and the column that holds its value.
        steps: A step for each value; they are closed.
        full: The value that the others are compared with.
        size: Network and shapes.
        precision: Device and number format.
        args: As of `add_options`.
        count_steps: Steps that are timed at once, where one differs from the next; the rows are of one.
    """
    timer = waiting(precision.device) if precision.device.type == "cuda" else harness.processor_seconds

    def seconds(run: Callable[[], object]) -> float:
        return timer(lambda: [run() for _ in range(count_steps)]) / count_steps

    device, count = precision.device, labelled(size, precision, args)
    cases = [
        harness.Case(
            f"{key}/{size.name}/{value}",
            step.step,
            timer=seconds,
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
