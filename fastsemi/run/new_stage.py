"""A stage around a network that is new: what training and the estimate of its cost build alike."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from fastsemi.loaders.data import Data
from fastsemi.loaders.image_set import ImageSet
from fastsemi.models.create import checkpoint_activations, create_model, prefer_channels_last
from fastsemi.models.mae import initialise
from fastsemi.models.projected import classifier_of
from fastsemi.models.trainable import prepare_training
from fastsemi.parallel import processes
from fastsemi.run.config import Config
from fastsemi.run.order import STAGE_CLASSES, settings
from fastsemi.stages.base import Stage
from fastsemi.stages.inputs import Views
from fastsemi.stages.names import StageName, has_classifier


def new_model(config: Config, name: StageName, classes: int) -> nn.Module:
    """The classifier that a stage starts with, random; on the device of the context.

    Raises:
        UserError: Settings that no network has.
    """
    stage = settings(config, name)
    model = create_model(
        config.model,
        num_classes=classes,
        image_size=config.data.image_size,
        drop_path=getattr(stage, "drop_path", 0.0),
        keep_tokens=getattr(stage, "keep_tokens", 1.0),
    )
    if name == "pretrain" and config.pretrain.as_published:
        initialise(model)
    return model


def new_stage(
    config: Config,
    name: StageName,
    model: nn.Module,
    data: Data,
    views: Views,
    spread: ImageSet | None = None,
) -> Stage:
    """A stage that trains a model, on the device of the views.

    Args:
        config: The run.
        name: Which stage.
        model: With the weights that it starts from.
        data: The run's data.
        views: Prepare batches.
        spread: For fine-tuning, unlabelled images that label spreading labelled.

    Raises:
        UserError: The stage cannot train this model, or not on this data.
    """
    if has_classifier(name):
        prepare_training(model, config.model, seed=config.seed)
    if processes.world() == 1:  # shards and buckets of several processes want plain rows
        prefer_channels_last(model, config.data.image_size, views.device)
    build: Callable[..., Stage] = STAGE_CLASSES[name]
    further = {} if spread is None else {"spread": spread}
    stage = build(settings(config, name), model, data, views, seed=config.seed, **further)
    if config.model.activation_checkpointing:  # the teacher is a copy made before, and needs none
        checkpoint_activations(classifier_of(stage.model), config.model.name)
    return stage
