"""Loader settings of a run: how they are measured, what may be varied, and what is written of the best."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from statistics import median
from typing import Any

import yaml

from fastsemi.common.errors import UserError
from fastsemi.common.precision import select_device
from fastsemi.loaders.batches import Batches
from fastsemi.loaders.data import Data
from fastsemi.loaders.engines.choose import fast_engines, unavailable
from fastsemi.loaders.engines.settings import DaliOptions
from fastsemi.loaders.settings import LoaderConfig
from fastsemi.run.config import Config, plain
from fastsemi.run.order import STAGE_CLASSES
from fastsemi.stages.base import Role
from fastsemi.stages.names import StageName
from fastsemi.tools.profile.ceilings import LoaderCeilings
from fastsemi.tools.profile.search import Change, Result


class Bench:
    """Measures loaders of a stage's streams, with nobody training.

    Args:
        config: The run.
        stage: Which streams to load.
    """

    def __init__(self, config: Config, stage: StageName):
        data = Data(config.data, config.loader, device=select_device(config.device))
        settings = getattr(config, stage)
        self.roles: Mapping[str, Role] = STAGE_CLASSES[stage].build_roles(settings, data, config.seed)
        self._batches = data.batches
        self._images = next(iter(self.roles.values())).stream.batch
        self._open: dict[LoaderConfig, Batches] = {}
        self._step = 0

    def measure(self, loader: LoaderConfig, seconds: float) -> float:
        """Images/s of the main stream over about `seconds`; 0 for settings that cannot run.

        Raises:
            UserError: The configuration's own settings cannot run.
        """
        if loader not in self._open:
            self._open[loader] = self._batches.with_loader(loader)
        ceilings = LoaderCeilings(self._open[loader], self.roles, self._images, self._step)
        try:
            rate = ceilings.loader(seconds)
        except UserError:
            if loader == self._batches.loader:
                raise
            return 0.0
        self._step = ceilings.step
        return rate

    def changes(self) -> list[list[Change]]:
        """What to vary, one setting after another; values that mean the same as the default are left out."""
        default, on_gpu = self._batches.loader, self._batches.on_gpu
        cores = len(os.sched_getaffinity(0))
        threads = sorted({1, 2, max(1, cores // 2), cores, math.ceil(1.5 * cores), 2 * cores})
        images = next(iter(self.roles.values())).images
        usual, source = self._batches.engine(images).name, images.source
        lists = [
            [_set(engine=name) for name in fast_engines(source, on_gpu) if name != usual],
            [_set(threads=count) for count in threads if count != default.thread_count],
            [_set(prefetch=depth) for depth in (2, 4, 8)],
        ]
        if on_gpu and "dali" not in unavailable():
            lists.append([_set_dali(hw_load=share) for share in (0.0, 0.3, 0.65, 0.9, 1.0)])
            lists.append([_set_dali(decode=kind) for kind in ("window", "whole")])
        return lists

    def close(self) -> None:
        """Stop all engines."""
        for batches in self._open.values():
            batches.close()


def _set(**settings: Any) -> Change:
    return lambda loader: replace(loader, **settings)


def _set_dali(**settings: Any) -> Change:
    """Only where DALI runs."""

    def change(loader: LoaderConfig) -> LoaderConfig:
        if loader.engine not in ("dali", "auto"):
            return loader
        return replace(loader, dali=replace(loader.dali, **settings))

    return change


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
