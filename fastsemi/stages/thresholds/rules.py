"""The threshold rules by name."""

from __future__ import annotations

from typing import Protocol

from fastsemi.stages.thresholds.base import ThresholdRule
from fastsemi.stages.thresholds.fixed import Fixed
from fastsemi.stages.thresholds.flexmatch import FlexMatch
from fastsemi.stages.thresholds.freematch import FreeMatch
from fastsemi.stages.thresholds.settings import (
    FlexMatchConfig,
    FreeMatchConfig,
    RuleName,
    SoftMatchConfig,
    SSTConfig,
)
from fastsemi.stages.thresholds.softmatch import SoftMatch
from fastsemi.stages.thresholds.sst import SST


class RuleSettings(Protocol):
    """What the rules need of the stage's settings."""

    @property
    def threshold_rule(self) -> RuleName:
        """Which rule."""
        ...

    @property
    def threshold(self) -> float:
        """tau of `fixed`, `flexmatch` and `sst`."""
        ...

    @property
    def flexmatch(self) -> FlexMatchConfig:
        """Options of that rule."""
        ...

    @property
    def freematch(self) -> FreeMatchConfig:
        """Options of that rule."""
        ...

    @property
    def softmatch(self) -> SoftMatchConfig:
        """Options of that rule."""
        ...

    @property
    def sst(self) -> SSTConfig:
        """Options of that rule."""
        ...


def create_rule(config: RuleSettings, *, classes: int, images: int, highest_id: int) -> ThresholdRule:
    """The rule that `threshold_rule` names, with its state at the start of training.

    Args:
        config: Settings of the stage.
        classes: Number of classes.
        images: Number of unlabelled images.
        highest_id: The largest of their ids.
    """
    match config.threshold_rule:
        case "fixed":
            return Fixed(config.threshold)
        case "flexmatch":
            return FlexMatch(config.threshold, config.flexmatch, classes, images, highest_id)
        case "freematch":
            return FreeMatch(config.freematch, classes)
        case "softmatch":
            return SoftMatch(config.softmatch, classes)
        case "sst":
            return SST(config.threshold, config.sst, classes, images)
