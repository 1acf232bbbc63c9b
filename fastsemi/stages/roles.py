"""The image streams that supervised and semi-supervised training draw from."""

from __future__ import annotations

from dataclasses import replace

from fastsemi.loaders.data import Data, ImageSet
from fastsemi.loaders.image_sizes import ImageSizes
from fastsemi.loaders.plan.draws import AugmentConfig, View
from fastsemi.loaders.plan.mixing import MixConfig
from fastsemi.loaders.stream import Stream
from fastsemi.stages.base import Role, make_schedule
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


def spread_role(
    config: FinetuneConfig, images: ImageSet, data: Data, seed: int, sizes: ImageSizes | None
) -> Role:
    """The stream of unlabelled images with the labels of label spreading; `sizes` as of `Stream`."""
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
        sizes=sizes,
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
        first_view_every=config.label_passes,
    )
    return Role(images, stream)


def with_image_sizes(config: LabelledStageConfig, roles: dict[str, Role]) -> dict[str, Role]:
    """The streams of a stage with the sides of the views by step, where it begins with smaller ones.

    Args:
        config: The stage.
        roles: Its streams; the first one's passes are the stage's epochs.

    Raises:
        UserError: The stage has fewer steps than sizes.
    """
    if not config.image_sizes:
        return roles
    total = make_schedule(config, next(iter(roles.values())).stream).total_steps
    config.require(
        "image_sizes",
        len(config.image_sizes) <= total,
        f"have no more sizes than {config.section}.length has steps, which is {total}",
    )
    sizes = ImageSizes(config.image_sizes, total)
    return {name: Role(role.images, replace(role.stream, sizes=sizes)) for name, role in roles.items()}
