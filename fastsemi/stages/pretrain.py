"""Stage 1: self-supervised pretraining with a masked autoencoder, on all images, without labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from timm.models import VisionTransformer
from torch import nn

from fastsemi.data import Data
from fastsemi.errors import UserError
from fastsemi.loaders.plan import AugmentConfig, View
from fastsemi.loaders.stream import Stream
from fastsemi.models.adapt import classifiers
from fastsemi.models.mae import MaskedAutoencoder
from fastsemi.profiling.spans import record
from fastsemi.schedule import Duration
from fastsemi.stages.base import Ratio, Role, Stage, StageConfig, StepOutput
from fastsemi.views import DeviceBatch, Views


@dataclass(frozen=True)
class PretrainConfig(StageConfig):
    """Masked autoencoder (MAE)."""

    section = "pretrain"

    length: Duration = Duration("800 epochs")
    warmup: Duration = Duration("40 epochs")
    batch: int = 4096
    base_lr: float = 1.5e-4
    min_lr: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    mask_ratio: float = 0.75
    """Fraction of the patches that is hidden."""
    decoder_dim: int = 512
    """Width of the decoder."""
    decoder_depth: int = 8
    """Blocks of the decoder."""
    decoder_heads: int = 16
    """Attention heads of the decoder."""
    augment: AugmentConfig = field(
        default_factory=lambda: AugmentConfig(area=(0.2, 1.0), randaugment="", erase=0.0)
    )
    """The view that is masked: crop and flip."""

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        super().__post_init__()
        self.require("mask_ratio", 0 < self.mask_ratio < 1, "lie in (0, 1)")
        for name in ("decoder_dim", "decoder_depth", "decoder_heads"):
            self.require(name, getattr(self, name) >= 1, "be at least 1")
        divides = not (self.decoder_dim % self.decoder_heads or self.decoder_dim % 4)
        self.require(
            "decoder_dim", divides, f"be a multiple of 4 and of decoder_heads ({self.decoder_heads})"
        )


class Pretrain(Stage):
    """Trains the encoder to predict what it does not see."""

    name = "pretrain"

    def __init__(self, config: PretrainConfig, encoder: nn.Module, data: Data, views: Views, *, seed: int):
        if not isinstance(encoder, VisionTransformer):
            raise UserError(
                "the pretrain stage masks patches and needs a ViT; drop it from stages, or change model.name"
            )
        self.config: PretrainConfig = config
        self._views = views
        self.roles = self.build_roles(config, data, seed)
        self._encoder = encoder
        for head in classifiers(encoder):
            head.requires_grad_(False)  # not part of the loss: processes would wait for its gradient
        self.model = MaskedAutoencoder(
            encoder,
            mask_ratio=config.mask_ratio,
            decoder_dim=config.decoder_dim,
            decoder_depth=config.decoder_depth,
            decoder_heads=config.decoder_heads,
        ).to(views.device)
        self.network = self.model

    @staticmethod
    def build_roles(config: PretrainConfig, data: Data, seed: int) -> dict[str, Role]:
        """All images, one view."""
        images = data.pretraining
        stream = Stream(
            images.index,
            images.ids,
            config.batch,
            config.micro_batches,
            {View.PRETRAIN: config.augment},
            None,
            seed,
            data.config.image_size,
            "pretraining",
        )
        return {"pretrain": Role(images, stream)}

    def loss(self, batch: Mapping[str, DeviceBatch]) -> StepOutput:
        """Reconstruction error of the hidden patches."""
        images = batch["pretrain"]
        # The pixels are the target too, so they are not rounded to the network's input type.
        view = self._views.augment(images, 0)
        pixels = self._views.normalise(view, images.erase[0], torch.float32)  # [B, 3, S, S]
        with record("student"):
            loss = self.network(pixels)
        return StepOutput(loss, {"loss": Ratio(loss.detach(), 1)})

    def result(self) -> nn.Module:
        """The encoder, without the decoder."""
        return self._encoder
