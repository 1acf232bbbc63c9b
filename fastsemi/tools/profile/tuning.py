"""Finds the fastest loader settings on this machine within a time budget."""

from __future__ import annotations

import math
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import numpy as np
import yaml

from fastsemi.common.errors import UserError
from fastsemi.common.precision import select_device
from fastsemi.loaders.data import Data
from fastsemi.loaders.engines.choose import fastest, unavailable
from fastsemi.loaders.engines.settings import DaliOptions
from fastsemi.loaders.settings import LoaderConfig
from fastsemi.loaders.sources.beton import BetonSource
from fastsemi.run.config import Config, StageName, plain
from fastsemi.run.order import STAGE_CLASSES
from fastsemi.stages.base import Role
from fastsemi.tools.profile.ceilings import LoaderCeilings

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


class Bench:
    """Measures loaders of a stage's streams, with nobody training.

    Args:
        config: The run.
        stage: Which streams to load.
    """

    def __init__(self, config: Config, stage: StageName):
        self.data = Data(config.data, config.loader, device=select_device(config.device))
        settings = getattr(config, stage)
        self.roles: Mapping[str, Role] = STAGE_CLASSES[stage].build_roles(settings, self.data, config.seed)
        self._images = next(iter(self.roles.values())).stream.batch
        self._open: dict[LoaderConfig, Data] = {}
        self._step = 0

    def measure(self, loader: LoaderConfig, seconds: float) -> float:
        """Images/s of the main stream over about `seconds`; 0 for settings that cannot run.

        Raises:
            UserError: The configuration's own settings cannot run.
        """
        data = self._open.setdefault(loader, self.data.with_loader(loader))
        ceilings = LoaderCeilings(data, self.roles, self._images, self._step)
        try:
            rate = ceilings.loader(seconds)
        except UserError:
            if loader == self.data.loader:
                raise
            return 0.0
        self._step = ceilings.step
        return rate

    def changes(self) -> list[list[Change]]:
        """What to vary, one setting after another; values that mean the same as the default are left out."""
        default = self.data.loader
        on_gpu = self.data.on_gpu
        usual = fastest(on_gpu)[0] if default.engine == "auto" else default.engine
        cores = len(os.sched_getaffinity(0))
        threads = sorted({1, 2, max(1, cores // 2), cores, math.ceil(1.5 * cores), 2 * cores})
        source = next(iter(self.roles.values())).images.source
        engines = ["native", *(["dali"] if on_gpu else [])]
        engines += ["ffcv"] if isinstance(source, BetonSource) else []
        missing = {*unavailable(), usual}
        lists = [
            [_set(engine=name) for name in engines if name not in missing],
            [_set(threads=count) for count in threads if count != default.thread_count],
            [_set(prefetch=depth) for depth in (2, 4, 8)],
        ]
        if on_gpu and "dali" not in unavailable():
            lists.append([_set_dali(hw_load=share) for share in (0.0, 0.3, 0.65, 0.9, 1.0)])
            lists.append([_set_dali(decode=kind) for kind in ("window", "whole")])
        return lists

    def close(self) -> None:
        """Stop all engines."""
        for data in (*self._open.values(), self.data):
            data.close()


def _set(**settings: Any) -> Change:
    return lambda loader: replace(loader, **settings)


def _set_dali(**settings: Any) -> Change:
    """Only where DALI runs."""

    def change(loader: LoaderConfig) -> LoaderConfig:
        if loader.engine not in ("dali", "auto"):
            return loader
        return replace(loader, dali=replace(loader.dali, **settings))

    return change


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


def settings(loader: LoaderConfig) -> dict[str, Any]:
    """What is tuned of a loader's settings."""
    found = {"engine": loader.engine, "threads": loader.threads, "prefetch": loader.prefetch}
    return found | ({"dali": plain(loader.dali)} if loader.dali != DaliOptions() else {})


def to_yaml(result: Result, hardware: str) -> str:
    """A preset of the best settings, for a second `--config`."""
    if result.best == result.default:
        why = "nothing was faster than the default"
    else:
        assert result.gain is not None
        why = f"{result.gain[0]:.2f} times the default's rate"
    head = f"# fastsemi tune loader on {hardware}: {why}\n"
    return head + yaml.safe_dump({"loader": settings(result.best)}, sort_keys=False)


def table_rows(result: Result) -> Iterator[tuple[str, ...]]:
    """Engine, threads, prefetch, DALI's options, images/s, how often measured, remark.

    The best first and the default next, then the fastest: rates of different minutes say less than the final
    check.
    """
    rank = {result.default: 1} | {result.best: 0}
    for loader, rates in sorted(
        result.rates.items(), key=lambda item: (rank.get(item[0], 2), -median(item[1]))
    ):
        options = loader.dali
        is_dali = loader.engine == "dali" or options != DaliOptions()
        marks = [
            name for name, other in (("default", result.default), ("best", result.best)) if loader == other
        ]
        yield (
            loader.engine,
            str(loader.threads or f"{loader.thread_count} (0)"),
            str(loader.prefetch),
            f"hw_load {options.hw_load}, {options.decode}" if is_dali else "",
            f"{median(rates):,.0f}",
            str(len(rates)),
            ", ".join(marks),
        )
