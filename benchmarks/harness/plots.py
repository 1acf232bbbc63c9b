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

from benchmarks.harness.cells import cpu

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
    where = f"{hardware['gpu']}, {cpu(hardware)}" if hardware["gpu"] else cpu(hardware)
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
    axes.bar_label(bars, [f" {m:,.0f}" if m >= 20 else f" {m:.1f}" for m in medians], padding=3)
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
    """All plots of `benchmarks.loading.loaders`."""
    return throughput(rows, folder) + scaling(rows, folder)


# The spans of a step in their order, what to call them, and a colour each.
PHASES = {
    "wait": ("wait for data", "#444444"),
    "copy": ("copy", "#bbbbbb"),
    "augment": ("augment", "#f0e442"),
    "teacher": ("teacher", "#56b4e9"),
    "mix": ("normalise, erase, mix", "#e69f00"),
    "student": ("student forward", "#009e73"),
    "loss": ("loss", "#cc79a7"),
    "backward": ("backward", "#0072b2"),
    "optimizer": ("optimizer", "#d55e00"),
    "ema": ("EMA", "#8c564b"),
    "metrics": ("metrics, waits", "#777777"),
    "step": ("other", "#dddddd"),
}


def steps(rows: Sequence[dict[str, Any]], folder: Path) -> list[Path]:
    """Where the time of a step goes: milliseconds of each phase, one bar a case."""
    with plt.rc_context(STYLE):
        models = list(dict.fromkeys(row["model"] for row in rows))
        counts = [sum(row["model"] == model for row in rows) for model in models]
        size = (9, 1.2 * len(models) + 0.3 * sum(counts))
        figure, axes = plt.subplots(
            len(models), squeeze=False, figsize=size, height_ratios=counts, layout="constrained"
        )
        for axis, model in zip(axes[:, 0], models, strict=True):
            mine = [row for row in rows if row["model"] == model][::-1]
            left = [0.0] * len(mine)
            for name, (label, colour) in PHASES.items():
                width = [row["phases_ms"].get(name, 0.0) for row in mine]
                if any(width):
                    axis.barh([row["label"] for row in mine], width, left=left, color=colour, label=label)
                    left = [a + b for a, b in zip(left, width, strict=True)]
            axis.set_title(model, loc="left")
            axis.set_xlabel("ms of a step")
        known: dict[str, Any] = {}
        for axis in axes[:, 0]:
            for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
                known.setdefault(label, handle)
        figure.legend(list(known.values()), list(known), loc="outside right upper", frameon=False)
        return save(figure, folder, "step_breakdown")


def roofline(rows: Sequence[dict[str, Any]], folder: Path) -> list[Path]:
    """Time of each kernel over the bytes that it must move, with the line of a plain copy.

    No kernel that moves those bytes can lie below the line; how far above it lies is what could be gained.
    """
    rows = [row for row in rows if row.get("bytes")]
    copies = [row for row in rows if row["name"] == "copy"]
    if not copies:
        return []
    bandwidth = copies[0]["bytes"] / copies[0]["median"]  # bytes per ms
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(8.5, 5), layout="constrained")
        low, high = (f(row["bytes"] for row in rows) for f in (min, max))
        ends = [low / 2, high * 2]
        label = f"copy: {bandwidth / 1e6:,.0f} GB/s"
        axes.plot([b / 1e6 for b in ends], [b / bandwidth for b in ends], color=BOUND, label=label)
        for number, row in enumerate(sorted(rows, key=lambda row: -row["median"]), start=1):
            colour = MINE if "triton" in row["name"] or "native" in row["name"] else OTHERS
            share = row["bytes"] / row["median"] / bandwidth
            place = (row["bytes"] / 1e6, row["median"])
            axes.plot(*place, "o", color=colour, label=f"{number}  {row['name']} ({share:.0%})")
            aside = 5 if number % 2 else -5  # names would hide each other
            axes.annotate(
                str(number),
                place,
                fontsize=7,
                xytext=(aside, 0),
                textcoords="offset points",
                ha="left" if aside > 0 else "right",
                va="center",
            )
        axes.set(xscale="log", yscale="log", xlabel="MB that must be moved", ylabel="ms")
        figure.legend(loc="outside right upper", frameon=False, fontsize=7)
        axes.margins(x=0.25)
        figure.supxlabel(caption(rows[0]), fontsize=7, color="#555555")
        return save(figure, folder, "kernels_roofline")


def end_to_end(rows: Sequence[dict[str, Any]], folder: Path) -> list[Path]:
    """Images/s from files to steps, beside its two ceilings."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(8, 2), layout="constrained")
        _bars(axes, rows)
        if max(row["median"] for row in rows) > 20 * min(row["median"] for row in rows):
            axes.set_xscale("log")
        axes.set_xlabel("unlabelled images/s")
        axes.set_title(f"{rows[0]['configuration']['model']}, from JPEG files", loc="left")
        figure.supxlabel(caption(rows[0]), fontsize=7, color="#555555")
        return save(figure, folder, "end_to_end")
