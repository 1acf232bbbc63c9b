"""What the log says of pseudo labels."""

from __future__ import annotations

from torch import Tensor

from fastsemi.stages.base import Ratio
from fastsemi.stages.thresholds.base import PseudoLabels


def pseudo_label_metrics(
    pseudo: PseudoLabels, trusted: Tensor, weight: Tensor, truth: Tensor
) -> dict[str, Ratio]:
    """How much samples count, and how good pseudo labels are where the truth is known.

    Args:
        pseudo: Of a micro-batch.
        trusted: [Nu] how much each pseudo label counts.
        weight: [Nu] how much each mixed sample counts.
        truth: int64 [Nu], -1 where unknown.
    """
    known = truth >= 0
    confident = (trusted > 0) & known
    right = (confident & (pseudo.label == truth)).sum()
    return {
        "acceptance": Ratio(weight.sum(), weight.numel()),
        "confidence": Ratio(pseudo.confidence.sum(), weight.numel()),
        "pseudo_label_accuracy": Ratio(right, confident.sum()),
        "pseudo_label_recall": Ratio(right, known.sum()),
    }
