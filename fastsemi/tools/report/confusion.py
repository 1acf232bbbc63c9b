"""The confusions of classes as a plot."""

from __future__ import annotations

import io

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from fastsemi.common.plot_style import STYLE
from fastsemi.tools.report.classes import Classes

_NUMBERS = 20  # classes up to which numbers are readable


def draw_confusions(classes: Classes) -> bytes | None:
    """An SVG: rows true classes, columns predicted ones, dark for a large share of the row; None for many."""
    if classes.matrix is None:
        return None
    counts, count = classes.matrix, len(classes.names)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = 2.2 + 0.32 * count
    names = [name if len(name) <= 18 else f"{name[:17]}…" for name in classes.names]
    with matplotlib.rc_context({**STYLE, "svg.fonttype": "none", "axes.grid": False}):
        figure = Figure(figsize=(side, side), layout="constrained")
        axes = figure.subplots()
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axes.set_xticks(range(count), names, rotation=90, parse_math=False)  # a class may be called $x$
        axes.set_yticks(range(count), names, parse_math=False)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true class")
        if count <= _NUMBERS:
            for (row, column), images in np.ndenumerate(counts):
                if images:
                    colour = "white" if shares[row, column] > 0.5 else "black"
                    axes.text(column, row, f"{images}", ha="center", va="center", color=colour, fontsize=7)
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()
