"""Plots of results, each as PNG and SVG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

MINE, OTHERS, BOUND = "#0072b2", "#999999", "#e0c48a"  # told apart by readers who cannot see red and green
TITLES = {"views": "two views, crop and resize", "augmented": "with colour jitter and RandAugment"}
STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "fastsemi",
}


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write `name.png` and `name.svg`; the same figure gives the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{kind}" for kind in ("png", "svg")]
    figure.savefig(paths[0], dpi=150, bbox_inches="tight")
    figure.savefig(paths[1], bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    return paths


def caption(row: dict[str, Any]) -> str:
    """Hardware, threads and commit of a row."""
    hardware = row["hardware"]
    where = f"{hardware['gpu']}, {hardware['cpu']}" if hardware["gpu"] else hardware["cpu"]
    return f"{where}, n = {row['n']} rounds, bars from p20 to p80, commit {row['git'] or 'unknown'}"


def _colour(label: str) -> str:
    if label.startswith("fastsemi"):
        return MINE
    return BOUND if "alone" in label else OTHERS


def _bars(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    rows = sorted(rows, key=lambda row: row["median"])
    medians = [row["median"] for row in rows]
    below = [row["median"] - row["p20"] for row in rows]
    above = [row["p80"] - row["median"] for row in rows]
    labels = [row["label"] for row in rows]
    bars = axes.barh(
        labels, medians, xerr=[below, above], color=[_colour(label) for label in labels], capsize=2
    )
    axes.bar_label(bars, [f" {m:,.0f}" for m in medians], padding=3)
    axes.margins(x=0.12)
    axes.set_xlabel("images/s")


def throughput(rows: Sequence[dict[str, Any]], folder: Path) -> list[Path]:
    """Images/s of every loader with the most threads measured, one panel a part."""
    threads = max(row["threads"] for row in rows)
    shown = [row for row in rows if row["threads"] == threads]
    parts = [part for part in TITLES if any(row["part"] == part for row in shown)]
    counts = [sum(row["part"] == part for row in shown) for part in parts]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            len(parts),
            squeeze=False,
            figsize=(8, 0.9 * len(parts) + 0.28 * sum(counts)),
            height_ratios=counts,
            layout="constrained",
        )
        for axis, part in zip(axes[:, 0], parts, strict=True):
            _bars(axis, [row for row in shown if row["part"] == part])
            axis.set_title(f"{TITLES[part]}, {threads} threads", loc="left")
        figure.supxlabel(caption(shown[0]), fontsize=7, color="#555555")
        return save(figure, folder, "loaders")


def scaling(rows: Sequence[dict[str, Any]], folder: Path) -> list[Path]:
    """Images/s of the part `views` over threads, one line a loader; nothing for a single count."""
    rows = [row for row in rows if row["part"] == "views"]
    counts = sorted({row["threads"] for row in rows})
    if len(counts) < 2:
        return []
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
        labels = dict.fromkeys(row["label"] for row in sorted(rows, key=lambda row: -row["median"]))
        for marker, label in zip("osD^v<>pPXhd*" * 2, labels, strict=False):
            mine = sorted((row for row in rows if row["label"] == label), key=lambda row: row["threads"])
            x, y = [row["threads"] for row in mine], [row["median"] for row in mine]
            axes.plot(x, y, marker=marker, color=_colour(label), label=label)
        axes.set(xlabel="threads, on as many cores", ylabel="images/s", xticks=counts, ylim=(0, None))
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        figure.supxlabel(caption(rows[0]), fontsize=7, color="#555555")
        return save(figure, folder, "loaders_scaling")


def loaders(rows: Sequence[dict[str, Any]], folder: Path) -> list[Path]:
    """All plots of `benchmarks.loaders`."""
    return throughput(rows, folder) + scaling(rows, folder)
