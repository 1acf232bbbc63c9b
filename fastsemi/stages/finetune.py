"""Stage 2: supervised fine-tuning on the labelled images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fastsemi.common.spans import record
from fastsemi.loaders.data import Data, ImageSet
from fastsemi.stages.base import Ratio, Role, Stage, StepOutput
from fastsemi.stages.finetune_config import FinetuneConfig
from fastsemi.stages.inputs import DeviceBatch, Views
from fastsemi.stages.logit_adjustment import create_adjustment
from fastsemi.stages.mixed_batch import MixedBatch
from fastsemi.stages.roles import labelled_role, spread_role, with_image_sizes
from fastsemi.stages.teacher import EMATeacher


def mix_labelled(batch: DeviceBatch, views: Views) -> MixedBatch:
    """Augment labelled images and mix them by Beta-distributed weights (eq. 3)."""
    images, labels, mix = views.augment(batch, 0), batch.labels, batch.mix
    ones = torch.ones(len(labels), device=labels.device)
    if mix is None:
        return MixedBatch(views.normalise(images, batch.erase[0]), labels, labels, ones, ones)
    mixed, lam = views.mix(images, mix, batch.erase[0])
    return MixedBatch(mixed, labels, labels[mix.partner], lam, ones)


class Finetune(Stage):
    """Plain supervised training, with an optional average of the weights.

    Args:
        config: Its settings.
        model: What to train.
        data: The run's data.
        views: Prepares batches.
        seed: Of the run.
        spread: Unlabelled images with labels to learn from besides.
    """

    name = "finetune"

    def __init__(
        self,
        config: FinetuneConfig,
        model: nn.Module,
        data: Data,
        views: Views,
        *,
        seed: int,
        spread: ImageSet | None = None,
    ):
        self.config: FinetuneConfig = config
        self._views = views
        self.roles = self.build_roles(config, data, seed)
        if spread is not None:
            sizes = self.roles["labelled"].stream.sizes
            self.roles["spread"] = spread_role(config, spread, data, seed, sizes)
        self.model = self.network = model.to(views.device)
        self.adjustment = create_adjustment(config.logit_adjustment, data).to(views.device)
        self._average = EMATeacher(self.model, config.ema) if config.ema else None

    @staticmethod
    def build_roles(config: FinetuneConfig, data: Data, seed: int) -> dict[str, Role]:
        """The labelled images."""
        labelled = labelled_role(config, config.augment, config.mix, data, seed)
        return with_image_sizes(config, {"labelled": labelled})

    def loss(self, batch: Mapping[str, DeviceBatch]) -> StepOutput:
        """Cross-entropy of the mixed images: labelled ones, and those that label spreading labelled."""
        mixed = [mix_labelled(part, self._views) for part in batch.values()]
        with record("student"):
            images = [part.images for part in mixed]
            logits = self.network(torch.cat(images) if len(images) > 1 else images[0])
        smoothing, kernels = self.config.label_smoothing, self._views.kernels
        labelled, *spread = logits.split([len(part.label) for part in mixed])
        parts = zip(mixed, [self.adjustment(labelled), *spread], strict=True)
        loss = torch.cat([part.losses(found, smoothing, kernels) for part, found in parts]).mean()
        return StepOutput(loss, {"loss": Ratio(loss.detach(), 1)})

    def after_update(self, skipped: Tensor | None = None) -> None:
        """Update the average."""
        if self._average:
            self._average.update(self.model, skipped)

    def eval_models(self) -> dict[str, nn.Module]:
        """The network, and its average where there is one."""
        averaged = {"ema": self._average.model} if self._average else {}
        return {"model": self.model, **averaged}

    def result(self) -> nn.Module:
        """The average of the weights where there is one, else the network."""
        return self._average.model if self._average else self.model

    def extra_state(self) -> dict[str, Any]:
        """The average."""
        return {"average": self._average.model.state_dict()} if self._average else {}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Take back the average."""
        if self._average:
            self._average.model.load_state_dict(state["average"])
