"""When a peer is evaluated, and how far its learning rate has fallen: by CPU seconds, not by steps."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from benchmarks.accuracy.cpu_clock import CpuClock
from benchmarks.harness.curves import Curve, Point
from fastsemi.common.precision import Precision
from fastsemi.loaders.data import Data
from fastsemi.run.config import Config
from fastsemi.stages.inputs import Views
from fastsemi.training.evaluate import evaluate

COSINE = 7 / 16 * math.pi  # where FixMatch's learning rate ends: at a fifth of the first one


class Evaluations:
    """Evaluates a peer at intervals of the clock, outside of it: on `data.val` in fp32, as fastsemi does.

    Args:
        clock: Of the training.
        config: Of fastsemi: data, size and batch of the evaluation.
        data: The images.
        budget: CPU seconds of training.
        every: CPU seconds from one evaluation to the next.
    """

    def __init__(self, clock: CpuClock, config: Config, data: Data, *, budget: float, every: float):
        self._clock, self._config, self._data = clock, config, data
        self._budget, self._every, self._next = budget, every, every
        device = torch.device("cpu")
        self._views, self._precision = Views(config.data, device), Precision.select("fp32", device)
        self._points: list[Point] = []
        self._steps, self._seconds = 0, 0.0

    @property
    def rate(self) -> float:
        """The factor of the learning rate now, of FixMatch's cosine over the budget."""
        return learning_rate(self._clock.seconds, self._budget)

    def after_step(self, models: Mapping[str, nn.Module]) -> bool:
        """Count a step and evaluate where it is due; whether the budget is spent."""
        self._steps += 1
        self._seconds = self._clock.seconds
        if self._seconds < min(self._next, self._budget):
            return False
        with self._clock.paused():
            scores = evaluate(
                dict(models), self._data, self._views, self._precision, batch=self._config.eval_batch
            )
        self._points.append(Point(self._seconds, {name: score.top1 for name, score in scores.items()}))
        self._next = self._seconds + self._every
        return self._seconds >= self._budget

    def curve(self, data: str, method: str, settings: Mapping[str, float]) -> Curve:
        """What was found.

        Args:
            data: Name of the data.
            method: Name of the peer.
            settings: Of the peer; the budget comes to them.
        """
        told = {**settings, "budget": self._budget}
        return Curve(data, method, self._config.seed, told, self._seconds, self._steps, self._points)


def learning_rate(seconds: float, budget: float) -> float:
    """The factor of FixMatch's cosine after `seconds` of `budget`."""
    return math.cos(COSINE * min(1.0, seconds / budget))
