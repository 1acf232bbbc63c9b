"""A table of labels to fill in, and a sheet of the pictures that it asks for."""

from __future__ import annotations

import csv
from pathlib import Path

import matplotlib

from fastsemi.common.files import replacing
from fastsemi.tools.suggest.suggest import Suggested

matplotlib.use("Agg")
from matplotlib import pyplot as plt

MOST_DRAWN = 100
COLUMNS = 8
HEADER = ("path", "label", "predicted", "confidence")


def write_table(suggested: Suggested, path: Path) -> None:
    """Write all labels as CSV: first the rows to fill in, then those that have a label, then the others.

    What `options` of `use.py` hand to a run; a row whose label stays empty counts as unlabelled.
    """
    with replacing(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        for row in (*suggested.rows, *suggested.labelled, *suggested.others):
            confidence = "" if row.confidence is None else f"{row.confidence:.4f}"
            writer.writerow((row.path, row.label, row.predicted, confidence))


def draw_sheet(suggested: Suggested, path: Path) -> None:
    """Draw the pictures as PNG, in the order of the table, numbered as its rows to fill in."""
    pictures = suggested.pictures
    columns = min(COLUMNS, len(pictures))
    lines = -(-len(pictures) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(1.7 * columns, 2.0 * lines), squeeze=False)
    for axis in axes.ravel():
        axis.axis("off")
    for number, (axis, row, pixels) in enumerate(
        zip(axes.ravel(), suggested.rows, pictures, strict=False), start=1
    ):
        axis.imshow(pixels, interpolation="nearest")
        guess = f"\n{_short(row.predicted)}  {row.confidence:.2f}" if row.confidence is not None else ""
        axis.set_title(f"{number}  {_short(Path(row.path).name)}{guess}", fontsize=7, parse_math=False)
    figure.tight_layout()
    with replacing(path, "wb") as file:
        figure.savefig(file, dpi=110, format="png")
    plt.close(figure)


def _short(name: str) -> str:
    """A name that fits over its picture; bytes that are no text are shown as such."""
    name = name.encode(errors="surrogateescape").decode(errors="replace")
    return name if len(name) <= 22 else f"{name[:10]}…{name[-11:]}"
