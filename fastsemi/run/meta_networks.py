"""The networks of a stage on the meta device: shapes and types without memory."""

from __future__ import annotations

import copy

import torch
from timm.models import VisionTransformer
from torch import nn

from fastsemi.common.errors import UserError
from fastsemi.models.create import checkpoint_activations, create_model
from fastsemi.models.mae import MaskedAutoencoder
from fastsemi.run.config import Config, StageName


def meta_network(config: Config, stage: StageName, classes: int) -> nn.Module:
    """What a stage trains, on the meta device and in training mode.

    Args:
        config: The run.
        stage: Which stage.
        classes: Number of classes, C.

    Returns:
        `[B, 3, S, S] -> [B, C]`, or for the pretrain stage the masked autoencoder, `[B, 3, S, S] -> loss`.

    Raises:
        UserError: The model refuses its settings, or has no patches to mask.
    """
    settings = getattr(config, stage)
    with torch.device("meta"):
        model = create_model(
            config.model,
            num_classes=classes,
            image_size=config.data.image_size,
            drop_path=getattr(settings, "drop_path", 0.0),
        )
        if stage == "pretrain":
            if not isinstance(model, VisionTransformer):
                raise UserError(
                    f"the pretrain stage masks patches and needs a ViT, not {config.model.name}; drop it "
                    "from stages, or change model.name"
                )
            model = MaskedAutoencoder(
                model,
                mask_ratio=config.pretrain.mask_ratio,
                decoder_dim=config.pretrain.decoder_dim,
                decoder_depth=config.pretrain.decoder_depth,
                decoder_heads=config.pretrain.decoder_heads,
            )
    return model.train()


def trained(network: nn.Module, config: Config) -> nn.Module:
    """The network as a stage trains it: with activation checkpointing where the configuration asks for it."""
    if config.model.activation_checkpointing:
        checkpoint_activations(network, config.model.name)
    return network


def frozen_copy(network: nn.Module) -> nn.Module:
    """A teacher of the network: a copy in evaluation mode without gradients."""
    return copy.deepcopy(network).eval().requires_grad_(False)


def has_copy(config: Config, stage: StageName) -> bool:
    """Whether the stage keeps a second set of weights: the teacher, or fine-tuning's average."""
    return stage == "semi" or (stage == "finetune" and config.finetune.ema > 0)


def micro_batch(config: Config, stage: StageName) -> tuple[int, int]:
    """Images of one micro-batch: (labelled or pretraining, unlabelled).

    Raises:
        UserError: The batch does not divide into its micro-batches.
    """
    settings = getattr(config, stage)
    if settings.batch % settings.micro_batches:
        raise UserError(
            f"{stage}.batch of {settings.batch} does not divide into {settings.micro_batches} micro-batches; "
            f"change {stage}.micro_batches to a divisor"
        )
    images = settings.batch // settings.micro_batches
    return images, images * config.semi.unlabelled_ratio if stage == "semi" else 0


class NetworkKey:
    """What a trace of a stage depends on; a configuration holds a dictionary and cannot be a key itself."""

    def __init__(
        self,
        config: Config,
        stage: StageName,
        classes: int,
        dtype: torch.dtype = torch.float32,
        fused: bool = True,
    ):
        self.config, self.stage, self.classes, self.dtype, self.fused = config, stage, classes, dtype, fused
        settings = getattr(config, stage)
        decoder = settings if stage == "pretrain" else getattr(settings, "drop_path", 0) > 0
        size, images = config.data.image_size, micro_batch(config, stage)
        teacher = config.semi.teacher_dtype
        self._text = repr((stage, classes, dtype, fused, config.model, size, images, decoder, teacher))

    def __hash__(self) -> int:
        return hash(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NetworkKey) and self._text == other._text
