"""Numbers that describe an image: pixels, or what a frozen network makes of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from fastsemi.common.precision import Precision
from fastsemi.loaders.data import Data, ImageSet
from fastsemi.loaders.plan.types import PlannedBatch
from fastsemi.loaders.stream import evaluation_batches
from fastsemi.stages.inputs import Views

PIXELS = 32  # side that larger images are averaged down to: more pixels only add noise to simple classifiers


@dataclass(frozen=True)
class FeatureSet:
    """The readable images of a set."""

    x: NDArray[np.float32]  # [N, D]
    y: NDArray[np.int64]  # [N] class, -1 where unknown
    ids: NDArray[np.int64]  # [N] position in the index


@torch.no_grad()
def frozen_features(
    network: nn.Module | None,
    images: ImageSet,
    ids: NDArray[np.int64],
    data: Data,
    views: Views,
    precision: Precision,
    *,
    batch: int,
    plans: Iterable[PlannedBatch] | None = None,
) -> FeatureSet:
    """Look at each image once, through the evaluation crop or as planned.

    Args:
        network: A timm network, whose input to the classifier is taken; None for the pixels.
        images: Where the images are.
        ids: Which of them, [N].
        data: Loads them.
        views: Normalises them.
        precision: Number format of the network.
        batch: Images per batch.
        plans: Of these images, one view each; None for the evaluation crop.
    """
    if plans is None:
        plans = evaluation_batches(images.index, ids, batch, data.config.eval_crop, data.config.resized_to)
    x, y, which = [], [], []
    mode = network.training if network else False
    if network:
        network.eval()
    with data.load(images, plans, allow_empty=True) as loader:
        for loaded in loader:
            on_device = views.to_device(loaded)
            pixels = views.normalise(on_device.images[0])
            with precision.autocast():
                found = head_input(network, pixels) if network else _small(pixels)
            valid = on_device.valid.cpu()
            x.append(found.float().cpu()[valid])
            y.append(on_device.labels.cpu()[valid])
            which.append(on_device.ids.cpu()[valid])
    if network:
        network.train(mode)
    if not x:
        none = np.zeros(0, np.int64)
        return FeatureSet(np.zeros((0, 1), np.float32), none, none)
    return FeatureSet(torch.cat(x).numpy(), torch.cat(y).numpy(), torch.cat(which).numpy())


def head_input(network: nn.Module, images: Tensor) -> Tensor:
    """What the classifier of a timm network sees, [B, 3, S, S] -> [B, D]: pooled and normalised."""
    return network.forward_head(network.forward_features(images), pre_logits=True)  # type: ignore[operator]


def _small(images: Tensor) -> Tensor:
    """Pixels as a row each, of an image no larger than PIXELS."""
    if images.shape[-1] > PIXELS:
        images = F.interpolate(images.float(), size=(PIXELS, PIXELS), mode="area")
    return images.flatten(1)
