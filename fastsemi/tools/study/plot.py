"""A study as a picture: what was measured here, and the paper's numbers in a panel of their own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from fastsemi.common.plot_style import COLOURS, STYLE
from fastsemi.tools.study.results import HEADS, Row, paper_columns, paper_number
from fastsemi.tools.study.study_file import Study

MARKERS = "osD^vP"
SEPARATE = 0.06  # between error bars of neighbouring lines, in steps of the last axis


def draw(study: Study, rows: Sequence[Row], folder: Path) -> list[Path]:
    """Write `plot.png` and `plot.svg`; the same rows give the same bytes.

    The last axis of the study runs from left to right, each combination of the others is a line. Points are
    means over seeds with the sample standard deviation as bars; thin lines are the seeds.
    """
    columns = [column for column in paper_columns(study) if column[2] == "teacher"]
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(
            1, 2 if columns else 1, squeeze=False, figsize=(10 if columns else 5.5, 4.5), layout="constrained"
        )
        ticks = list(dict.fromkeys(row.cell.values[-1] for row in rows))
        _measured(panels[0, 0], rows, ticks)
        if columns:
            _paper(panels[0, 1], rows, ticks, columns)
        for panel in panels[0]:
            panel.set_xticks(range(len(ticks)), ticks)
            panel.set(xlabel=study.axes[-1], ylabel="top-1 %")
            panel.set_xlim(-0.4, len(ticks) - 0.6)
            panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), frameon=False, fontsize=8, ncols=2)
        figure.suptitle(study.title)
        paths = [folder / f"plot.{kind}" for kind in ("png", "svg")]
        figure.savefig(paths[0], dpi=150, bbox_inches="tight")
        figure.savefig(paths[1], bbox_inches="tight", metadata={"Date": None})
        plt.close(figure)
    return paths


def _lines(rows: Sequence[Row]) -> dict[tuple[str, ...], list[Row]]:
    """Rows by preset and all axes but the last."""
    lines: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        lines.setdefault((row.cell.preset, *row.cell.values[:-1]), []).append(row)
    return lines


def _measured(panel: Axes, rows: Sequence[Row], ticks: Sequence[str]) -> None:
    counts = sorted({len(row.seeds) for row in rows if row.seeds})
    seeds = "-".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    panel.set_title(f"measured, n = {seeds} seed{'' if counts[-1] == 1 else 's'}", loc="left")
    lines = _lines(rows)
    presets = [row.cell.preset for row in rows]
    for number, (names, members) in enumerate(lines.items()):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        for q, (quantity, style) in enumerate((("finetune", ":"), ("teacher", "-"))):
            shift = SEPARATE * (2 * number + q - len(lines) + 0.5)
            found = [row for row in members if row.mean(quantity) is not None]
            at = [ticks.index(row.cell.values[-1]) + shift for row in found]
            if not found:
                continue
            panel.errorbar(
                at,
                [row.mean(quantity) or 0.0 for row in found],
                yerr=[row.deviation(quantity) or 0.0 for row in found],
                color=colour,
                marker=marker,
                markersize=3 if quantity == "finetune" else 6,
                linestyle=style,
                capsize=3,
                label=f"{_name(names, presets)} {HEADS[quantity]}".strip(),
            )
            shared = set.intersection(*(set(row.seeds) for row in found)) if quantity == "teacher" else set()
            for seed in sorted(shared):
                values = [row.values[quantity][row.seeds.index(seed)] for row in found]
                panel.plot(at, values, color=colour, alpha=0.35, linewidth=0.8)


def _paper(
    panel: Axes, rows: Sequence[Row], ticks: Sequence[str], columns: Sequence[tuple[str, str, str]]
) -> None:
    panel.set_title("the paper, ImageNet", loc="left")
    drawn = 0
    for _, preset, quantity in columns:
        for names, members in _lines(rows).items():
            numbers = [(row, paper_number(row.cell, preset, quantity)) for row in members]
            found = [(row, number) for row, number in numbers if isinstance(number, int | float)]
            if found:
                panel.plot(
                    [ticks.index(row.cell.values[-1]) for row, _ in found],
                    [number for _, number in found],
                    color=COLOURS[drawn % len(COLOURS)],
                    marker=MARKERS[drawn // len(COLOURS) % len(MARKERS)],
                    label=_name((preset or names[0], *names[1:]), []),
                )
                for row, number in numbers:
                    if isinstance(number, str):  # "fails"
                        at, colour = ticks.index(row.cell.values[-1]), COLOURS[drawn % len(COLOURS)]
                        panel.plot(at, 0.02, "x", color=colour, transform=panel.get_xaxis_transform())
                drawn += 1


def _name(names: Sequence[str], presets: Sequence[str]) -> str:
    """What tells a line from the others; the preset only where there are several."""
    return " ".join(names[1:] if len(set(presets)) == 1 else names)
