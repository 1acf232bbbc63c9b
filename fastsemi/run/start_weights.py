"""The weights that a run starts from, and whether they fit its network, found out without memory for it."""

from __future__ import annotations

import torch

from fastsemi.models.formats import TIMM, Weights
from fastsemi.models.image_sizes import require_image_sizes
from fastsemi.models.norm_values import require_norm_values
from fastsemi.models.preprocessing import beside
from fastsemi.models.pretrained import (
    is_cached,
    look_alikes,
    published_name,
    published_weights,
    usual_preprocessing,
)
from fastsemi.models.settings import ModelConfig
from fastsemi.models.token_merging import require_plain_blocks
from fastsemi.models.trainable import prepare_training
from fastsemi.models.weights import LoadReport, fit_backbone, read_weights
from fastsemi.run.config import Config
from fastsemi.run.new_stage import new_model
from fastsemi.run.order import settings
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
    if sizes := getattr(settings(config, name), "image_sizes", ()):
        require_image_sizes(model, config.model.name, sizes, f"{name}.image_sizes")
    if merged := getattr(settings(config, name), "merge_tokens", 0):
        require_plain_blocks(model, merged)
    if has_classifier(name):
        prepare_training(model, config.model, seed=config.seed)
    if sees_one_image(config, name):
        section = settings(config, name)
        smallest = (*getattr(section, "image_sizes", ()), config.data.image_size)[0]
        divided = f" over {name}.micro_batches" if section.micro_batches > 1 else ""
        require_norm_values(model, config.model.name, smallest, f"{name}.batch{divided}")
    return report


def sees_one_image(config: Config, name: StageName) -> bool:
    """Whether a micro-batch of a stage has one image; the semi stage adds unlabelled ones."""
    section = settings(config, name)
    alone = name == "finetune" and not config.finetune.spread_ratio
    return alone and section.batch == section.micro_batches


def summary(config: Config, report: LoadReport) -> str:
    """What came of weights, and whether images are prepared as the settings beside the file say."""
    weights, data = config.model.weights, config.data
    said = beside(weights) if weights else None
    if said is None or (said.mean, said.std) != (tuple(data.mean), tuple(data.std)):
        return report.summary()
    return f"{report.summary()}; data.mean and data.std as config.json beside it says"


def doubts(config: Config, form: str) -> list[str]:
    """Warnings where a file may be of another network or of other images, which tensors would not show.

    Args:
        config: The run.
        form: `LoadReport.format` of the weights.
    """
    model, data = config.model, config.data
    if not model.weights:
        return []
    texts = []
    if others := look_alikes(model.name):
        texts.append(
            f"tensors of {model.name} and of {' or '.join(others)} look alike, so that the other's weights "
            "would load without an error; make sure that model.name is what they were trained with"
        )
    usual = usual_preprocessing(model.name) if form in TIMM and beside(model.weights) is None else None
    if usual and (usual.mean, usual.std) != (tuple(data.mean), tuple(data.std)):
        mean, std = list(usual.mean), list(usual.std)
        texts.append(
            f"timm's weights of {model.name} learnt from images with data.mean {mean} and data.std {std}, "
            f"here they are {list(data.mean)} and {list(data.std)}; set both if the weights are timm's"
        )
    return texts
