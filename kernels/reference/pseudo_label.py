"""Pseudo labels and their confidence, the specification of `kernels.pseudo_label`."""

from __future__ import annotations

import torch
from torch import Tensor


def pseudo_label(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Hard label and confidence of each sample: `argmax p` and `max p` of `p = softmax(logits)`.

    The softmax is taken in float32, where its largest entry is `1 / sum(exp(x - max x))`.

    Args:
        logits: [B, C], any float type.

    Returns:
        label int64 [B], the first of equal maxima; confidence float32 [B] (NaN where a logit is NaN).
    """
    scores = logits.detach().float()
    label = scores.argmax(dim=1)
    total = torch.exp(scores - scores.amax(dim=1, keepdim=True)).sum(dim=1)
    return label, total.reciprocal()
