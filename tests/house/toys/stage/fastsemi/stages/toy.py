"""A toy stage: a linear probe, which trains the classifier on what the frozen network sees."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from fastsemi.common.spans import record
from fastsemi.loaders.data import Data
from fastsemi.loaders.plan.mixing import MixConfig
from fastsemi.models.adapt import classifiers
from fastsemi.stages.base import Ratio, Role, Stage, StepOutput
from fastsemi.stages.inputs import DeviceBatch, Views
from fastsemi.stages.roles import labelled_role
from fastsemi.stages.toy_config import ToyConfig


class Toy(Stage):
    """Supervised training of the last layer."""

    name = "toy"

    def __init__(self, config: ToyConfig, model: nn.Module, data: Data, views: Views, *, seed: int):
        self.config: ToyConfig = config
        self._views = views
        self.roles = self.build_roles(config, data, seed)
        self.model = self.network = model.to(views.device).requires_grad_(False)
        for head in classifiers(model):
            head.requires_grad_(True)

    @staticmethod
    def build_roles(config: ToyConfig, data: Data, seed: int) -> dict[str, Role]:
        """The labelled images, not mixed."""
        return {"labelled": labelled_role(config, config.augment, MixConfig(0, 0), data, seed)}

    def loss(self, batch: Mapping[str, DeviceBatch]) -> StepOutput:
        """Cross-entropy."""
        images = batch["labelled"]
        pixels = self._views.normalise(self._views.augment(images, 0), images.erase[0])  # [B, 3, S, S]
        with record("student"):
            logits = self.network(pixels)  # [B, C]
        loss = nn.functional.cross_entropy(logits.float(), images.labels)
        return StepOutput(loss, {"loss": Ratio(loss.detach(), 1)})

    def eval_models(self) -> dict[str, nn.Module]:
        """The network."""
        return {"model": self.model}

    def result(self) -> nn.Module:
        """The network."""
        return self.model
