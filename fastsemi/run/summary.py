"""The figures of a run's finished stages, and the table that a finished run prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.table import Table

from fastsemi.common.errors import UserError
from fastsemi.common.files import replacing


def read_summary(path: Path) -> dict[str, Any]:
    """The figures of a run; `{"stages": {}}` where no stage has finished.

    Args:
        path: `RunFolder.summary`.

    Raises:
        UserError: The file is damaged.
    """
    if not path.exists():
        return {"stages": {}}
    try:
        summary = json.loads(path.read_text())
        for entry in summary["stages"].values():
            if not all(isinstance(entry[key], int | float) for key in ("seconds", "images_per_s")):
                raise ValueError
    except (ValueError, TypeError, KeyError, AttributeError):
        raise UserError(f"{path} is damaged; delete it (the figures of finished stages are lost)") from None
    return summary


def write_summary(path: Path, summary: dict[str, Any]) -> None:
    """Replace the figures of a run."""
    with replacing(path) as file:
        file.write(json.dumps(summary, indent=2) + "\n")


def networks(entry: dict[str, Any]) -> list[str]:
    """The networks that a stage was evaluated with, such as student and teacher; "" is its only one."""
    return [key[: -len("top1")].rstrip("_") for key in entry if key.endswith("top1")]


def summary_table(summary: dict[str, Any]) -> Table:
    """What a finished run prints."""
    table = Table(title=f"{summary.get('labelled', '?')} labels, {summary.get('classes', '?')} classes")
    for column in ("stage", "network", "top-1 %", "top-5 %", "images/s", "time"):
        table.add_column(column, justify="left" if column in ("stage", "network") else "right")
    for stage, entry in summary["stages"].items():
        speed, time = f"{entry['images_per_s']:,.0f}", f"{entry['seconds']:.0f} s"
        names = networks(entry)
        if not names:
            table.add_row(stage, "encoder", "-", "-", speed, time)
        for network in names:
            prefix = f"{network}_" if network else ""
            top1, top5 = entry[f"{prefix}top1"], entry[f"{prefix}top5"]
            table.add_row(stage, network or "model", f"{top1:.1f}", f"{top5:.1f}", speed, time)
    return table
