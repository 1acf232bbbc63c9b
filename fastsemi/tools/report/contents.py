"""What a run directory tells about its run, finished or not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastsemi.run.config import Config
from fastsemi.run.folder import RunFolder
from fastsemi.run.summary import best_baselines, networks, read_summary, shortfall
from fastsemi.stages.names import STAGES, StageName, has_classifier

UNTRAINED = "without training"
Metrics = dict[str, Any]  # a row of metrics.jsonl


@dataclass(frozen=True)
class RunFiles:
    """The files of a run directory that a report is made from."""

    folder: Path
    settings: str
    """`config.yaml`."""
    summary: dict[str, Any]
    metrics: dict[str, list[Metrics]]
    """Rows of `metrics.jsonl` by stage."""


@dataclass(frozen=True)
class StageLine:
    """A line of the table of results; None for what is not known."""

    stage: str
    network: str
    top1: float | None
    balanced: float | None
    top5: float | None
    images_per_s: float | None
    seconds: float | None
    state: str
    """finished, how far it has come, or that nothing was trained."""


def read_run(folder: Path) -> RunFiles:
    """Read a run directory.

    Raises:
        UserError: It is no run, or a file is damaged.
    """
    run = RunFolder(folder)
    run.require_run()
    metrics: dict[str, list[Metrics]] = {}
    for row in _rows(run.metrics):
        metrics.setdefault(row["stage"], []).append(row)
    return RunFiles(folder, run.config.read_text(errors="replace"), read_summary(run.summary), metrics)


def class_names(folder: Path) -> list[str]:
    """Names of the classes of a run, from the network that it has left; none where it has left none."""
    try:
        settings = json.loads((RunFolder(folder).model / "config.json").read_text(encoding="utf-8"))
        return [str(name) for name in settings["label_names"]]
    except (OSError, ValueError, TypeError, KeyError):
        return []


def _rows(path: Path) -> list[Metrics]:
    rows = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue  # torn by a crash
        if isinstance(row, dict) and isinstance(row.get("stage"), str) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


def stage_lines(files: RunFiles, config: Config) -> list[StageLine]:
    """The best simple classifier on each kind of features, then each network of each stage."""
    lines = [
        StageLine(
            row["features"],
            row["classifier"],
            row["top1"],
            row.get("balanced"),
            None,
            None,
            row.get("seconds"),
            UNTRAINED,
        )
        for row in best_baselines(files.summary)
    ]
    for stage in ordered_stages(files, config):
        entry = files.summary["stages"].get(stage)
        state = "finished"
        if entry is None:
            rows = files.metrics.get(stage, [])
            entry, state = _so_far(rows), _progress(config, stage, rows)
        for network in networks(entry) or [""]:
            prefix = f"{network}_" if network else ""
            lines.append(
                StageLine(
                    stage,
                    network or _unjudged(stage, state),
                    entry.get(f"{prefix}top1"),
                    entry.get(f"{prefix}balanced"),
                    entry.get(f"{prefix}top5"),
                    entry.get("images_per_s"),
                    entry.get("seconds"),
                    state,
                )
            )
        if chosen := entry.get("chosen"):
            what = f"chosen: {chosen['network']}, step {chosen['step']:,}"
            top1, balanced, top5 = (chosen.get(kind) for kind in ("top1", "balanced", "top5"))
            lines.append(StageLine(stage, what, top1, balanced, top5, None, None, state))
    return lines


def _unjudged(stage: StageName, state: str) -> str:
    """What stands for a network without accuracies."""
    if not has_classifier(stage):
        return "encoder"
    return "not evaluated" if state == "finished" else "model"


def ordered_stages(files: RunFiles, config: Config) -> list[StageName]:
    """The stages that the run has, or is to have."""
    known = {*config.stages, *files.summary["stages"], *files.metrics}
    return [stage for stage in STAGES if stage in known]


def _so_far(rows: Sequence[Metrics]) -> Metrics:
    """The last value of everything that a stage has logged."""
    latest: Metrics = {}
    for row in rows:
        latest |= {key: value for key, value in row.items() if value is not None}
    return latest


def _progress(config: Config, stage: StageName, rows: Sequence[Metrics]) -> str:
    if not rows:
        return "not started"
    last = max(rows, key=lambda row: row["step"])
    step = last["step"]
    epoch = next((row["epoch"] for row in reversed(rows) if row.get("epoch") and row["step"] == step), None)
    length = getattr(config, stage).length
    if length.unit == "epochs" and not epoch:
        return f"unfinished, step {step:,}"
    return f"unfinished, step {step:,} of {length.steps(step / epoch if epoch else 1):,}"


def deviations(files: RunFiles, config: Config) -> list[str]:
    """What was otherwise than the configuration says, or is missing."""
    found = []
    skipped = files.summary.get("skipped_images", [])
    if skipped:
        what = "image cannot be decoded and was" if len(skipped) == 1 else "images cannot be decoded and were"
        found.append(f"{len(skipped):,} {what} skipped.")
    for stage, rows in files.metrics.items():
        refused, before = 0.0, 0
        for row in rows:
            if "skipped_steps" in row:
                refused += (row["skipped_steps"] or 0.0) * (row["step"] - before)
                before = row["step"]
        if refused:
            found.append(
                f"{stage}: {round(refused):,} steps changed nothing, as their gradients overflowed fp16."
            )
    if short := shortfall(files.summary):
        found.append(f"{short[0].upper()}{short[1:]}.")
    states = dict.fromkeys((line.stage, line.state) for line in stage_lines(files, config))
    found += [f"{stage}: {state}." for stage, state in states if state not in ("finished", UNTRAINED)]
    return found


def run_name(folder: Path) -> str:
    """What a report calls a run."""
    return folder.resolve().name or str(folder)
