"""The curves of a stage as small SVG pictures."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fastsemi.common.plot_style import COLOURS, STYLE

SIZE = (4.2, 2.5)  # inches
# Parts of the picture, for numbers of nine characters; finding what is needed takes longer than drawing.
MARGINS = {"left": 0.16, "right": 0.97, "top": 0.88, "bottom": 0.2}


@dataclass(frozen=True)
class Curve:
    """A picture, and what it shows in words."""

    svg: bytes
    text: str


@dataclass(frozen=True)
class _Panel:
    """What is drawn together: keys of a row and what they are called."""

    title: str
    names: Mapping[str, str]
    factor: float = 1.0
    low: float | None = None
    """Where the axis starts; None for what the values need."""
    high: float | None = None


PANELS = (
    _Panel("loss", {"loss": "total", "loss_labelled": "labelled", "loss_unlabelled": "unlabelled"}),
    _Panel("learning rate", {"lr": "learning rate"}, low=0),
    _Panel(
        "top-1 accuracy, %",
        {"top1": "model", "ema_top1": "average", "student_top1": "student", "teacher_top1": "teacher"},
    ),
    _Panel(
        "pseudo labels, %",
        {"acceptance": "accepted", "pseudo_label_accuracy": "right, of the confident"},
        factor=100,
        low=0,
        high=103,
    ),
    _Panel("images per second", {"images_per_s": "images/s"}, low=0),
    _Panel("time spent waiting for data, %", {"loader_wait": "waiting"}, factor=100, low=0),
)


def draw_curves(rows: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """One picture for each panel that the rows of a stage have finite values for."""
    curves, last = [], max((row["step"] for row in rows), default=0)
    for panel in PANELS:
        lines = {name: _points(rows, key, panel.factor) for key, name in panel.names.items()}
        lines = {name: points for name, points in lines.items() if points}
        if lines:
            curves.append(Curve(_draw(panel, lines, last), _describe(panel, lines)))
    return curves


def _points(rows: Sequence[Mapping[str, Any]], key: str, factor: float) -> list[tuple[int, float]]:
    values = [(row["step"], row.get(key)) for row in rows]
    return [
        (step, factor * value)
        for step, value in values
        if isinstance(value, int | float) and math.isfinite(value)
    ]


def _draw(panel: _Panel, lines: Mapping[str, Sequence[tuple[int, float]]], last: int) -> bytes:
    with matplotlib.rc_context({**STYLE, "svg.fonttype": "none"}):
        figure = Figure(figsize=SIZE)
        axes = figure.subplots(gridspec_kw=MARGINS)
        for (name, points), colour in zip(lines.items(), COLOURS, strict=False):
            few = len(points) <= 30
            axes.plot(
                *zip(*points, strict=True),
                color=colour,
                label=name,
                linewidth=1.6,
                marker="o" if few else "",
                markersize=3,
            )
        axes.set_title(panel.title, loc="left", fontweight="bold")
        axes.set_xlabel("step")
        axes.set_xlim(0, 1.02 * last)  # the same in all pictures of a stage
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_formatter("{x:,g}")
        top = max(value for points in lines.values() for _, value in points)
        axes.set_ylim(panel.low, panel.high if panel.high or panel.low is None else 1.08 * top or 1)
        if len(lines) > 1:
            axes.legend(loc="best", frameon=False, fontsize=8)
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()


def _describe(panel: _Panel, lines: Mapping[str, Sequence[tuple[int, float]]]) -> str:
    last = ", ".join(f"{name} {points[-1][1]:.4g}" for name, points in lines.items())
    return f"{panel.title} by step; last: {last}"
