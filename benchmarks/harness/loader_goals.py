"""The goals of the loaders beside what was measured, as a Markdown table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.harness import harness

NATIVE, RAW, DALI = "fastsemi native", "fastsemi native, raw .beton", "fastsemi dali"
# loader, what it is compared with, and the least ratio; views only
GOALS = (
    (NATIVE, "DALI stock", 4.0),
    (NATIVE, "FFCV stock, two fields", 3.5),
    (NATIVE, "paper (Pillow, timm)", 3.8),
    (NATIVE, "torchvision v2", 2.2),
    (NATIVE, "fastsemi thread_pool", 1.6),
    (NATIVE, "full decode alone", 0.7),
    (RAW, NATIVE, 2.5),
    (f"{RAW}, 400 px", NATIVE, 2.5),
    (DALI, "DALI stock, GPU, two decodes", 1.6),
)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A line for each goal: the goal, the ratio measured round by round, and whether it is reached.

    Args:
        rows: Of `benchmarks.loading.loaders`; those of part `views` with the most threads count.
    """
    views = [row for row in rows if row["part"] == "views"]
    threads = max(row["threads"] for row in views)
    found = {row["label"]: row for row in views if row["threads"] == threads}
    lines = ["| views only | goal | measured (p20 to p80) | |", "|---|--:|--:|---|"]
    for mine, other, goal in GOALS:
        name = f"| {mine} against {other} | {goal} x |"
        if mine not in found or other not in found:
            lines.append(f"{name} | not measured |")
            continue
        ratio = harness.ratio(found[mine], found[other])
        reached = "reached" if ratio["median"] >= goal else "short"
        lines.append(
            f"{name} {ratio['median']:.2f} x ({ratio['p20']:.2f} to {ratio['p80']:.2f}) | {reached} |"
        )
    return "\n".join(lines)
