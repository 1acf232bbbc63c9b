"""A profile as tables, JSON and a plot."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fastsemi.common.files import replacing
from fastsemi.common.hardware import hardware
from fastsemi.common.spans import BETWEEN, STEP
from fastsemi.common.version import __version__
from fastsemi.run.folder import RunFolder
from fastsemi.tools.profile.profile import Profile
from fastsemi.tools.profile.verdict import rounded

# The spans of a step in their order, and what to call them.
LABELS = {
    "wait": "wait for data",
    "copy": "copy",
    "augment": "augment",
    "mix": "normalise, erase, mix",
    "teacher": "teacher",
    "student": "student forward",
    "loss": "loss, metrics",
    "backward": "backward",
    "optimizer": "optimizer",
    "ema": "EMA",
    STEP: "other",
    BETWEEN: "between steps",
}
THREADS = {
    "plan": "plan",
    "read": "read",
    "decode": "decode",
    "resize": "resize",
    "copy": "copy, on the device beside the step",
}
CEILINGS = {
    "read": "reading alone",
    "decode": "decode and resize, bytes in memory",
    "loader": "loader, nobody training",
    "step": "step, batches in memory",
    "job": "the job",
}
_DISTURBED = 1.1  # nothing is slower alone than with all the others, but for other processes


def show(profile: Profile, console: Console) -> None:
    """Print tables and verdict."""
    f = profile.figures
    plural = "s" if f.threads > 1 else ""
    console.print(
        f"{profile.stage} on {profile.device}, engine {profile.engine}, {f.threads} decoding thread{plural}, "
        f"{f.cores} cores, {profile.images} images a step, {profile.job.steps} steps",
        highlight=False,
        soft_wrap=True,
    )
    for table in (_step_table(profile), _loader_table(profile), _ceiling_table(profile)):
        console.print(table)
    if profile.step.wall > _DISTURBED * profile.job.wall:
        console.print(
            "The step was slower with batches in memory than in the job: other processes disturbed it, so "
            "profile again on an idle machine or with more --steps.",
            soft_wrap=True,
        )
    if profile.untrained:
        console.print(
            "The classifier is not trained yet, so every pseudo label was accepted; a run that rejects some "
            "is faster. Profile again when the finetune stage has finished.",
            soft_wrap=True,
        )
    console.print(profile.verdict.text, style="bold", highlight=False, soft_wrap=True)


def _table(name: str, *numbers: str) -> Table:
    """A table of names and of numbers, which end below each other."""
    table = Table(name)
    for header in numbers:
        table.add_column(header, justify="right")
    return table


def _step_table(profile: Profile) -> Table:
    """Where the step's time goes, in the job and without a loader beside it."""
    table = _table("step", "ms in the job", "share", "ms alone", "images/s alone")
    job, alone = profile.job.spans, profile.step.spans
    for name, label in LABELS.items():
        if name not in job:
            continue
        other = alone.get(name, 0.0)
        told = other > 1e-3 * profile.step.wall and name not in ("wait", BETWEEN)
        rate = rounded(profile.images / other) if told else ""
        share = f"{job[name] / profile.job.wall:.0%}"
        table.add_row(label, rounded(1e3 * job[name]), share, rounded(1e3 * other), rate)
    table.add_section()
    total = rounded(profile.images / profile.step.wall)
    table.add_row("all", rounded(1e3 * profile.job.wall), "", rounded(1e3 * profile.step.wall), total)
    return table


def _loader_table(profile: Profile) -> Table:
    """What loader threads do; their time is longer than the step's as they work beside each other."""
    table = _table("loader threads", "ms per step, all threads", "of the decoding threads' time")
    threads, capacity = profile.job.threads, profile.figures.threads * profile.job.wall
    for name, label in THREADS.items():
        if name in threads:
            share = "" if name in ("plan", "copy") else f"{threads[name] / capacity:.0%}"
            table.add_row(label, rounded(1e3 * threads[name]), share)
    if not threads.keys() & {"read", "decode", "resize"}:
        table.add_row(f"the {profile.engine} engine does not tell", "", "")
    return table


def _ceiling_table(profile: Profile) -> Table:
    """The most that each part gives without the others."""
    table = _table("ceiling", "images/s", "times the job")
    for name, label in CEILINGS.items():
        rate = getattr(profile.figures, name)
        table.add_row(label, rounded(rate), rounded(rate / profile.figures.job))
    return table


def to_json(profile: Profile) -> dict[str, Any]:
    """All figures, with the hardware they are from."""
    return {
        **asdict(profile),
        "hardware": hardware(),
        "versions": {"fastsemi": __version__},
    }


def write(profile: Profile, folder: Path) -> tuple[Path, Path]:
    """Write `profile.json` and `profile.png`; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = RunFolder(folder).profile
    with replacing(paths[0]) as file:
        file.write(json.dumps(to_json(profile), indent=2) + "\n")
    _plot(profile, paths[1])
    return paths


def _plot(profile: Profile, path: Path) -> None:
    """A stacked bar of the step in the job and alone; beside it what each part gives alone."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), width_ratios=(3, 2), layout="constrained")
    colors = plt.get_cmap("tab20").colors  # type: ignore[attr-defined]
    bottoms = [0.0, 0.0]
    for (name, label), color in zip(LABELS.items(), colors, strict=False):
        widths = [1e3 * timing.spans.get(name, 0.0) for timing in (profile.job, profile.step)]
        if not any(widths):
            continue
        left.barh(["in the job", "alone"], widths, left=bottoms, label=label, color=color)
        bottoms = [b + w for b, w in zip(bottoms, widths, strict=True)]
    left.invert_yaxis()
    left.set_xlim(0, 1.02 * max(bottoms))
    left.locator_params(axis="x", nbins=6)
    left.set_xlabel("ms per step")
    figure.legend(fontsize=8, ncols=6, loc="outside lower center")
    rates = [getattr(profile.figures, name) for name in CEILINGS]
    bars = right.barh(list(CEILINGS.values()), rates, color=["silver"] * (len(rates) - 1) + ["tab:blue"])
    right.bar_label(bars, [rounded(rate) for rate in rates], padding=2, fontsize=8)
    right.set_xscale("log")  # reading may be a thousand times as fast as the step
    right.set_xlim(min(rates) / 3, 5 * max(rates))
    right.tick_params(axis="y", labelsize=8)
    right.set_xlabel("images/s, logarithmic")
    figure.suptitle(
        profile.verdict.text.split(":")[0] + f" ({profile.stage} on {profile.device})", fontsize=10
    )
    figure.savefig(path, dpi=120)
    plt.close(figure)
