"""A stage that is tried beside its run, to time some of its steps: without an end, and leaving nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from fastsemi.common.schedule import Duration
from fastsemi.loaders.settings import PlanConfig
from fastsemi.run.config import Config
from fastsemi.run.folder import RunFolder
from fastsemi.run.order import settings
from fastsemi.stages.names import StageName, has_classifier

_FAR = 100_000_000  # steps: the end of the schedule, out of reach


def endless(config: Config, name: StageName, *, accept_all: bool) -> Config:
    """The configuration with a stage that neither evaluates, saves nor ends in any time that one waits.

    Args:
        config: The run.
        name: The stage.
        accept_all: Whether the semi stage is to accept every pseudo label: its step is the dearest then.
    """
    never = Duration(f"{_FAR} steps")
    changes: dict[str, Any] = {"length": never, "warmup": Duration(f"{_FAR // 2} steps")}
    changes |= {"eval_every": never, "checkpoint_every": never}
    if has_classifier(name):
        changes["image_sizes"] = ()  # the last size is the dearest
    if name == "semi" and accept_all:
        changes["threshold"] = 0.0
    train = replace(config.train, select="last")  # nothing is evaluated
    plan = PlanConfig()  # one in a file ends
    return replace(config, train=train, plan=plan, **{name: replace(settings(config, name), **changes)})


class TrialFolder(RunFolder):
    """A run directory of which results are only read; what is new lies apart.

    Args:
        run: The run's.
        apart: For what is new.
    """

    def __init__(self, run: RunFolder, apart: RunFolder):
        super().__init__(run.path)
        self._apart = apart

    @property
    def spread_labels(self) -> Path:
        """Those of the run where it has found them, else new ones."""
        found = super().spread_labels
        return found if found.exists() else self._apart.spread_labels
