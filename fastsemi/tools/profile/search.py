"""Finds the fastest loader settings within a time budget, by measurements that scatter."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from fastsemi.loaders.settings import LoaderConfig

Measure = Callable[[LoaderConfig, float], float]
Change = Callable[[LoaderConfig], LoaderConfig]

_FINAL_ROUNDS = 7
_FINAL_PART = 0.35  # of the budget, for the final check
_LEAST = 0.3  # seconds of one measurement
_GAIN = 1.02  # least median gain over the default that counts


@dataclass
class Result:
    """What was tried, and what is best."""

    default: LoaderConfig
    best: LoaderConfig
    """The default unless another was faster in the final check."""
    rates: dict[LoaderConfig, list[float]] = field(default_factory=dict)
    """Images/s of every measurement."""
    gain: tuple[float, float] | None = None
    """Of the best candidate over the default in the final check: median and 20th percentile."""


def search(
    default: LoaderConfig,
    changes: Sequence[Sequence[Change]],
    measure: Measure,
    budget: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    say: Callable[[str], None] = lambda text: None,
) -> Result:
    """Vary one setting after another; of its values the slower half is dropped again and again.

    The values that are left are measured in turn, so that a slow minute hits all of them, and for longer each
    time. At the end the best settings run against the default, in turn and in random order.

    Args:
        default: Where to begin.
        changes: For each setting, what gives its values.
        measure: Images/s of settings over about some seconds.
        budget: Seconds in all; a measurement that has begun is finished.
        clock: Seconds that have passed.
        say: Called with what is being measured.

    Returns:
        The default as the best where nothing was faster in the final check.
    """
    begun = clock()
    result = Result(default, default)

    def rate(loader: LoaderConfig, seconds: float) -> float:
        value = measure(loader, seconds)
        result.rates.setdefault(loader, []).append(value)
        return value

    best = default
    for number, values in enumerate(changes):
        left = begun + (1 - _FINAL_PART) * budget - clock()
        share = left / (len(changes) - number)
        alive = list(dict.fromkeys([best, *(change(best) for change in values)]))
        if len(alive) == 1:
            continue
        say(f"{len(alive)} settings, {number + 1} of {len(changes)}")
        best = _halve(alive, rate, share, clock)
    if best != default:
        say("the best against the default")
        result.gain = _compare(best, default, rate, begun + budget, clock)
        if result.gain[0] >= _GAIN and result.gain[1] > 1:
            result.best = best
    return result


def _halve(
    alive: list[LoaderConfig], rate: Measure, seconds: float, clock: Callable[[], float]
) -> LoaderConfig:
    """The fastest, the first one on a tie; what there is no time to measure is dropped."""
    end = clock() + seconds
    rounds = max(1, math.ceil(math.log2(len(alive))))
    while len(alive) > 1 and clock() < end:
        part = max(_LEAST, (end - clock()) / rounds / len(alive))
        found = []
        for loader in alive:
            found.append(rate(loader, part))
            if clock() >= end:
                break
        order = sorted(range(len(found)), key=lambda i: -found[i])
        alive = [alive[i] for i in order[: math.ceil(len(order) / 2)]]
        rounds = max(1, rounds - 1)
    return alive[0]


def _compare(
    best: LoaderConfig,
    default: LoaderConfig,
    rate: Measure,
    end: float,
    clock: Callable[[], float],
) -> tuple[float, float]:
    """Median and 20th percentile of the gain over rounds."""
    part = max(_LEAST, (end - clock()) / _FINAL_ROUNDS / 2)
    order, shuffle, gains = [best, default], random.Random(0), []
    for _ in range(_FINAL_ROUNDS):
        shuffle.shuffle(order)
        rates = {loader: rate(loader, part) for loader in order}
        gains.append(rates[best] / max(rates[default], 1e-9))
    return median(gains), float(np.percentile(gains, 20))
