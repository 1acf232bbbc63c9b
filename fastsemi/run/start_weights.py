"""The weights that a run starts from, and whether they fit its network, found out without memory for it."""

from __future__ import annotations

import torch

from fastsemi.models.formats import Weights
from fastsemi.models.pretrained import is_cached, look_alikes, published_name, published_weights
from fastsemi.models.settings import ModelConfig
from fastsemi.models.trainable import prepare_training
from fastsemi.models.weights import LoadReport, fit_backbone, read_weights
from fastsemi.run.config import Config
from fastsemi.run.new_stage import new_model
from fastsemi.stages.names import StageName, has_classifier


def start_weights(model: ModelConfig) -> tuple[str, Weights] | None:
    """Given or published weights, and what to call them; None for a network that starts random.

    Raises:
        UserError: They are not to be had.
    """
    if model.weights:
        return str(model.weights), read_weights(model.weights)
    if model.pretrained:
        where = published_name(model.name, model.pretrained)
        return where, published_weights(where)
    return None


def are_here(model: ModelConfig) -> bool:
    """Whether weights are on this machine, so that looking at them downloads nothing."""
    if model.weights:
        return model.weights.is_file()
    return bool(model.pretrained) and is_cached(published_name(model.name, model.pretrained))


def check_network(
    config: Config, name: StageName, classes: int, start: tuple[str, Weights] | None = None
) -> LoadReport | None:
    """Build the network of a stage on the meta device, and see whether weights fit and all can be trained.

    Args:
        config: The run.
        name: Which stage.
        classes: Number of classes, C.
        start: What `start_weights` gave, if it is to be looked at.

    Returns:
        What would happen to the weights' tensors.

    Raises:
        UserError: What training would refuse.
    """
    report = None
    with torch.device("meta"):
        model = new_model(config, name, classes)
    if start is not None:
        where, weights = start
        _, report = fit_backbone(
            model,
            weights,
            where=where,
            keep_head=config.model.keep_head,
            fresh_norm=config.model.fc_norm == "fresh",
        )
    if has_classifier(name):
        prepare_training(model, config.model, seed=config.seed)
    return report


def doubt(model: ModelConfig) -> str | None:
    """A warning where a file may be of another network, which neither names nor shapes would show."""
    others = look_alikes(model.name) if model.weights else []
    if not others:
        return None
    return (
        f"tensors of {model.name} and of {' or '.join(others)} look alike, so that the other's weights would "
        "load without an error; make sure that model.name is what they were trained with"
    )
