"""The image streams that supervised and semi-supervised training draw from."""

from __future__ import annotations

from fastsemi.loaders.data import Data, ImageSet
from fastsemi.loaders.plan.draws import AugmentConfig, View
from fastsemi.loaders.plan.mixing import MixConfig
from fastsemi.loaders.stream import Stream
from fastsemi.stages.base import Role
from fastsemi.stages.finetune_config import FinetuneConfig
from fastsemi.stages.semi_config import SemiConfig
from fastsemi.stages.stage_config import LabelledStageConfig, StageConfig


def labelled_role(
    config: StageConfig, augment: AugmentConfig, mix: MixConfig, data: Data, seed: int, *, restart: int = 0
) -> Role:
    """The stream of labelled images; `restart` as of `Stream`."""
    images = data.labelled
    views = {View.LABELLED: augment}
    size = data.config.image_size
    balanced = isinstance(config, LabelledStageConfig) and config.balanced
    stream = Stream(
        images.index,
        images.ids,
        config.batch,
        config.micro_batches,
        views,
        mix,
        seed,
        size,
        balanced=balanced,
        drop_last=config.drop_last,
        restart=restart,
    )
    return Role(images, stream)


def spread_role(config: FinetuneConfig, images: ImageSet, data: Data, seed: int) -> Role:
    """The stream of unlabelled images with the labels of label spreading."""
    stream = Stream(
        images.index,
        images.ids,
        config.batch * config.spread_ratio,
        config.micro_batches,
        {View.STRONG: config.augment},
        config.mix,
        seed,
        data.config.image_size,
        "spread",
        drop_last=config.drop_last,
    )
    return Role(images, stream)


def unlabelled_role(config: SemiConfig, data: Data, seed: int) -> Role:
    """The stream of unlabelled images: a weak view for the teacher, a strong one for the student."""
    images = data.unlabelled
    stream = Stream(
        images.index,
        images.ids,
        config.batch * config.unlabelled_ratio,
        config.micro_batches,
        {View.WEAK: config.weak, View.STRONG: config.strong},
        config.mix if config.mixing != "none" else MixConfig(),
        seed,
        data.config.image_size,
        "unlabelled",
        drop_last=config.drop_last,
    )
    return Role(images, stream)
