"""The settings of the toy stage."""

from __future__ import annotations

from dataclasses import dataclass, field

from fastsemi.common.schedule import Duration
from fastsemi.loaders.plan.draws import AugmentConfig
from fastsemi.stages.stage_config import StageConfig


@dataclass(frozen=True)
class ToyConfig(StageConfig):
    """A linear probe."""

    section = "toy"

    length: Duration = Duration("10 epochs")
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Augmentation of the images."""
