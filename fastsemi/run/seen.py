"""What a trained network makes of images: features, and the probability of each class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor, nn

from fastsemi.common.precision import Precision
from fastsemi.loaders.data import Data, ImageSet
from fastsemi.probing.features import frozen_features
from fastsemi.run.trained import temperature
from fastsemi.stages.inputs import Views


@dataclass(frozen=True)
class Seen:
    """The readable ones of some images."""

    x: NDArray[np.float32]  # [N, D] features, what the classifier sees
    shares: NDArray[np.float32]  # [N, C] probabilities, as `predict` gives them
    y: NDArray[np.int64]  # [N] class, -1 where unknown
    ids: NDArray[np.int64]  # [N] position in the index


class _WithLogits(nn.Module):
    """A timm network whose features end with its logits, so that images are looked at once."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward_features(self, images: Tensor) -> Tensor:
        """[B, 3, S, S] -> what the network's head takes."""
        return self.network.forward_features(images)  # type: ignore[operator]

    def forward_head(self, found: Tensor, pre_logits: bool) -> Tensor:
        """-> [B, D + C]."""
        network: nn.Module = self.network
        return torch.cat([network.forward_head(found, pre_logits=True), network.forward_head(found)], dim=1)  # type: ignore[operator]


def look(
    network: nn.Module,
    images: ImageSet,
    data: Data,
    views: Views,
    precision: Precision,
    *,
    classes: int,
    batch: int,
) -> Seen:
    """Look at each image once, through the evaluation crop.

    Args:
        network: Of `load_trained`.
        images: Which ones.
        data: Loads them.
        views: Normalises them.
        precision: Number format of the network.
        classes: How many the network tells apart.
        batch: Images per batch.
    """
    found = frozen_features(_WithLogits(network), images, images.ids, data, views, precision, batch=batch)
    x, logits = found.x[:, :-classes], found.x[:, -classes:]
    shares = softmax(logits / np.float32(temperature(network)), axis=1)
    return Seen(x, shares, found.y, found.ids)
