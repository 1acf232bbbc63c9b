"""A toy rule: the more confident half of the pseudo labels counts."""

from __future__ import annotations

from torch import Tensor

from fastsemi.stages.thresholds.base import PseudoLabels, ThresholdRule


class Toy(ThresholdRule):
    """A pseudo label counts where `o >= median o` of its micro-batch."""

    def weights(self, labels: PseudoLabels) -> Tensor:
        """[o >= median o], [B]."""
        return (labels.confidence >= labels.confidence.median()).float()
