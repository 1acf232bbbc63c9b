"""A classifier with a second, small head that projects its features: what contrastive losses compare."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastsemi.common.errors import UserError

HIDDEN = 128
DIMENSIONS = 64


class Projected(nn.Module):
    """Gives logits and projections of the same features in one pass.

    The projection head of Chen et al., "A Simple Framework for Contrastive Learning" (2020), section 2.1: two
    linear layers with a ReLU between them, of unit length. Evaluation and export use `classifier` alone.

    Args:
        classifier: A timm network whose classifier is one module.

    Raises:
        UserError: The network has no features before a classifier.
    """

    def __init__(self, classifier: nn.Module):
        super().__init__()
        if not isinstance(classifier.get_classifier(), nn.Linear):  # type: ignore[operator]
            raise UserError("semi.contrast needs a network that ends in one linear layer; set it to 0")
        self.classifier = classifier
        width: int = classifier.get_classifier().in_features  # type: ignore[operator]
        self.projector = nn.Sequential(nn.Linear(width, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, DIMENSIONS))

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, S, S] -> [B, C + P]: C logits, then P numbers of unit length."""
        network: Any = self.classifier
        features = network.forward_head(network.forward_features(images), pre_logits=True)
        logits, projection = network.get_classifier()(features), self.projector(features)
        return torch.cat([logits, F.normalize(projection.to(logits.dtype), dim=1)], dim=1)


def split(output: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [B, C] and projections [B, P] of what `Projected` gave."""
    return output[:, :-DIMENSIONS], output[:, -DIMENSIONS:]


def classifier_of(network: nn.Module) -> nn.Module:
    """The classifier inside, or the network itself."""
    return network.classifier if isinstance(network, Projected) else network
