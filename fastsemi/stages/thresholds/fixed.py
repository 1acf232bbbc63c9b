"""The paper's rule: one threshold."""

from __future__ import annotations

from torch import Tensor

from fastsemi.stages.thresholds.base import PseudoLabels, ThresholdRule


class Fixed(ThresholdRule):
    """A pseudo label counts where `o >= tau` (eq. 2 of Semi-ViT).

    Args:
        threshold: tau.
    """

    def __init__(self, threshold: float):
        super().__init__()
        self.threshold = threshold

    def weights(self, labels: PseudoLabels) -> Tensor:
        """[o >= tau], [B]."""
        return (labels.confidence >= self.threshold).float()
