"""What the tables of measurements have in common: who measured, and a median with its spread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Rows = Sequence[dict[str, Any]]


def cpu(hardware: dict[str, Any]) -> str:
    """The CPU's name, with its widest vectors where they were recorded."""
    return f"{hardware['cpu']} ({hardware['vectors']})" if hardware.get("vectors") else str(hardware["cpu"])


def machine(row: dict[str, Any]) -> str:
    """Hardware, versions and protocol of a row, for the line above its table."""
    hardware = row["hardware"]
    gpu = f"{hardware['gpu']}, " if row["device"] != "cpu" and hardware["gpu"] else ""
    return (
        f"{gpu}{cpu(hardware)}, {hardware['cores']} cores, PyTorch {row['versions'].get('torch', '?')}; "
        f"median of {row['n']} interleaved rounds (p20 to p80), commit {row['git'] or 'unknown'}"
    )


def spread(row: dict[str, Any], form: str = ",.1f") -> str:
    """The median, and in brackets the range that the middle of the rounds lies in."""
    return f"{row['median']:{form}} ({row['p20']:{form}} to {row['p80']:{form}})"


def threads(row: dict[str, Any]) -> str:
    """How many threads computed."""
    return f"{row['threads']} thread" + "s" * (row["threads"] > 1)
