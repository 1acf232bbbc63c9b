"""SST: a threshold for each class, from the confidences of the last pass over the images."""

from __future__ import annotations

import torch
from torch import Tensor

from fastsemi.stages.thresholds.base import PseudoLabels, ThresholdRule
from fastsemi.stages.thresholds.settings import SSTConfig


class SST(ThresholdRule):
    """Zhao et al., "SST: Self-training with Self-adaptive Thresholding for Semi-supervised Learning" (2025).

    After each pass over the unlabelled images the threshold of class c is `S * mean {o : label = c, o > C}`,
    over the pseudo labels of the pass. A class without such a pseudo label keeps its threshold; all have tau
    until the first pass has ended. A pass is as many pseudo labels as there are unlabelled images.

    Args:
        threshold: tau.
        config: C and S.
        classes: Number of classes.
        images: How many unlabelled images there are.
    """

    levels: Tensor  # float32 [classes] the thresholds
    found: Tensor  # float64 [1 + 2 classes] pseudo labels of the pass; of each class those above C; their sum

    def __init__(self, threshold: float, config: SSTConfig, classes: int, images: int):
        super().__init__(sums=1 + 2 * classes)
        self.config, self.classes, self.images = config, classes, images
        self.register_buffer("levels", torch.full((classes,), threshold))
        self.register_buffer("found", torch.zeros(1 + 2 * classes, dtype=torch.float64))

    def thresholds(self) -> Tensor:
        """The threshold of each class, float32 [classes]."""
        return self.levels

    def weights(self, labels: PseudoLabels) -> Tensor:
        """[o >= threshold of the label], [B]."""
        return (labels.confidence >= self.levels[labels.label]).float()

    def statistics(self, labels: PseudoLabels) -> Tensor:
        """How many there are, and how many and how confident those above C of each class are."""
        confidence = labels.confidence.double()
        above = (confidence > self.config.cutoff).double()
        of_class = above.new_zeros(2, self.classes)
        of_class[0].scatter_add_(0, labels.label, above)
        of_class[1].scatter_add_(0, labels.label, above * confidence)
        return torch.cat([torch.ones_like(confidence).sum()[None], of_class.flatten()])

    def learn(self, sums: Tensor) -> None:
        """Add a step to the pass; where that ends it, set the thresholds and begin another."""
        found = self.found + sums
        count, total = found[1:].split(self.classes)
        ended = found[0] >= self.images
        fresh = (self.config.factor * total / count.clamp(min=1)).float()
        self.levels.copy_(torch.where(ended & (count > 0), fresh, self.levels))
        self.found.copy_(torch.where(ended, torch.zeros_like(found), found))
