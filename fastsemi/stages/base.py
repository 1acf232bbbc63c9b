"""What the trainer asks of a stage, and the settings that all stages share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from fastsemi.common.schedule import CosineSchedule
from fastsemi.loaders.data import Data, ImageSet
from fastsemi.loaders.stream import Stream
from fastsemi.stages.inputs import DeviceBatch
from fastsemi.stages.stage_config import StageConfig


@dataclass(frozen=True)
class Ratio:
    """A metric as numerator and denominator, so that it adds up over micro-batches, steps and ranks."""

    total: Tensor  # scalar, or [C] one for each class
    count: Tensor | int  # as `total`


@dataclass(frozen=True)
class StepOutput:
    """What a micro-batch gives."""

    loss: Tensor  # scalar, to minimise
    metrics: dict[str, Ratio] = field(default_factory=dict)

    def losses(self) -> dict[str, Tensor]:
        """The parts of the loss that are logged, and the loss itself last; scalars by name."""
        parts = {name: ratio.total for name, ratio in self.metrics.items() if name.startswith("loss_")}
        return {**parts, "the loss": self.loss.detach()}


@dataclass(frozen=True, eq=False)
class Role:
    """One of the image streams that a stage draws micro-batches from."""

    images: ImageSet
    stream: Stream


class Stage(ABC):
    """A stage owns its networks, its loss and what follows an update; the loop is the trainer's.

    Attributes:
        name: Key in files, logs and configuration.
        config: Its settings.
        roles: Its image streams by name; the first one's passes are the stage's epochs.
        model: What the optimizer trains; its parameters are what a checkpoint holds.
        network: What the loss calls: the model, or the model wrapped (for several ranks, say).
    """

    name: str
    config: StageConfig
    roles: Mapping[str, Role]
    model: nn.Module
    network: nn.Module

    @staticmethod
    @abstractmethod
    def build_roles(config: Any, data: Data, seed: int) -> dict[str, Role]:
        """The streams of a stage; needs the data, but no network."""

    @abstractmethod
    def loss(self, batch: Mapping[str, DeviceBatch]) -> StepOutput:
        """Loss and metrics of one micro-batch, given a batch of each role."""

    def after_update(self, skipped: Tensor | None = None) -> None:
        """Called after each optimizer step; `skipped` is [] bool where loss scaling may have refused it."""

    def eval_models(self) -> dict[str, nn.Module]:
        """Classifiers to evaluate, by name; none for a stage without labels."""
        return {}

    def followers(self) -> list[nn.Module]:
        """Networks that follow the model; processes share them out as they do the model."""
        return [model for model in self.eval_models().values() if model is not self.model]

    @abstractmethod
    def result(self) -> nn.Module:
        """The network that the next stage starts from."""

    def extra_state(self) -> dict[str, Any]:
        """What a checkpoint must hold besides model and optimizer."""
        return {}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Take back what `extra_state` gave."""

    @property
    def main_stream(self) -> Stream:
        """The stream whose images are counted: unlabelled ones in the semi stage."""
        return next(iter(self.roles.values())).stream

    @property
    def steps_per_epoch(self) -> float:
        """Optimizer steps in one pass over the main stream's images."""
        return self.main_stream.steps_per_pass

    @property
    def schedule(self) -> CosineSchedule:
        """Learning rate by step."""
        return make_schedule(self.config, self.main_stream)


def make_schedule(config: StageConfig, stream: Stream) -> CosineSchedule:
    """The learning rates of a stage whose epochs are passes over a stream.

    Raises:
        UserError: The warm-up is as long as the stage.
    """
    per_epoch = stream.steps_per_pass
    warmup, total = config.warmup.steps(per_epoch), max(1, config.length.steps(per_epoch))
    config.require(
        "warmup", warmup < total, f"be shorter than {config.section}.length, which is {total} steps"
    )
    return CosineSchedule(config.peak_lr, config.min_lr, warmup, total, config.rate_at == "start")
