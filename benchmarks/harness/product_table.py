"""The table of a step's matrix products beside a large one."""

from __future__ import annotations

from typing import Any

from benchmarks.harness import harness
from benchmarks.harness.cells import Rows, machine, spread, threads


def products(rows: Rows) -> str:
    """The matrix products of the step on a CPU beside a large one, and the bound that they are for it."""
    names = "square product", "square product, right factor transposed", "step"
    square, turned, step = (next(row for row in rows if row["name"] == name) for name in names)
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if "group" in row:
            groups.setdefault(row["group"], []).append(row)
    peak = square["flops"] / square["ms"]

    def line(name: str, found: Rows) -> str:
        flops, within, alone = (
            sum(row["calls"] * row[key] for row in found) for key in ("flops", "in_step_ms", "ms")
        )
        return (
            f"| {name} | {flops / step['flops']:.0%} | {within:,.0f} | {within / step['ms']:.0%} "
            f"| {flops / within / peak:.0%} | {flops / alone / peak:.0%} |"
        )

    settings = step["configuration"]
    share = harness.spread(
        [
            step["flops"] / a * b / square["flops"]
            for a, b in zip(step["samples"], square["samples"], strict=True)
        ]
    )
    transposed = harness.ratio(turned, square)
    lines = [
        f"{machine(step)}, {threads(step)}, time by {settings['clock']}. {settings['model']}, "
        f"{settings['labelled']} + {settings['unlabelled']}, {settings['precision']}: "
        f"{spread(step, ',.0f')} ms a step, {spread(share, '.0%')} of the rate of a product of side "
        f"{settings['square']}, {peak / 1e9:.3f} TFLOP/s; with its right factor transposed, as "
        f"linear layers have theirs, that product is {transposed['median']:.2f} x as fast.",
        "",
        "| | of the operations | ms in a step | of the step | rate in it, of the large product's | alone |",
        "|---|--:|--:|--:|--:|--:|",
        *(line(name, found) for name, found in groups.items()),
        line(
            "all products: the bound, were all else free", [row for found in groups.values() for row in found]
        ),
    ]
    for kind, took in sorted(step["others_ms"].items(), key=lambda item: -item[1]):
        lines.append(f"| {kind} | | {took:,.0f} | {took / step['ms']:.0%} | | |")
    return "\n".join(lines)
