"""Accuracy over CPU seconds as a picture: mean and range over seeds, label spreading as a line."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.harness.curves import Curve, Series, series
from benchmarks.harness.plots import save
from fastsemi.common.plot_style import COLOURS, STYLE

STEPS = 240  # places along the time at which the mean is taken


def draw(curves: Sequence[Curve], baselines: dict[int, float], folder: Path, name: str) -> list[Path]:
    """Write `name.png` and `name.svg`; nothing where no seed has all methods.

    Args:
        curves: All that were measured.
        baselines: Top-1 of label spreading by seed.
        folder: Where to write.
        name: Of the files.
    """
    found = series(curves)
    if not found:
        return []
    seeds = sorted(found[0].curves)
    end = max(curve.seconds for line in found for curve in line.curves.values())
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
        trainings = list(dict.fromkeys(_training(line) for line in found))
        for line in found:
            colour = COLOURS[trainings.index(_training(line)) % len(COLOURS)]
            seconds, mean, low, high = band(line, end)
            dotted = line.networks == ("ema",)
            axes.plot(seconds, mean, color=colour, linestyle=":" if dotted else "-", label=line.label)
            axes.fill_between(seconds, low, high, color=colour, alpha=0.08 if dotted else 0.2, linewidth=0)
        if known := [baselines[seed] for seed in seeds if seed in baselines]:
            level = statistics.mean(known)
            axes.axhline(level, color="#555555", linestyle="--", label="label spreading on pixels")
        axes.set(xlabel="CPU seconds of training", ylabel="top-1 %", xlim=(0, end), ylim=(0, 100))
        axes.set_title(f"{curves[0].data}, n = {len(seeds)} seeds, mean and range", loc="left")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), frameon=False, fontsize=8, ncols=2)
        return save(figure, folder, name)


def _training(line: Series) -> tuple[int, ...]:
    """The same for two networks of the same trainings."""
    return tuple(id(curve) for curve in line.curves.values())


def band(line: Series, end: float) -> tuple[list[float], list[float], list[float], list[float]]:
    """Seconds up to `end`, and there the mean, the lowest and the highest newest top-1 over the seeds.

    It begins where every seed has been evaluated.
    """
    grid = [end * i / STEPS for i in range(STEPS + 1)]
    known = [(seconds, line.at(seconds)) for seconds in grid]
    known = [(seconds, values) for seconds, values in known if not any(map(math.isnan, values))]
    return (
        [seconds for seconds, _ in known],
        [statistics.mean(values) for _, values in known],
        [min(values) for _, values in known],
        [max(values) for _, values in known],
    )
