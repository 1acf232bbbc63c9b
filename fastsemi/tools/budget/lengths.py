"""The lengths of stages that fit into a time, given what their parts cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fastsemi.common.schedule import Duration
from fastsemi.run.config import Config
from fastsemi.run.order import settings
from fastsemi.stages.names import StageName

LEAST = 10  # steps of a stage; fewer teach nothing
MOST = 10.0  # times the configured lengths; nothing longer was measured
ALWAYS = ("length", "warmup")
WHERE_STEPS = ("eval_every", "checkpoint_every", "spread_every")  # those in epochs stay
_ROUNDS = 40  # of bisection


@dataclass(frozen=True)
class StageCost:
    """Seconds that the parts of a stage take."""

    steps_per_epoch: float
    once: float
    """Networks, first steps, the evaluation before these, the result."""
    step: float
    evaluation: float = 0.0
    checkpoint: float = 0.0
    spread: float = 0.0
    """To spread labels once over the teacher's features, at the configured interval."""

    def seconds(self, stage: Any, configured: Any) -> float:
        """Of the whole stage.

        Args:
            stage: Its settings.
            configured: Those that the parts were measured with.
        """
        steps = self.steps(stage)
        times = {
            name: math.ceil(steps / self._every(stage, name)) for name in ("eval_every", "checkpoint_every")
        }
        total = self.once + steps * self.step
        total += times["eval_every"] * self.evaluation + times["checkpoint_every"] * self.checkpoint
        if self.spread:
            every, before = (self._every(one, "spread_every") for one in (stage, configured))
            more = min(every, self.steps_per_epoch) / min(before, self.steps_per_epoch)
            # Features grow with the images between two times, the search for neighbours with their square.
            total += math.ceil(steps / every) * self.spread * max(more, more * more)
        return total

    def steps(self, stage: Any) -> int:
        """Optimizer steps of the stage."""
        return max(1, stage.length.steps(self.steps_per_epoch))

    def _every(self, stage: Any, name: str) -> int:
        return max(1, getattr(stage, name).steps(self.steps_per_epoch))


def intervals(stage: Any) -> list[str]:
    """The names of a stage's settings that are lengths."""
    return [name for name in (*ALWAYS, *WHERE_STEPS) if hasattr(stage, name)]


def scaled(stage: Any, factor: float, steps_per_epoch: float) -> Any:
    """The settings of a stage that is `factor` times as long, its schedule of the same shape."""
    changes = {name: _times(getattr(stage, name), factor) for name in ALWAYS}
    before, after = (max(1, length.steps(steps_per_epoch)) for length in (stage.length, changes["length"]))
    if changes["warmup"].steps(steps_per_epoch) >= after:  # by rounding
        changes["warmup"] = Duration(f"{after - 1} steps")
    for name in intervals(stage)[len(ALWAYS) :]:
        every = getattr(stage, name)
        if every.unit == "steps":  # rounded up, so that it comes as often as before
            changes[name] = Duration(f"{max(1, -(-after * round(every.value) // before))} steps")
    return replace(stage, **changes)


def _times(length: Duration, factor: float) -> Duration:
    value = factor * length.value
    return Duration(f"{round(value)} steps" if length.unit == "steps" else f"{value:.9f} epochs")


@dataclass(frozen=True)
class Choice:
    """Lengths, and the time that they take."""

    config: Config
    factor: float
    """Times the configured lengths."""
    seconds: float


def choose(
    config: Config, costs: Mapping[StageName, StageCost], free: Sequence[StageName], seconds: float
) -> tuple[Choice, Choice]:
    """Lengths of the stages, all longer or shorter by one factor, so that they end in some seconds.

    Args:
        config: With the lengths to start from.
        costs: Of all stages to run.
        free: Those whose length may change.
        seconds: For all of them.

    Returns:
        The shortest that may be, and the longest that fit; they are the same where even the shortest do not.
    """

    def at(factor: float) -> Choice:
        changed = {n: scaled(settings(config, n), factor, costs[n].steps_per_epoch) for n in free}
        longer = replace(config, **changed)
        parts = (cost.seconds(settings(longer, n), settings(config, n)) for n, cost in costs.items())
        return Choice(longer, factor, sum(parts))

    shortest = at(
        max(least(settings(config, name)) / costs[name].steps(settings(config, name)) for name in free)
    )
    longest = at(MOST)
    if shortest.seconds > seconds:
        return shortest, shortest
    if longest.seconds <= seconds:
        return shortest, longest
    return shortest, _last(at, shortest, longest, seconds)


def least(stage: Any) -> int:
    """The fewest steps that a stage with these settings may have: one for each of its image sizes."""
    return max(LEAST, len(getattr(stage, "image_sizes", ())))


def _last(at: Callable[[float], Choice], fits: Choice, too_long: Choice, seconds: float) -> Choice:
    for _ in range(_ROUNDS):
        middle = at(math.sqrt(fits.factor * too_long.factor))
        if middle.seconds <= seconds:
            fits = middle
        else:
            too_long = middle
    return fits
