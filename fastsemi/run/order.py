"""The stages by name, and which one starts from which."""

from __future__ import annotations

from typing import Any

from fastsemi.loaders.data import Data
from fastsemi.loaders.image_set import digest
from fastsemi.run.config import Config
from fastsemi.stages.base import Stage
from fastsemi.stages.finetune import Finetune
from fastsemi.stages.names import STAGES, StageName, has_classifier
from fastsemi.stages.pretrain import Pretrain
from fastsemi.stages.semi import Semi

STAGE_CLASSES: dict[StageName, type[Stage]] = {"pretrain": Pretrain, "finetune": Finetune, "semi": Semi}


def images_digest(config: Config, data: Data, name: StageName) -> str:
    """A fingerprint of the images that a stage learns from, and of their labels where it uses any."""
    roles = STAGE_CLASSES[name].build_roles(settings(config, name), data, config.seed)
    return digest([role.images for role in roles.values()], labels=has_classifier(name))


def evaluation_digest(data: Data) -> str:
    """A fingerprint of the images that a run is evaluated on and those that choose its network."""
    return digest([data.val, data.selection], labels=True)


def earlier(config: Config, name: StageName) -> list[StageName]:
    """The stages of a run that come before `name`; it starts from the last one."""
    return [s for s in config.stages if STAGES.index(s) < STAGES.index(name)]


def settings(config: Config, name: StageName) -> Any:
    """The settings of a stage."""
    return getattr(config, name)
