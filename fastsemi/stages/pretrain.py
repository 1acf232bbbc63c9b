"""Stage 1: self-supervised pretraining with a masked autoencoder, on all images, without labels."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from timm.models import VisionTransformer
from torch import nn

from fastsemi.common.errors import UserError
from fastsemi.common.spans import record
from fastsemi.loaders.data import Data
from fastsemi.loaders.plan.draws import View
from fastsemi.loaders.stream import Stream
from fastsemi.models.adapt import classifiers
from fastsemi.models.mae import MaskedAutoencoder
from fastsemi.stages.base import Ratio, Role, Stage, StepOutput
from fastsemi.stages.inputs import DeviceBatch, Views
from fastsemi.stages.pretrain_config import PretrainConfig


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
            as_published=config.as_published,
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
            drop_last=config.drop_last,
        )
        return {"pretrain": Role(images, stream)}

    def loss(self, batch: Mapping[str, DeviceBatch]) -> StepOutput:
        """Reconstruction error of the hidden patches."""
        images = batch["pretrain"]
        # The pixels are the target too, so they are not rounded to the network's input type.
        view = self._views.augment(images, 0)
        pixels = self._views.normalise(view, images.erase[0], torch.float32)  # [B, 3, S, S]
        with record("student"):
            loss = self.network(pixels, images.hide)
        return StepOutput(loss, {"loss": Ratio(loss.detach(), 1)})

    def result(self) -> nn.Module:
        """The encoder, without the decoder."""
        return self._encoder
