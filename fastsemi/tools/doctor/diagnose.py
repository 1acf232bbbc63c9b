"""What works on this machine: one check for each part, and for each problem its cure."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fastsemi.run.config import Config
from fastsemi.tools.doctor import machine, software
from fastsemi.tools.doctor.check import Check, examine
from fastsemi.tools.doctor.data import check_data

_STYLES = {"ok": "green", "note": "yellow", "problem": "bold red"}


def diagnose(config: Config, *, data: bool) -> Iterator[Check]:
    """Check every part; none of the checks raises.

    Args:
        config: Its device and output folder are checked.
        data: Whether to look at its images too.
    """
    device, output = config.device, config.output
    checks: list[tuple[str, Callable[[], Check]]] = [
        ("Python", software.python),
        ("PyTorch", software.pytorch),
        ("required packages", software.packages),
        ("GPU", machine.gpu),
        ("Triton", lambda: software.triton(device)),
        ("native operator", software.native),
        ("DALI", software.dali),
        ("FFCV", software.ffcv),
        ("Apex", software.apex),
        ("Parquet", software.parquet),
        ("CPU", machine.cpu),
        ("precision auto", lambda: machine.precision(device)),
        ("engine auto", lambda: software.engine(device)),
        ("shared memory", machine.shared_memory),
        ("open files", machine.open_files),
        ("disk", lambda: machine.disk(output)),
    ]
    for name, check in checks:
        yield examine(name, check)
    if data:
        yield from check_data(config)


def show(checks: Iterable[Check], console: Console) -> None:
    """Print what was found as a table, and below it the cure of what is wrong, one line each."""
    table, cures = Table("part", ""), []
    table.add_column("found", overflow="fold")  # of a path nothing is cut off
    for check in checks:
        state = f"[{_STYLES[check.state]}]{check.state}[/]"
        table.add_row(check.name, state, escape(check.found))
        if check.cure:
            cures.append(f"{state}, {check.name}: {escape(check.cure)}")
    console.print(table)
    for cure in cures:
        console.print(cure, highlight=False, soft_wrap=True)


def to_json(checks: Sequence[Check]) -> str:
    """All checks as a JSON list."""
    return json.dumps([dataclasses.asdict(check) for check in checks], indent=2)


def works(checks: Iterable[Check]) -> bool:
    """Whether no required part fails."""
    return all(check.state != "problem" for check in checks)
