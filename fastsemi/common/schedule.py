"""Durations with units, and the learning rate of each step."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

_LONGEST = 1e15  # in any unit; steps are counted in 64 bits


class Duration(str):
    """A length of training: a number and a unit, such as `5 epochs` or `1000 steps`.

    Raises:
        ValueError: Another form.
    """

    value: float
    unit: Literal["epochs", "steps"]

    def __new__(cls, text: str) -> Duration:
        """Read and normalise the text."""
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(epoch|step)s?\s*", str(text))
        if not match:
            raise ValueError(
                f"{text!r} is no duration; write a number and a unit: '5 epochs' or '1000 steps'"
            )
        if float(match[1]) > _LONGEST:
            raise ValueError(
                f"{match[1][:20]} {match[2]}s is no duration; it must be at most {_LONGEST:,.0f}"
            )
        number = f"{Decimal(f'{float(match[1]):.12g}'):f}"  # twelve digits, without an exponent
        duration = super().__new__(cls, f"{number} {match[2]}s")
        duration.value, duration.unit = float(number), "epochs" if match[2] == "epoch" else "steps"
        return duration

    def __getnewargs__(self) -> tuple[str]:
        """Pickle and copy through the text."""
        return (str(self),)

    def steps(self, steps_per_epoch: float) -> int:
        """In optimizer steps, rounded to the nearest."""
        return round(self.value * (steps_per_epoch if self.unit == "epochs" else 1))


@dataclass(frozen=True)
class CosineSchedule:
    """Linear warm-up, then half a cosine down to `min_lr`, per step.

    As a rule a step has the rate that is due at its end: the first of W steps of warm-up is 1 / W of the way
    from `min_lr` up, the last step is at `min_lr`. With `at_start` it has the rate due at its start, and the
    warm-up begins at 0: the first step changes nothing, the last one is a little above `min_lr`.

    Args:
        peak_lr: Learning rate after the warm-up.
        min_lr: Learning rate of the last step.
        warmup_steps: Steps of warm-up.
        total_steps: Steps in all, warm-up included.
        at_start: Which of the two.
    """

    peak_lr: float
    min_lr: float
    warmup_steps: int
    total_steps: int
    at_start: bool = False

    def lr(self, step: int) -> float:
        """Learning rate of step `step`, the first being 0."""
        if step < self.warmup_steps:
            if self.at_start:
                return self.peak_lr * step / self.warmup_steps
            return self.min_lr + (self.peak_lr - self.min_lr) * (step + 1) / self.warmup_steps
        steps = self.total_steps - self.warmup_steps - (not self.at_start)
        done = (step - self.warmup_steps) / max(1, steps)
        return self.min_lr + (self.peak_lr - self.min_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
