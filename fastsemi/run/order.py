"""The stages by name, and which one starts from which."""

from __future__ import annotations

from typing import Any, get_args

from fastsemi.run.config import Config, StageName
from fastsemi.stages.base import Stage
from fastsemi.stages.finetune import Finetune
from fastsemi.stages.pretrain import Pretrain
from fastsemi.stages.semi import Semi

STAGES: tuple[StageName, ...] = get_args(StageName)
STAGE_CLASSES: dict[StageName, type[Stage]] = {"pretrain": Pretrain, "finetune": Finetune, "semi": Semi}


def earlier(config: Config, name: StageName) -> list[StageName]:
    """The stages of a run that come before `name`; it starts from the last one."""
    return [s for s in config.stages if STAGES.index(s) < STAGES.index(name)]


def settings(config: Config, name: StageName) -> Any:
    """The settings of a stage."""
    return getattr(config, name)
