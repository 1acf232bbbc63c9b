"""What the log says of pseudo labels."""

from __future__ import annotations

import torch
from torch import Tensor

from fastsemi.stages.base import Ratio
from fastsemi.stages.thresholds.base import PseudoLabels

BY_CLASS = 100  # classes up to which each is logged


def pseudo_label_metrics(
    pseudo: PseudoLabels, trusted: Tensor, weight: Tensor, truth: Tensor, classes: int
) -> dict[str, Ratio]:
    """How much samples count, and how good pseudo labels are where the truth is known.

    Args:
        pseudo: Of a micro-batch.
        trusted: [Nu] how much each pseudo label counts.
        weight: [Nu] how much each mixed sample counts.
        truth: int64 [Nu], -1 where unknown.
        classes: C.

    Returns:
        Those that end in `_by_class` are [C], by the class of the pseudo label; of up to `BY_CLASS` classes.
    """
    known = truth >= 0
    confident = (trusted > 0) & known
    right = (confident & (pseudo.label == truth)).sum()
    by_class = {}
    if classes <= BY_CLASS:
        zeros = pseudo.confidence.new_zeros(3, classes)
        kinds = torch.stack([trusted > 0, confident, confident & (pseudo.label == truth)]).to(zeros)
        taken, known_of, right_of = zeros.index_add_(1, pseudo.label, kinds)
        by_class = {
            "pseudo_label_share_by_class": Ratio(taken, taken.sum().expand(classes)),
            "pseudo_label_accuracy_by_class": Ratio(right_of, known_of),
        }
    return {
        "acceptance": Ratio(weight.sum(), weight.numel()),
        "confidence": Ratio(pseudo.confidence.sum(), weight.numel()),
        "pseudo_label_accuracy": Ratio(right, confident.sum()),
        "pseudo_label_recall": Ratio(right, known.sum()),
        **by_class,
    }
