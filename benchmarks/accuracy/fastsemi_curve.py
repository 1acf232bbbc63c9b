"""A run of fastsemi, all its stages, with the CPU seconds of every evaluation."""

from __future__ import annotations

import importlib
from typing import Any
from unittest import mock

from benchmarks.accuracy.cpu_clock import CpuClock
from benchmarks.harness.curves import Curve, Point
from fastsemi.common.progress import Progress, QuietConsole
from fastsemi.run.config import Config
from fastsemi.run.run import Run
from fastsemi.training import judge

IMPORTED_LATE = (
    "tensorboard",
    "torch.utils.tensorboard",
    "sklearn.semi_supervised",
    "fastsemi.probing.probe",
)


def train(config: Config, data: str) -> Curve:
    """Train all stages of a configuration in its output folder, which must not exist yet.

    All CPU seconds count, of reading, label spreading, building, training and saving, besides those of
    imports and of evaluation.

    Args:
        config: The run, with `train.baseline` none.
        data: Name of the data.

    Returns:
        Top-1 of the fine-tuned network, then of the student and the teacher; steps count on over the stages.
    """
    for name in IMPORTED_LATE:
        importlib.import_module(name)
    run = Run(config, Progress(QuietConsole(quiet=True)))
    clock, points, evaluate = CpuClock(), [], judge.evaluate

    def judged(*arguments: Any, **options: Any) -> dict[str, Any]:
        with clock.paused():
            scores = evaluate(*arguments, **options)
        points.append(Point(clock.seconds, {name: score.top1 for name, score in scores.items()}))
        return scores

    with mock.patch.object(judge, "evaluate", judged):
        summary = run.train(config.stages)
    steps = sum(stage["steps"] for stage in summary["stages"].values())
    precision = summary["precision"]
    settings = {"steps": steps, "precision": precision}
    return Curve(data, "fastsemi", config.seed, settings, clock.seconds, steps, points)
