"""Pseudo labels of each class over time, as a small picture: which takes over, which is mistaken."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any
from unicodedata import east_asian_width

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from fastsemi.common.plot_style import STYLE
from fastsemi.common.printable import printable
from fastsemi.tools.report.curves import SIZE, Curve

TITLES = {
    "pseudo_label_share_by_class": "share of accepted pseudo labels, %",
    "pseudo_label_accuracy_by_class": "right, of accepted pseudo labels, %",
}
COLUMNS = 60  # spans of steps that are told apart
NAMED = 30  # classes up to which each has its name
LONGEST = 14  # letters of a name; half as many of those twice as wide


def draw_by_class(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[Curve]:
    """A picture, classes by steps, for each figure by class that the rows of a stage have.

    Args:
        rows: Of `metrics.jsonl`.
        names: Of the classes; their numbers are shown where there are as many.
    """
    found = []
    for key, title in TITLES.items():
        mine = [row for row in rows if isinstance(row.get(key), list)]
        if not mine or not any(math.isfinite(v) for row in mine for v in _numbers(row[key])):
            continue
        widest = max(len(row[key]) for row in mine)
        mine = [row for row in mine if len(row[key]) == widest]
        table = 100 * np.array([_numbers(row[key]) for row in mine]).T  # [classes, rows]
        labels = names if len(names) == widest else [str(c) for c in range(widest)]
        steps = [int(row["step"]) for row in mine]
        found.append(Curve(_draw(title, _binned(table), steps, labels), _describe(title, table, labels)))
    return found


def _numbers(values: Sequence[Any]) -> list[float]:
    return [float(v) if isinstance(v, int | float) else math.nan for v in values]


def _binned(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """At most COLUMNS columns, each the mean of what is known of several."""
    parts = np.array_split(table, min(COLUMNS, table.shape[1]), axis=1)
    known = [np.isfinite(part).sum(axis=1) for part in parts]
    sums = [np.nansum(part, axis=1) for part in parts]
    return np.stack(
        [np.where(n > 0, s / np.maximum(n, 1), np.nan) for s, n in zip(sums, known, strict=True)], 1
    )


def _draw(title: str, table: NDArray[np.float64], steps: Sequence[int], names: Sequence[str]) -> bytes:
    with matplotlib.rc_context({**STYLE, "axes.grid": False, "svg.fonttype": "none"}):
        width, height = SIZE
        figure = Figure(
            figsize=(width, max(height, 0.6 + 0.16 * min(len(names), NAMED))), layout="constrained"
        )
        axes = figure.subplots()
        extent = (0, max(steps), len(names) - 0.5, -0.5)
        image = axes.imshow(
            table,
            aspect="auto",
            interpolation="nearest",
            extent=extent,
            cmap="viridis",
            vmin=0,
            vmax=_top(table),
        )
        axes.set_facecolor("#e5e5e5")  # where nothing is known
        # of the picture, not of the axes, beside which names may leave too little room
        figure.suptitle(
            title, x=0.01, ha="left", fontweight="bold", fontsize=matplotlib.rcParams["axes.titlesize"]
        )
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if len(names) <= NAMED:
            axes.set_yticks(range(len(names)), [_short(name) for name in names], parse_math=False)
        figure.colorbar(image, ax=axes, pad=0.02)
        file = io.BytesIO()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph")  # of a name: the browser has fonts for it
            figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()


def _top(table: NDArray[np.float64]) -> float:
    """Where the colours end: at 100 %, or near the largest of many small shares."""
    return min(100.0, max(1.0, float(np.nanmax(table))))


def _short(name: str) -> str:
    name = printable(name)
    room = LONGEST // 2 if any(east_asian_width(letter) in "WF" for letter in name) else LONGEST
    return name if len(name) <= room else f"{name[: room - 1]}…"


def _describe(title: str, table: NDArray[np.float64], names: Sequence[str]) -> str:
    last = table[:, -1]
    known = np.flatnonzero(np.isfinite(last))
    if not len(known):
        return f"{title}, by class and step"
    low, high = known[last[known].argmin()], known[last[known].argmax()]
    return (
        f"{title}, by class and step; at the last, least {names[low]} {last[low]:.3g}, most {names[high]} "
        f"{last[high]:.3g}"
    )
